"""Packing: what runs learn together is what each learns alone, whatever their ranks, rates, seeds, and who leaves."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from evaluators import packing
from evaluators.evaluation import EvaluatorSpec
from evaluators.packable import shape_of
from evaluators.packing import Pack, PackedCrew, why_not
from evaluators.trained import TrainedEvaluator, TrainedRun
from search_space.errors import UnsupportedError
from search_space.notation import parse
from tests.evaluators.tiny import evaluator_spec

RANKS = ("lora(r=2) | lr=0.01", "lora(r=4) | lr=0.03", "lora(r=8,alpha=64) | lr=0.002 mixup=0.3")
SERIAL = ("serial_adapter(r=2) | lr=0.01", "serial_adapter(r=8) | lr=0.03", "serial_adapter(r=4) | lr=0.02")
PARALLEL = tuple(
    f"parallel_adapter({knobs})@{{place}} | lr={rate}"
    for knobs, rate in (("r=8", 0.01), ("r=2,scaling=2", 0.03), ("r=4", 0.02))
)
HYBRID = (
    "lora(r=2) + serial_adapter(r=4)@attention.query,mlp.down | lr=0.01/0.02",
    "lora(r=8) + serial_adapter(r=2)@attention.query,mlp.down | lr=0.03/0.01",
)
PLUS = (
    "lora_plus(r=2,ratio=2) | lr=0.003",
    "lora_plus(r=8,ratio=16,use_rslora=true) | lr=0.001 label_smoothing=0.1 weight_decay=0.1 head_lr=0.01",
)
TOP = tuple(text.replace(" |", "@linear[top:1] |") for text in RANKS)
close = partial(torch.testing.assert_close, rtol=2e-3, atol=2e-5)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> EvaluatorSpec:
    return evaluator_spec(tmp_path_factory.mktemp("study"), num_labels=3)


@pytest.fixture(scope="module")
def evaluator(spec: EvaluatorSpec) -> TrainedEvaluator:
    return TrainedEvaluator(spec)


def runs_of(evaluator: TrainedEvaluator, *texts: str) -> list[TrainedRun]:
    """Start runs, each with a seed of its own."""
    return [evaluator.start(parse(text), seed) for seed, text in enumerate(texts)]


def assert_same(one: TrainedRun, other: TrainedRun) -> None:
    assert (one.step, one.schedule.get_last_lr()) == (other.step, other.schedule.get_last_lr())
    for mine, theirs in zip(one.attached.trainable, other.attached.trainable, strict=True):
        close(mine, theirs)


@pytest.mark.parametrize(
    "texts",
    [
        pytest.param(RANKS, id="whole"),
        pytest.param(TOP, id="from stored states"),
        pytest.param(PLUS, id="LoRA+"),
        pytest.param(SERIAL, id="serial adapters"),
        *(
            pytest.param(tuple(one.format(place=place) for one in PARALLEL), id=f"parallel adapters on {place}")
            for place in ("mlp.down", "linear")
        ),
        pytest.param(HYBRID, id="hybrid"),
    ],
)
def test_together_is_as_apart(evaluator: TrainedEvaluator, texts: tuple[str, ...]) -> None:
    together, apart = runs_of(evaluator, *texts), runs_of(evaluator, *texts)
    before = [one.detach().clone() for one in together[0].attached.trainable]
    Pack(together).train(6)
    for run in apart:
        run.train(6)
    for one, other in zip(together, apart, strict=True):
        assert_same(one, other)
        assert one.advance(12)["nll"] == pytest.approx(other.advance(12)["nll"], rel=1e-2)
    assert any((one - old).abs().max() > 1e-3 for one, old in zip(together[0].attached.trainable, before, strict=True))


@pytest.mark.parametrize("texts", [RANKS, PLUS, SERIAL, HYBRID, TOP])
def test_what_was_built_goes_together_where_shapes_say_so(evaluator: TrainedEvaluator, texts: tuple[str, ...]) -> None:
    assert len({shape_of(parse(one)) for one in texts}) == 1
    assert shape_of(parse(texts[0])) is not None
    assert why_not(runs_of(evaluator, *texts)) == ""


def test_runs_of_one_seed_see_the_same_examples(evaluator: TrainedEvaluator) -> None:
    together, apart = ([evaluator.start(parse(text), 3) for text in TOP] for _ in range(2))
    Pack(together).train(6)
    for one, other in zip(together, apart, strict=True):
        other.train(6)
        assert_same(one, other)


def test_who_stops_early_leaves_the_others_as_they_are(evaluator: TrainedEvaluator) -> None:
    together, apart = runs_of(evaluator, *RANKS), runs_of(evaluator, *RANKS)
    pack = Pack(together)
    pack.train(3)
    pack.drop(together[1])
    pack.train(6)
    for run, until in zip(apart, (6, 3, 6), strict=True):
        run.train(until)
    for one, other in zip(together, apart, strict=True):
        assert_same(one, other)


def test_who_diverges_fails_alone(evaluator: TrainedEvaluator) -> None:
    together, apart = runs_of(evaluator, *RANKS), runs_of(evaluator, *RANKS)
    pack = Pack(together)
    pack.train(2)
    with torch.no_grad():
        together[0].attached.trainable[0].fill_(torch.inf)
    pack.train(5)
    assert [(run.step, error.cause) for run, error in pack.failed.items()] == [(3, "diverged")]
    assert pack.runs == together[1:]
    for run in apart[1:]:
        run.train(5)
    for one, other in zip(together[1:], apart[1:], strict=True):
        assert_same(one, other)


def test_the_gain_is_measured_on_steps_that_count(evaluator: TrainedEvaluator) -> None:
    together, apart = runs_of(evaluator, *RANKS), runs_of(evaluator, *RANKS)
    pack = Pack(together)
    assert pack.gain(5) is None, "too few steps to tell"
    assert together[0].step == 4
    gain = pack.gain(12)
    assert gain is not None
    assert gain > 0
    for one, other in zip(together, apart, strict=True):
        assert one.step == 10 == len(one.step_seconds)
        other.train(10)
        assert_same(one, other)


def test_filling_the_frozen_prefix_is_nobodys_training(
    evaluator: TrainedEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, states = runs_of(evaluator, *TOP), evaluator.prefix.states

    def slow(*given: Any) -> Any:
        with evaluator.clock.phase("prefix"):
            time.sleep(1.0)
        return states(*given)

    monkeypatch.setattr(evaluator.prefix, "states", slow)
    filled = evaluator.clock.seconds["prefix"]
    Pack(runs).train(1)
    assert evaluator.clock.seconds["prefix"] - filled >= 1.0
    assert 0 < sum(sum(run.step_seconds) for run in runs) < 1.0


@pytest.mark.parametrize(("worth", "step"), [(0.0, 12), (float("inf"), 10)])
def test_packing_is_used_where_it_is_worth_it(
    evaluator: TrainedEvaluator, monkeypatch: pytest.MonkeyPatch, worth: float, step: int
) -> None:
    monkeypatch.setattr(packing, "WORTH", worth)
    together, apart = runs_of(evaluator, *RANKS), runs_of(evaluator, *RANKS)
    crew = evaluator.crew(together)
    crew.train(12)
    assert crew.gain is not None
    assert [run.step for run in together] == [step] * 3
    for one, other in zip(together, apart, strict=True):
        assert one.advance(12)["nll"] == pytest.approx(other.advance(12)["nll"], rel=1e-2)


def test_the_gain_is_measured_over_rungs_and_once(evaluator: TrainedEvaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "WORTH", 0.0)
    runs = runs_of(evaluator, *RANKS)
    crew, found = PackedCrew(runs), []
    for rung in (3, 9, 12):
        crew.train(rung)
        found.append((runs[0].step, crew.gain is not None))
        for run in runs:
            run.train(rung)
    assert found == [(2, False), (9, False), (12, True)]


def test_who_is_left_alone_is_left_to_itself(evaluator: TrainedEvaluator) -> None:
    runs = runs_of(evaluator, *RANKS)
    crew = PackedCrew(runs)
    crew.train(2)
    crew.drop(runs[0])
    crew.drop(runs[2])
    crew.train(12)
    assert [run.step for run in runs] == [2, 2, 2]
    assert crew.gain is None
    assert PackedCrew(runs[:1]).gain is None


def test_what_does_not_go_together_is_left_to_itself(evaluator: TrainedEvaluator) -> None:
    runs = runs_of(evaluator, "bitfit", "bitfit")
    crew = PackedCrew(runs)
    crew.train(12)
    assert crew.gain == 1.0
    assert [run.step for run in runs] == [0, 0]


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        ((RANKS[0], "lora(r=2)@linear"), "on the same modules"),
        (("compacter", "compacter"), "something else than LoRA and bottleneck adapters"),
        (("lora(use_dora=true)", RANKS[0]), "a variant or a bias"),
        (("serial_adapter(activation=gelu)", SERIAL[0]), "same adapters"),
        (("lora + bitfit | lr=0.01/0.01",) * 2, "something else than"),
        (("lora_fa", "lora_fa"), "keeps a matrix as drawn"),
        (("pissa", "pissa"), "other frozen weights"),
        (("lora | lr=0.01 dropout=0.1", RANKS[0]), "dropout"),
        (("head", "head"), "on the same modules"),
    ],
)
def test_what_does_not_go_together_says_why(evaluator: TrainedEvaluator, texts: tuple[str, ...], why: str) -> None:
    with pytest.raises(UnsupportedError, match=f"cannot be packed: .*{why}"):
        Pack(runs_of(evaluator, *texts))


def test_divided_steps_are_not_packed(spec: EvaluatorSpec) -> None:
    divided = TrainedEvaluator(replace(spec, training=spec.training.model_copy(update={"accumulate": 2})))
    with pytest.raises(UnsupportedError, match="are divided"):
        Pack(runs_of(divided, *RANKS))
