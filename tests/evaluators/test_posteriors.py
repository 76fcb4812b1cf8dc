"""Exports that predict by a posterior: what their study measured of the variant, with its cost, and a temperature."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from calibration.spec import CalibrationSpec
from evaluators.data import read_task
from evaluators.exported import Predictor, load_exported
from evaluators.posteriors import Spread, with_laplace
from evaluators.predictors import calibrated, cost_of, measured
from evaluators.spec import TaskSpec
from evaluators.trained import TrainedEvaluator
from evaluators.variants import Bench, laplace_variant
from search_space.errors import UnsupportedError
from tests.evaluators.test_exported import export
from tests.evaluators.tiny import evaluator_spec, questions_file

SPREADS: tuple[Spread, ...] = ("last_layer", "diagonal", "kronecker")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def evaluator(study: Path) -> TrainedEvaluator:
    return TrainedEvaluator(evaluator_spec(study, steps=4, num_labels=3))


@pytest.fixture(scope="module")
def texts(study: Path) -> dict[str, list[str]]:
    """The texts of each role, as the study divided them."""
    roles = read_task(TaskSpec(dataset=questions_file(study))).roles
    return {role: [text for (text,) in one.texts] for role, one in roles.items()}


@pytest.fixture(scope="module")
def exported(evaluator: TrainedEvaluator, tmp_path_factory: pytest.TempPathFactory) -> tuple[Predictor, Bench]:
    """An export, and the bench that its study would make variants on."""
    folder = tmp_path_factory.mktemp("export")
    run = export(evaluator, "lora(r=2) | lr=0.05", folder)
    run.attached.model.eval()
    roles = {role: evaluator.folder.read(role) for role in ("validation", "calibration", "test")}
    bench = Bench(run.attached, roles, evaluator.tokens["train"], 3, 4, evaluator.backbone.device, 0)
    return load_exported(folder), bench


@pytest.mark.parametrize("spread", SPREADS)
def test_an_export_says_what_its_study_measured(
    exported: tuple[Predictor, Bench], texts: dict[str, list[str]], spread: Spread
) -> None:
    member, bench = exported
    variant = laplace_variant(spread, bench, CalibrationSpec())
    predictor = with_laplace(member, texts["train"], spread)
    assert np.allclose(predictor.logits(texts["test"]), variant.logits["test"], atol=1e-3)
    cost = measured(predictor, texts["test"][0])
    assert cost.passes == variant.passes == (1 if spread == "last_layer" else 4)
    assert cost.bytes == cost_of(member).bytes + variant.bytes
    assert cost.latency_ms is not None
    assert cost.latency_ms > 0
    assert predictor.logits([]).shape == predictor.probabilities([]).shape == (0, 3)


def test_it_is_calibrated_on_texts_of_its_own(
    exported: tuple[Predictor, Bench], texts: dict[str, list[str]], evaluator: TrainedEvaluator
) -> None:
    plain = with_laplace(exported[0], texts["train"], "diagonal")
    labels = evaluator.tokens["calibration"].labels.tolist()
    predictor = calibrated(plain, texts["calibration"], labels)
    assert plain.fit is None
    assert predictor.fit is not None
    assert predictor.fit.n == len(labels)
    assert np.allclose(predictor.probabilities(texts["test"]), predictor.fit.probabilities(plain.logits(texts["test"])))


def test_a_sample_stands_for_all(exported: tuple[Predictor, Bench], texts: dict[str, list[str]]) -> None:
    """The same texts for ten times as many examples: a posterior that is surer, and nearer to the candidate."""
    member, test = exported[0], texts["test"]
    few, many = (with_laplace(member, texts["train"], "diagonal", examples=count) for count in (None, 10_000))
    plain = member.logits(test) - np.logaddexp.reduce(member.logits(test), axis=1, keepdims=True)
    assert np.abs(many.logits(test) - plain).max() < np.abs(few.logits(test) - plain).max()


def test_bad_samples_are_refused(
    exported: tuple[Predictor, Bench], evaluator: TrainedEvaluator, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="needs texts"):
        with_laplace(exported[0], [])
    with pytest.raises(ValueError, match="2 texts are no sample of 1"):
        with_laplace(exported[0], ["who is", "the man"], examples=1)
    export(evaluator, "bitfit", tmp_path)
    with pytest.raises(UnsupportedError, match="train no linear layer"):
        with_laplace(load_exported(tmp_path), ["who is"], "kronecker")
