"""The closed-form evaluator: deterministic, better where a real one would be, and failing where it is told to."""

from __future__ import annotations

import json

import pytest

from calibration.spec import CalibrationSpec
from evaluators.evaluation import EvaluatorSpec, build_evaluator
from evaluators.score import Score
from evaluators.spec import ModelSpec, SyntheticSpec, TrainingSpec
from evaluators.synthetic import SyntheticCoster, SyntheticEvaluator, synthetic_params
from search_space.errors import EvaluationError
from search_space.notation import parse
from search_space.registry import methods
from search_space.space import at_defaults, bind
from search_space.spec import SpaceSpec

FAULTS = {"lora": "raise", "ia3": "nan", "bitfit": "oom"}


def spec_of(**faults: str) -> EvaluatorSpec:
    synthetic = SyntheticSpec.model_validate({"faults": faults})
    return EvaluatorSpec(ModelSpec(name="-"), TrainingSpec(), CalibrationSpec(), "", 90, synthetic=synthetic)


def score(text: str, step: int = 90, seed: int = 0) -> Score:
    return build_evaluator(spec_of()).start(parse(text), seed).advance(step)


def test_a_spec_crosses_to_another_process_as_json() -> None:
    spec = spec_of(**FAULTS)
    assert EvaluatorSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert isinstance(build_evaluator(spec), SyntheticEvaluator)


def test_the_same_seed_gives_the_same_score() -> None:
    assert score("lora") == score("lora")
    assert score("lora", seed=1) != score("lora")


def test_more_steps_more_parameters_and_better_rates_help() -> None:
    assert score("lora", 90)["accuracy"] > score("lora", 30)["accuracy"] > score("lora", 10)["accuracy"]
    assert score("lora(r=64)@linear")["accuracy"] > score("lora(r=1)")["accuracy"]
    assert score("lora | lr=0.002")["accuracy"] > score("lora | lr=0.1")["accuracy"]


def test_the_test_split_has_its_own_score() -> None:
    run = build_evaluator(spec_of()).start(parse("lora"), 0)
    assert run.advance(90).split == "validation"
    assert run.test().split == "test"


@pytest.mark.parametrize(
    ("method", "error"), [("lora", RuntimeError), ("ia3", EvaluationError), ("bitfit", MemoryError)]
)
def test_it_fails_where_it_is_told_to(method: str, error: type[Exception]) -> None:
    evaluator = build_evaluator(spec_of(**FAULTS))
    with pytest.raises(error, match="told to"):
        evaluator.start(parse(f"ln_tuning + {method}"), 0).advance(10)
    evaluator.start(parse("ln_tuning"), 0).advance(10)


def test_the_cost_has_the_size_of_the_score() -> None:
    cost = SyntheticCoster().cost(parse("lora(r=4)"))
    assert cost.trainable_params == synthetic_params(parse("lora(r=4)")) == score("lora(r=4)")["trainable_params"]


def test_every_method_has_a_place_in_the_pretended_model() -> None:
    space = bind(
        SpaceSpec.model_validate({"methods": ["lora", "ia3", "bitfit", "ln_tuning", "vera"]}), SyntheticCoster().anatomy
    )
    assert space.size > 100
    for name in methods():
        assert SyntheticCoster().cost(at_defaults(name)).trainable_params > 0
