"""Exports reload: by Paretune's loader for all, by peft's own for single methods, to equal outputs."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch

from calibration.calibrators import fit_calibrator
from calibration.sets import fit_sets, sets_to_json
from evaluators.anatomy import anatomy_of
from evaluators.evaluation import EvaluatorSpec
from evaluators.exported import Predictor, as_peft_model, is_peft, load_exported, read_about, reload_peft
from evaluators.trained import TrainedEvaluator, TrainedRun
from search_space.errors import ExportError
from search_space.notation import parse
from tests.evaluators.tiny import CLASSES, evaluator_spec, questions, tiny_folder

SINGLES = (
    "lora(r=2)",
    "lora(r=2,use_dora=true,use_rslora=true)@linear[top:1]",
    "ia3",
    "bitfit",
    "ln_tuning",
    "vera(r=8)",
    "serial_adapter(r=4)",
    "prefix_tuning(num_virtual_tokens=4)",
    "lora(r=2/4)",
    "lora(r=2/4,alpha=8/32,use_rslora=true)@attention.query,mlp.down",
    "loha(r=1/2,alpha=8/16)",
    "lokr(r=1/2)",
    "delora(r=2/4)",
    "lora_plus(r=2/4)",
    "lora_fa(r=2/4)",
)
OTHERS = (
    *("head", "full", "full@[top:1]", "lora(r=2) + bitfit", "serial_adapter(r=4) + lora(r=2)@mlp.down"),
    *("prefix_tuning(num_virtual_tokens=4)@[top:1]", "serial_adapter(r=2/4)", "hira(r=2/4)", "pissa(r=2/4)"),
    *("prefix_tuning(num_virtual_tokens=4) + lora(r=2)", "lora(r=2) + prefix_tuning(num_virtual_tokens=4)"),
)
TEXTS = [row["text"] for row in questions()]
STEPS = 4


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> EvaluatorSpec:
    return evaluator_spec(tmp_path_factory.mktemp("study"), steps=STEPS, num_labels=3)


@pytest.fixture(scope="module")
def evaluator(spec: EvaluatorSpec) -> TrainedEvaluator:
    return TrainedEvaluator(spec)


def trained(evaluator: TrainedEvaluator, text: str) -> TrainedRun:
    run = evaluator.start(parse(text), 3)
    run.advance(STEPS)
    return run


def export(evaluator: TrainedEvaluator, text: str, folder: Path) -> TrainedRun:
    """Write what an export holds for the loader."""
    run = trained(evaluator, text)
    run.save(folder)
    about = {
        "schema_version": 1,
        "candidate": parse(text).to_json(),
        "seed": 3,
        "model": evaluator.spec.model.model_dump(mode="json", exclude_none=True),
        "calibration": evaluator.spec.calibration.model_dump(mode="json"),
        "classes": list(CLASSES),
        "max_length": evaluator.spec.training.max_length,
    }
    (folder / "paretune.json").write_text(json.dumps(about))
    return run


def validation_logits(model, evaluator: TrainedEvaluator) -> np.ndarray:
    tokens = evaluator.tokens["validation"]
    logits = np.empty((len(tokens.ids), len(CLASSES)))
    for indices, batch in tokens.in_order(128, evaluator.backbone.device):
        logits[indices] = model(**batch.inputs).logits.detach().double().numpy()
    return logits


@pytest.mark.parametrize("text", [*SINGLES, *OTHERS])
def test_the_loader_gives_the_recorded_logits(evaluator: TrainedEvaluator, tmp_path: Path, text: str) -> None:
    run = export(evaluator, text, tmp_path)
    again = load_exported(tmp_path)
    assert np.abs(validation_logits(again.model, evaluator) - run.logits["validation"]).max() <= 1e-5
    assert again.classes == CLASSES


@pytest.mark.parametrize("text", SINGLES)
def test_peft_reloads_a_single_method_to_equal_logits(evaluator: TrainedEvaluator, tmp_path: Path, text: str) -> None:
    run = trained(evaluator, text)
    candidate = parse(text)
    assert is_peft(candidate)
    name = evaluator.spec.model.name
    model = as_peft_model(evaluator.backbone, anatomy_of(evaluator.backbone.model), candidate, run.saved, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft looks for the vocabulary's size on a hub that is not there
        model.save_pretrained(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").exists()
    again = reload_peft(evaluator.backbone, tmp_path)
    assert np.abs(validation_logits(again, evaluator) - run.logits["validation"]).max() <= 1e-5


@pytest.mark.parametrize("text", OTHERS)
def test_what_peft_cannot_hold_is_known(text: str) -> None:
    assert not is_peft(parse(text))


@pytest.mark.parametrize("text", ["lora(r=2) + bitfit", "hira(r=2/4)", "prefix_tuning@[top:1]", "gated_prefix", "head"])
def test_peft_is_not_given_what_it_cannot_hold(evaluator: TrainedEvaluator, text: str) -> None:
    """A hybrid of which peft would read one part alone is no folder of peft's at all."""
    with pytest.raises(ExportError, match=r"peft cannot hold .*load_exported reads all, and paretune export --merged"):
        as_peft_model(evaluator.backbone, evaluator.anatomy, parse(text), {}, "some/model")


