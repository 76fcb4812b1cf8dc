"""Ensembles on one backbone and MC-dropout: means of probabilities, calibrated after, and what they cost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from calibration.softmax import softmax
from calibration.temperature import fit_temperature
from evaluators.evaluation import EvaluatorSpec
from evaluators.exported import Predictor, load_exported
from evaluators.predictors import (
    DropoutEnsemble,
    Ensemble,
    calibrated,
    cost_of,
    load_ensemble,
    measured,
    pooled_logits,
)
from evaluators.trained import TrainedEvaluator
from search_space.errors import ExportError
from tests.evaluators.test_exported import export
from tests.evaluators.tiny import evaluator_spec, questions

TEXTS = [row["text"] for row in questions()][:12]
LABELS = [number % 3 for number in range(12)]


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> EvaluatorSpec:
    return evaluator_spec(tmp_path_factory.mktemp("study"), steps=4, num_labels=3)


@pytest.fixture(scope="module")
def folders(spec: EvaluatorSpec, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    evaluator, made = TrainedEvaluator(spec), []
    for text in ("lora(r=2) | lr=0.05", "bitfit | lr=0.05"):
        made.append(tmp_path_factory.mktemp("export"))
        export(evaluator, text, made[-1])
    return made


@pytest.fixture(scope="module")
def ensemble(folders: list[Path]) -> Ensemble:
    return load_ensemble(folders)


def test_its_logits_are_those_of_the_mean_probabilities(ensemble: Ensemble, folders: list[Path]) -> None:
    alone = [softmax(load_exported(folder).logits(TEXTS)) for folder in folders]
    assert np.abs(alone[0] - alone[1]).max() > 1e-4, "the members differ"
    assert np.allclose(softmax(ensemble.logits(TEXTS)), np.mean(alone, axis=0), atol=1e-6)
    assert np.allclose(ensemble.probabilities(TEXTS).sum(axis=1), 1.0)
    assert ensemble.probabilities([]).shape == (0, 3)


def test_members_share_one_backbone_and_leave_it_as_it_was(ensemble: Ensemble, folders: list[Path]) -> None:
    first, second = ensemble.members
    assert first.backbone is second.backbone
    assert np.array_equal(second.logits(TEXTS), load_exported(folders[1]).logits(TEXTS))
    backbone = sum(tensor.nbytes for tensor in first.backbone.model.state_dict().values())
    assert ensemble.cost.passes == 2
    assert ensemble.cost.bytes == cost_of(first).bytes + cost_of(second).bytes < backbone


def test_layers_that_all_members_leave_are_run_once(spec: EvaluatorSpec, tmp_path: Path, monkeypatch) -> None:
    from transformers.models.bert.modeling_bert import BertLayer

    evaluator = TrainedEvaluator(spec)
    texts = ("lora(r=2)@mlp.up[top:1]", "bitfit@linear,norm[top:1]", "head", "lst(heads=2)")
    for number, text in enumerate(texts):
        (tmp_path / str(number)).mkdir()
        export(evaluator, f"{text} | lr=0.05", tmp_path / str(number))
    ensemble = load_ensemble([tmp_path / str(number) for number in range(4)])
    assert (ensemble.cost.passes, ensemble.cost.shared_layers) == (4, 1)
    alone = pooled_logits([load_exported(tmp_path / str(number)).logits(TEXTS) for number in range(4)])
    runs, forward = [], BertLayer.forward

    def counted(self, *args, **kwargs):
        runs.append(self)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(BertLayer, "forward", counted)
    assert np.allclose(ensemble.logits(TEXTS), alone, atol=1e-6)
    assert len(runs) == 1 + 4, "the lower of two layers once, the upper one for each member"
    assert ensemble.logits([]).shape == (0, 3)


def test_members_that_change_the_first_layer_are_run_whole(ensemble: Ensemble) -> None:
    assert ensemble.cost.shared_layers == 0
    assert ensemble._shared is not None
    assert "changes the first layer" in ensemble._shared.why_whole


def test_its_temperature_is_that_of_the_mean_on_the_calibration_split(ensemble: Ensemble, folders: list[Path]) -> None:
    arrays = [safetensors.numpy.load_file(folder / "predictions.safetensors") for folder in folders]
    pooled = pooled_logits([one["calibration_logits"] for one in arrays])
    assert ensemble.fit is not None
    assert ensemble.fit.temperature == fit_temperature(pooled, arrays[0]["calibration_labels"]).temperature
    assert np.allclose(ensemble.probabilities(TEXTS), ensemble.fit.probabilities(ensemble.logits(TEXTS)))


def test_pooling_is_exact_where_probabilities_underflow() -> None:
    sure = np.array([[0.0, -900.0]])
    assert pooled_logits([sure, sure]) == pytest.approx(sure)
    assert pooled_logits([sure, np.array([[0.0, 0.0]])]) == pytest.approx(np.log([[0.75, 0.25]]))
    with pytest.raises(ValueError, match="logits of one shape"):
        pooled_logits([sure, np.zeros((2, 2))])
    with pytest.raises(ValueError, match="logits of one shape"):
        pooled_logits([])


def test_what_does_not_belong_together_is_refused(folders: list[Path], tmp_path: Path) -> None:
    other = shutil.copytree(folders[1], tmp_path / "other")
    about = json.loads((other / "paretune.json").read_text())
    (other / "paretune.json").write_text(json.dumps(about | {"classes": ["A", "B", "C"]}))
    with pytest.raises(ExportError, match=r"differs from .* in its classes"):
        load_ensemble([folders[0], other])
    (other / "paretune.json").write_text(json.dumps(about))
    (other / "predictions.safetensors").unlink()
    with pytest.raises(ExportError, match="holds no predictions to calibrate the mean on"):
        load_ensemble([folders[0], other])
    with pytest.raises(ExportError, match="at least two folders"):
        load_ensemble(folders[:1])


@pytest.fixture(scope="module")
def member(folders: list[Path]) -> Predictor:
    return load_exported(folders[0])


def test_dropout_is_on_for_the_passes_only(member: Predictor) -> None:
    before, state = member.logits(TEXTS), torch.get_rng_state()
    dropping = DropoutEnsemble(member, rate=0.3, passes=4)
    first = dropping.logits(TEXTS)
    assert np.array_equal(first, dropping.logits(TEXTS)), "the same seed drops the same"
    assert not np.allclose(first, DropoutEnsemble(member, rate=0.3, passes=4, seed=1).logits(TEXTS))
    assert not np.allclose(softmax(first), softmax(before))
    assert np.array_equal(member.logits(TEXTS), before)
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_is_off_again_after_a_failure(member: Predictor) -> None:
    before = member.logits(TEXTS)
    with pytest.raises(Exception, match=r".+"):
        DropoutEnsemble(member, rate=0.3).logits([object()])  # type: ignore[list-item]
    assert np.array_equal(member.logits(TEXTS), before)


def test_more_passes_come_nearer_to_each_other(member: Predictor) -> None:
    def spread(passes: int) -> float:
        found = [softmax(DropoutEnsemble(member, 0.3, passes, seed).logits(TEXTS)) for seed in range(6)]
        return float(np.std(found, axis=0).mean())

    assert spread(32) < 0.6 * spread(2)


@pytest.mark.parametrize(("rate", "passes"), [(0.0, 4), (1.0, 4), (0.1, 1)])
def test_dropout_that_is_none_is_refused(member: Predictor, rate: float, passes: int) -> None:
    with pytest.raises(ValueError, match="dropout"):
        DropoutEnsemble(member, rate, passes)


def test_any_of_them_can_be_calibrated_and_measured(member: Predictor, ensemble: Ensemble) -> None:
    dropping = DropoutEnsemble(member, rate=0.2, passes=3)
    fitted = calibrated(dropping, TEXTS, LABELS)
    assert dropping.fit is None
    assert fitted.fit is not None
    assert np.allclose(fitted.probabilities(TEXTS), fitted.fit.probabilities(dropping.logits(TEXTS)))
    assert calibrated(ensemble, TEXTS, LABELS).fit is not None
    for one, passes in ((fitted, 3), (ensemble, 2), (member, 1)):
        cost = measured(one, TEXTS[0])
        assert cost.passes == passes
        assert cost.latency_ms is not None
        assert cost.latency_ms > 0
    with pytest.raises(ValueError, match="at least two members"):
        Ensemble((member,))
