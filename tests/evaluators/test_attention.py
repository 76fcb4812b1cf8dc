"""The fastest attention: measured in the study's type, on its batches; close calls change nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from evaluators import attention
from evaluators.attention import Attention, fastest_attention, measured_apart
from evaluators.backbone import choose_machine, load
from evaluators.evaluation import EvaluatorSpec
from evaluators.spec import ModelSpec
from evaluators.tokens import TokenFolder
from search_space.errors import UnsupportedError
from tests.evaluators.tiny import CLASSES, evaluator_spec


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> EvaluatorSpec:
    return evaluator_spec(tmp_path_factory.mktemp("study"), num_labels=3)


def measured(spec: EvaluatorSpec, model: ModelSpec | None = None) -> Attention:
    tokens = TokenFolder.open(Path(spec.tokens)).read("train")
    return fastest_attention(model or spec.model, spec.training, tokens, len(CLASSES), 1)


def test_both_are_timed_on_batches_of_the_study_in_its_type(spec: EvaluatorSpec) -> None:
    tokens = TokenFolder.open(Path(spec.tokens)).read("train")
    before = torch.get_num_threads(), torch.get_rng_state()
    torch.backends.cuda.enable_cudnn_sdp(True)
    found = measured(spec, spec.model.model_copy(update={"dtype": "bfloat16"}))
    assert found.milliseconds.keys() == {"eager", "sdpa"}
    assert all(one > 0 for one in found.milliseconds.values())
    assert (found.dtype, found.device, found.batch) == ("bfloat16", "cpu", 8)
    assert list(found.lengths) == sorted(found.lengths)
    assert found.lengths[-1] <= tokens.longest
    assert torch.get_num_threads() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert not torch.backends.cuda.cudnn_sdp_enabled(), "as the models that are trained"


@pytest.mark.parametrize(
    ("dtype", "sdpa", "eager", "chosen"),
    [
        ("float32", 1.0, 0.5, "eager"),
        ("float32", 1.0, 0.95, "sdpa"),
        ("float32", 0.5, 1.0, "sdpa"),
        ("bfloat16", 0.95, 1.0, "eager"),
        ("bfloat16", 0.5, 1.0, "sdpa"),
    ],
)
def test_the_usual_one_stays_unless_the_other_is_clearly_faster(
    spec: EvaluatorSpec, monkeypatch: pytest.MonkeyPatch, dtype: str, sdpa: float, eager: float, chosen: str
) -> None:
    monkeypatch.setattr(attention, "_times", lambda *_: {"sdpa": sdpa, "eager": eager})
    found = measured(spec, spec.model.model_copy(update={"dtype": dtype}))
    assert found.chosen == chosen
    assert found.milliseconds == {"sdpa": 1e3 * sdpa, "eager": 1e3 * eager}


def test_a_model_is_taken_with_what_it_has(spec: EvaluatorSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    build = attention.transformers.AutoModelForSequenceClassification.from_config

    def lacking(names: tuple[str, ...]):
        def from_config(config: object, **given: object) -> object:
            if given["attn_implementation"] in names:
                raise ValueError("does not support it")
            return build(config, **given)

        return from_config

    where = attention.transformers.AutoModelForSequenceClassification
    monkeypatch.setattr(where, "from_config", lacking(("sdpa",)))
    assert measured(spec).chosen == "eager"
    monkeypatch.setattr(where, "from_config", lacking(("sdpa", "eager")))
    with pytest.raises(UnsupportedError, match="has none of the known implementations"):
        measured(spec)


@pytest.mark.slow
def test_it_is_measured_in_a_process_of_its_own(spec: EvaluatorSpec) -> None:
    found = measured_apart(spec.model, spec.training, Path(spec.tokens), 1)
    assert found.keys() == measured(spec).to_json().keys()
    assert found["milliseconds"].keys() == {"eager", "sdpa"}
    with pytest.raises(UnsupportedError, match=r"cannot be measured: .*no readable configuration.*; give `eager`"):
        measured_apart(ModelSpec(name="/nowhere", device="cpu"), spec.training, Path(spec.tokens), 1)


@pytest.mark.parametrize("name", ["eager", "sdpa"])
def test_what_is_asked_for_is_what_is_loaded(spec: EvaluatorSpec, name: str) -> None:
    asked = spec.model.model_copy(update={"attention": name})
    assert choose_machine(asked).attention == name
    config: Mapping[str, object] = vars(load(asked, 3).model.config)
    assert config["_attn_implementation_internal"] == name
    assert EvaluatorSpec.from_json(replace(spec, model=asked).to_json()).model.attention == name
