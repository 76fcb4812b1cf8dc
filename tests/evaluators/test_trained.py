"""Training by rungs on a tiny BERT: seeded, the same whatever the rungs, measured in full at the end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from calibration.ece import ece
from calibration.temperature import TemperatureFit
from evaluators.calibrated import calibrate, groups_in
from evaluators.evaluation import PREDICTIONS_FILE, EvaluatorSpec, build_evaluator
from evaluators.score import GAIN, METERED, METRICS, OF_SUBGROUPS, PREDICTED, Score
from evaluators.trained import TrainedEvaluator, TrainedRun
from search_space.errors import EvaluationError, PlacementError
from search_space.notation import parse
from tests.evaluators.tiny import CLASSES, evaluator_spec

TIMES = {"train_step_ms", "training_seconds", "latency_ms"}
CANDIDATES = (
    "lora(r=4) | lr=0.02 dropout=0.1 mixup=0.2",
    "full | lr=0.01",
    "lora(r=2) + bitfit | lr=0.01/0.02",
    "head",
)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> EvaluatorSpec:
    return evaluator_spec(tmp_path_factory.mktemp("study"), num_labels=3)


@pytest.fixture(scope="module")
def evaluator(spec: EvaluatorSpec) -> TrainedEvaluator:
    built = build_evaluator(spec)
    assert isinstance(built, TrainedEvaluator)
    built.meter = None  # whatever this machine has
    return built


def run_of(evaluator: TrainedEvaluator, text: str = CANDIDATES[0], seed: int = 0) -> TrainedRun:
    return evaluator.start(parse(text), seed)


def steady(score: Score) -> dict[str, float]:
    """The metrics that do not depend on the clock."""
    return {name: value for name, value in score.values.items() if name not in TIMES}


@pytest.mark.parametrize("text", CANDIDATES)
def test_the_same_seed_gives_the_same_numbers(evaluator: TrainedEvaluator, text: str) -> None:
    one, other = run_of(evaluator, text), run_of(evaluator, text)
    assert steady(one.advance(12)) == steady(other.advance(12))
    assert np.array_equal(one.logits["validation"], other.logits["validation"])


def test_another_seed_gives_other_numbers(evaluator: TrainedEvaluator) -> None:
    assert run_of(evaluator, seed=1).advance(4)["nll"] != run_of(evaluator, seed=2).advance(4)["nll"]


@pytest.mark.parametrize("text", CANDIDATES)
def test_rungs_give_the_same_numbers_as_training_at_once(evaluator: TrainedEvaluator, text: str) -> None:
    at_once, by_rungs = run_of(evaluator, text), run_of(evaluator, text)
    for step in (1, 4):
        by_rungs.advance(step)
    assert steady(by_rungs.advance(12)) == steady(at_once.advance(12))
    assert np.array_equal(by_rungs.logits["calibration"], at_once.logits["calibration"])


def test_a_candidate_may_be_trained_for_less(evaluator: TrainedEvaluator) -> None:
    run = run_of(evaluator, "lora(r=4) | lr=0.02 training_share=0.5")
    rung, end = run.advance(4), run.advance(12)
    assert [(one.step, one.fidelity) for one in (rung, end)] == [(2, 4 / 12), (6, 1.0)]
    assert end.full
    assert set(end.values) == set(METRICS) - {*PREDICTED, *METERED, *OF_SUBGROUPS, GAIN}
    assert run.schedule.get_last_lr()[0] == pytest.approx(0.0), "its learning rate has come down"


def test_mixing_examples_changes_what_is_learnt_and_nothing_else(evaluator: TrainedEvaluator) -> None:
    plain, mixed = run_of(evaluator, "full | lr=0.01"), run_of(evaluator, "full | lr=0.01 mixup=0.4")
    assert plain.advance(1)["trainable_params"] == mixed.advance(1)["trainable_params"]
    assert plain.advance(12)["nll"] != mixed.advance(12)["nll"]


def test_candidates_in_between_change_nothing(evaluator: TrainedEvaluator) -> None:
    alone = run_of(evaluator).advance(12)
    one, other = run_of(evaluator), run_of(evaluator, "full")
    for step in (4, 12):
        mixed = one.advance(step)
        other.advance(step)
    assert steady(mixed) == steady(alone)


def test_it_learns(evaluator: TrainedEvaluator) -> None:
    run = run_of(evaluator, "full | lr=0.01")
    first = run.advance(1)
    assert run.advance(12)["nll"] < first["nll"]


def test_a_rung_has_the_quality_and_the_end_has_everything(evaluator: TrainedEvaluator) -> None:
    run = run_of(evaluator)
    rung, end = run.advance(4), run.advance(12)
    assert (rung.step, rung.fidelity, rung.split, rung.seed) == (4, 4 / 12, "validation", 0)
    assert set(rung.values) == {
        "accuracy",
        "macro_f1",
        "nll",
        "calibrated_nll",
        "ece",
        "debiased_squared_error",
        "brier",
        "trainable_params",
        "head_params",
    }
    assert end.full
    assert set(end.values) == set(METRICS) - {*PREDICTED, *METERED, *OF_SUBGROUPS, GAIN}


def test_the_measures_are_those_of_the_candidate(evaluator: TrainedEvaluator) -> None:
    run = run_of(evaluator)
    score = run.advance(12)
    assert score["trainable_params"] == 2 * 2 * (16 * 4 + 4 * 16)
    assert score["head_params"] == 16 * 3 + 3
    weights = 4 * (score["trainable_params"] + score["head_params"])
    assert weights < score["checkpoint_bytes"] < weights + 4096
    backbone = 4 * sum(parameter.numel() for parameter in evaluator.backbone.model.parameters())
    assert score["peak_memory_bytes"] > backbone
    assert score["train_step_ms"] > 0
    assert score["latency_ms"] > 0


def test_a_study_about_latency_measures_it_at_the_first_rung_and_trains_the_same(evaluator: TrainedEvaluator) -> None:
    plain = run_of(evaluator)
    early = [plain.advance(step) for step in (4, 8, 12)]
    evaluator.spec = replace(evaluator.spec, rung_latency=True)
    try:
        run = run_of(evaluator)
        first, second, last = (run.advance(step) for step in (4, 8, 12))
    finally:
        evaluator.spec = replace(evaluator.spec, rung_latency=False)
    assert "latency_ms" not in early[0].values
    assert 0 < first["latency_ms"] == second["latency_ms"]
    assert last["latency_ms"] > 0
    assert [one["nll"] for one in (first, second, last)] == [one["nll"] for one in early]


def test_what_is_saved_is_whole_and_fits_together(evaluator: TrainedEvaluator, tmp_path: Path) -> None:
    run = run_of(evaluator)
    score = run.advance(12)
    run.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "state.safetensors",
        "predictions.safetensors",
        "calibration.json",
    }
    kept = safetensors.numpy.load_file(tmp_path / "predictions.safetensors")
    for role in ("validation", "calibration"):
        assert np.array_equal(kept[f"{role}_logits"], run.logits[role])
        assert kept[f"{role}_labels"].tolist() == evaluator.tokens[role].labels.tolist()
    right = kept["validation_logits"].argmax(axis=1) == kept["validation_labels"]
    assert right.mean() == score["accuracy"]
    state = safetensors.numpy.load_file(tmp_path / "state.safetensors")
    assert sum(tensor.size for tensor in state.values()) == score["trainable_params"] + score["head_params"]


def test_the_calibrator_is_fitted_on_the_calibration_split(evaluator: TrainedEvaluator, tmp_path: Path) -> None:
    import json

    from calibration.temperature import fit_temperature

    run = run_of(evaluator)
    run.advance(12)
    run.save(tmp_path)
    saved = TemperatureFit.from_json(json.loads((tmp_path / "calibration.json").read_text()))
    fit = fit_temperature(run.logits["calibration"], evaluator.tokens["calibration"].labels)
    assert saved == fit


def test_groups_go_to_the_calibrator_and_into_what_is_saved(
    spec: EvaluatorSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator = TrainedEvaluator(spec)
    groups = {role: np.arange(len(one.labels)) % 6 for role, one in evaluator.tokens.items()}
    evaluator.tokens = {role: replace(one, groups=groups[role]) for role, one in evaluator.tokens.items()}
    told = []
    monkeypatch.setattr("evaluators.trained.calibrate", lambda *given: told.append(given[-1]) or calibrate(*given))
    run = run_of(evaluator)
    run.advance(evaluator.spec.steps)
    run.save(tmp_path)
    saved = groups_in(safetensors.numpy.load_file(tmp_path / PREDICTIONS_FILE))
    for found in (told[0], saved):
        assert found.keys() == {"validation", "calibration"}
        assert all(np.array_equal(one, groups[role]) for role, one in found.items())


def test_what_is_saved_of_validation_is_calibrated_by_others(evaluator: TrainedEvaluator, tmp_path: Path) -> None:
    run = run_of(evaluator)
    score = run.advance(12)
    run.save(tmp_path)
    kept = safetensors.numpy.load_file(tmp_path / "predictions.safetensors")
    assert kept["validation_calibrated"].shape == kept["validation_logits"].shape
    after = ece(np.exp(kept["validation_calibrated"]), kept["validation_labels"], 15)
    assert after == pytest.approx(score["calibrated_ece"])


def test_the_test_split_is_scored_with_the_saved_state(evaluator: TrainedEvaluator) -> None:
    run = run_of(evaluator)
    run.advance(12)
    one, again = run.test(), run.test()
    assert one.split == "test"
    assert one == again
    assert {"accuracy", "nll", "calibrated_nll", "calibrated_ece"} <= set(one.values)


def test_the_evaluator_does_not_hold_the_test_split(evaluator: TrainedEvaluator) -> None:
    assert set(evaluator.tokens) == {"train", "validation", "calibration"}
    assert evaluator.folder.classes == CLASSES


@pytest.mark.parametrize("text", ["lora | lr=1e30", "full | lr=1e30"])
def test_numbers_that_are_not_finite_are_a_divergence(evaluator: TrainedEvaluator, text: str) -> None:
    with pytest.raises(EvaluationError, match="not finite") as raised:
        run_of(evaluator, text).advance(12)
    assert raised.value.cause == "diverged"


def test_after_a_divergence_the_next_candidate_is_as_before(evaluator: TrainedEvaluator) -> None:
    before = steady(run_of(evaluator).advance(4))
    with pytest.raises(EvaluationError):
        run_of(evaluator, "full | lr=1e30").advance(12)
    assert steady(run_of(evaluator).advance(4)) == before


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (
            RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
            "out_of_memory",
        ),
        (MemoryError(), "out_of_memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "out_of_memory"),
        (RuntimeError("CUDA error: out of memory"), "out_of_memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "out_of_memory"),
        (RuntimeError("shapes do not match"), None),
    ],
)
def test_only_memory_that_runs_out_is_called_so(
    evaluator: TrainedEvaluator, error: Exception, cause: str | None
) -> None:
    run = run_of(evaluator)

    def fail(*_: object) -> None:
        raise error

    run._step = run.predict = fail  # type: ignore[method-assign,assignment]
    run.saved = run.attached.state(evaluator.backbone.storages)
    run.logits = None  # type: ignore[assignment]
    for call in (lambda: run.advance(4), run.test):
        with pytest.raises(EvaluationError if cause else type(error)) as raised:
            call()
        assert getattr(raised.value, "cause", None) == cause


@pytest.mark.parametrize(("kind", "step"), [("save", 12), ("pause", 4)])
def test_memory_that_runs_out_while_a_run_is_written_is_called_so(
    evaluator: TrainedEvaluator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, step: int
) -> None:
    run = run_of(evaluator)
    run.advance(step)

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(safetensors.torch, "save", fail)
    with pytest.raises(EvaluationError) as raised:
        getattr(run, kind)(tmp_path)
    assert raised.value.cause == "out_of_memory"
    assert list(tmp_path.iterdir()) == []


def test_what_the_model_cannot_carry_is_told_at_the_start(evaluator: TrainedEvaluator) -> None:
    with pytest.raises(PlacementError, match=r"2/4/8|3"):
        run_of(evaluator, "lora(r=2/4/8)")


def test_without_calibration_there_is_none(spec: EvaluatorSpec, tmp_path: Path) -> None:
    from dataclasses import replace

    bare = TrainedEvaluator(replace(spec, calibration=spec.calibration.model_copy(update={"method": "none"})))
    run = run_of(bare)
    assert not {"calibrated_ece", "ece_floor"} & set(run.advance(12).values)
    run.save(tmp_path)
    assert not (tmp_path / "calibration.json").exists()
    assert run.test()["accuracy"] >= 0


def test_schedules_rise_and_fall_to_nothing(evaluator: TrainedEvaluator) -> None:
    run = run_of(evaluator, "lora | lr=0.02")

    run.advance(1)
    rates = [group["lr"] for group in run.optimiser.param_groups]
    run.advance(12)
    assert max(rates) <= 0.02
    assert all(group["lr"] == 0 for group in run.optimiser.param_groups)


OFTEN = ("deberta-v2", "falcon", "bart")  # one without sdpa, one of fused projections, one of two stacks
TEXT = (
    "bert", "roberta", "distilbert", "electra", "deberta-v2", "modernbert", "mpnet", "llama", "mistral", "qwen2",
    "qwen3", "gemma2", "gemma3", "phi3", "gpt2", "opt", "falcon", "t5", "bart",
)  # fmt: skip


@pytest.mark.parametrize(
    "architecture", [one if one in OFTEN else pytest.param(one, marks=pytest.mark.slow) for one in TEXT]
)
def test_every_architecture_of_text_is_trained_scored_and_read_again(architecture: str, tmp_path: Path) -> None:
    given = {"eos_token_id": 3} if architecture in ("t5", "bart") else {}  # what the tokens end with
    evaluator = build_evaluator(evaluator_spec(tmp_path, 4, architecture, num_labels=3, **given))
    assert isinstance(evaluator, TrainedEvaluator)
    run = evaluator.start(parse("lora@linear | lr=0.02"), 0)
    score = run.advance(4)
    assert score.values["latency_ms"] > 0
    run.save(tmp_path)
    run.attached.load(run.saved, evaluator.backbone.storages)
    assert np.array_equal(run.predict("validation", evaluator.tokens["validation"]), run.logits["validation"])