def test_the_adapter_folder_holds_no_backbone(evaluator: TrainedEvaluator, tmp_path: Path) -> None:
    run = trained(evaluator, "lora(r=2)")
    model = as_peft_model(evaluator.backbone, evaluator.anatomy, parse("lora(r=2)"), run.saved, "some/model")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(tmp_path)
    saved = safetensors.torch.load_file(tmp_path / "adapter_model.safetensors")
    assert sum(tensor.numel() for tensor in saved.values()) == run.attached.trainable_params + run.attached.head_params
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == "some/model"


@pytest.fixture
def predictor(evaluator: TrainedEvaluator, tmp_path: Path) -> Predictor:
    export(evaluator, "lora(r=2) + bitfit", tmp_path)
    return load_exported(tmp_path)


def test_the_predictor_takes_texts(predictor: Predictor) -> None:
    probabilities = predictor.probabilities(TEXTS[:5])
    assert probabilities.shape == (5, 3)
    assert np.allclose(probabilities.sum(axis=1), 1)


def test_each_text_stands_for_itself(predictor: Predictor) -> None:
    together = predictor.logits(TEXTS[:5])
    alone = np.concatenate([predictor.logits([text]) for text in TEXTS[:5]])
    assert np.allclose(together, alone, atol=1e-5)


def test_no_texts_give_no_rows(predictor: Predictor) -> None:
    assert predictor.logits([]).shape == (0, 3)
    assert predictor.probabilities([]).shape == (0, 3)


def test_probabilities_are_those_of_the_fitted_temperature(predictor: Predictor) -> None:
    assert predictor.fit is not None
    logits = predictor.logits(TEXTS[:5])
    assert np.allclose(predictor.probabilities(TEXTS[:5]), predictor.fit.probabilities(logits))


@pytest.mark.parametrize("kind", ["bias_corrected", "vector", "histogram"])
def test_the_calibrator_that_was_asked_for_travels_along(evaluator: TrainedEvaluator, tmp_path: Path, kind) -> None:
    export(evaluator, "lora(r=2)", tmp_path)
    arrays = safetensors.numpy.load_file(tmp_path / "predictions.safetensors")
    fit = fit_calibrator(kind, arrays["calibration_logits"], arrays["calibration_labels"])
    (tmp_path / "calibration.json").write_text(json.dumps(fit.to_json()))
    predictor = load_exported(tmp_path)
    assert predictor.fit == fit
    assert np.allclose(predictor.probabilities(TEXTS[:5]), fit.probabilities(predictor.logits(TEXTS[:5])))


def test_conformal_sets_travel_along(predictor: Predictor, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    p = random.dirichlet(np.ones(3), 50)
    sets = fit_sets(np.log(p), [random.choice(3, p=row) for row in p], 0.2, kind="none")
    (tmp_path / "conformal.json").write_text(json.dumps(sets_to_json(sets)))
    again = load_exported(tmp_path)
    assert again.sets == sets
    for method, fit in sets.items():
        assert fit is not None
        inside = fit.sets(predictor.probabilities(TEXTS[:5]))
        expected = [tuple(np.array(CLASSES)[row].tolist()) for row in inside]
        assert again.answers(TEXTS[:5], method) == expected
    assert again.answers([]) == []
    with pytest.raises(ExportError, match="no conformal sets of method 'lac'; it has none"):
        predictor.answers(TEXTS[:5])


@pytest.mark.parametrize("name", ["calibration.json", "conformal.json"])
@pytest.mark.parametrize("content", ["{", '{"kind": "magic"}', "[]", "3"])
def test_a_fit_that_cannot_be_read_is_refused(predictor: Predictor, tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ExportError, match=str(tmp_path.name)):
        load_exported(tmp_path)


def test_another_backbone_of_the_same_shape_can_be_named(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    elsewhere = tiny_folder(tmp_path / "elsewhere", num_labels=3)
    assert np.array_equal(load_exported(tmp_path, str(elsewhere)).logits(TEXTS[:3]), predictor.logits(TEXTS[:3]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not an export of Paretune"),
        ("{", "is not an export of Paretune"),
        ("[]", "is not an export"),
        ('{"schema_version": 9}', "schema_version 9, not 1"),
    ],
)
def test_a_folder_that_is_no_export_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "paretune.json").write_text(content)
    with pytest.raises(ExportError, match=message):
        read_about(tmp_path)


def test_a_state_that_is_gone_or_broken_is_refused(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "state.safetensors").write_bytes(b"broken")
    with pytest.raises(ExportError, match="has no readable state"):
        load_exported(tmp_path)
    (tmp_path / "state.safetensors").unlink()
    with pytest.raises(ExportError, match="has no readable state"):
        load_exported(tmp_path)


def test_another_models_layers_are_refused(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    deeper = tiny_folder(tmp_path / "deeper", num_hidden_layers=3)
    with pytest.raises(ExportError, match="does not belong to this candidate"):
        load_exported(tmp_path, str(deeper))
