"""What is made of a trained finalist beside its plain forward pass: MC-dropout and Laplace, on every role."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from calibration.softmax import softmax
from calibration.spec import CalibrationSpec
from evaluators.attach import Attached, attach
from evaluators.evaluation import EvaluatorSpec
from evaluators.posteriors import last_layer, look_at_last
from evaluators.trained import TrainedEvaluator, TrainedRun
from evaluators.variants import Bench, FinalistLogits, dropout_variant, laplace_variant, make_variants
from search_space.errors import UnsupportedError
from search_space.notation import parse
from tests.evaluators.tiny import evaluator_spec

ROLES = {"validation", "calibration", "test"}


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory: pytest.TempPathFactory) -> TrainedEvaluator:
    spec: EvaluatorSpec = evaluator_spec(tmp_path_factory.mktemp("study"), steps=6, num_labels=3)
    return TrainedEvaluator(spec)


@pytest.fixture(scope="module")
def run(evaluator: TrainedEvaluator) -> TrainedRun:
    run = evaluator.start(parse("lora(r=4) | lr=0.02 dropout=0.2"), 0)
    run.advance(6)
    return run


@pytest.fixture(scope="module")
def tested(run: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> FinalistLogits:
    folder = tmp_path_factory.mktemp("finalist")
    run.save(folder)
    run.test(folder)
    return FinalistLogits.load(folder)


def bench_of(evaluator: TrainedEvaluator, attached: Attached) -> Bench:
    tokens = {role: evaluator.folder.read(role) for role in ROLES}
    return Bench(attached, tokens, evaluator.tokens["train"], 3, 4, evaluator.backbone.device, 0)


def test_what_a_finalist_leaves_is_whole(tested: FinalistLogits, evaluator: TrainedEvaluator, run: TrainedRun) -> None:
    test = evaluator.folder.read("test")
    assert np.array_equal(tested.labels, test.labels)
    assert np.array_equal(tested.logits, run.predict("test", test))
    assert set(tested.variants) == {"dropout", "laplace"}
    for one in tested.variants.values():
        assert set(one.logits) == ROLES
        assert one.latency_ms > 0
        assert np.isfinite(one.logits["test"]).all()
    assert (tested.variants["dropout"].passes, tested.variants["laplace"].passes) == (10, 1)
    assert tested.variants["laplace"].bytes == 8 * (3 + 9 + 17 + 17 * 17)


def test_laplace_keeps_every_decision_nearly_and_is_less_sure(tested: FinalistLogits, run: TrainedRun) -> None:
    plain, spread = run.logits["validation"], tested.variants["laplace"].logits["validation"]
    assert np.all(np.sign(plain) == np.sign(spread))
    assert softmax(spread).max() < softmax(plain).max()


def test_laplace_sees_what_the_last_layer_sees(evaluator: TrainedEvaluator, run: TrainedRun) -> None:
    """Its features, through the last layer's own weights, are the logits."""
    layer = last_layer(run.attached)
    batch = evaluator.tokens["validation"].batch([0, 1, 2], evaluator.backbone.device)
    features, logits = look_at_last(run.attached.model.eval(), layer, batch.inputs)
    assert np.allclose(features @ layer.weight.detach().numpy().T + layer.bias.detach().numpy(), logits, atol=1e-5)
    assert np.allclose(logits, run.logits["validation"][:3], atol=1e-5)


def test_dropout_averages_passes_and_is_off_afterwards(evaluator: TrainedEvaluator, run: TrainedRun) -> None:
    bench = bench_of(evaluator, run.attached)
    before = run.predict("test", bench.roles["test"])
    one, again = (dropout_variant(bench, CalibrationSpec(passes=3)) for _ in range(2))
    assert np.array_equal(one.logits["test"], again.logits["test"])
    assert not np.allclose(softmax(one.logits["test"]), softmax(before), atol=1e-4)
    assert np.array_equal(run.predict("test", bench.roles["test"]), before)


def test_what_cannot_be_made_is_told(evaluator: TrainedEvaluator) -> None:
    attached = attach(evaluator.backbone.model, evaluator.anatomy, parse("bitfit"), 0)
    made, refused = make_variants(bench_of(evaluator, attached), CalibrationSpec())
    assert set(made) == {"laplace"}
    assert "trained without dropout" in refused["dropout"]
    assert make_variants(bench_of(evaluator, attached), CalibrationSpec(predictors=("seeds",))) == ({}, {})


def test_a_head_that_sees_tokens_has_no_laplace(tmp_path: Path) -> None:
    evaluator = TrainedEvaluator(evaluator_spec(tmp_path, architecture="llama", num_labels=3))
    attached = attach(evaluator.backbone.model, evaluator.anatomy, parse("lora(r=2)"), 0)
    with pytest.raises(UnsupportedError, match="sees tokens one by one"):
        laplace_variant("last_layer", bench_of(evaluator, attached), CalibrationSpec())
