"""What one backward pass tells of each position: the gradients that torch gives, and the variance of the inputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from evaluators.anatomy import anatomy_of
from evaluators.attach import attach
from evaluators.backbone import load
from evaluators.evaluation import EvaluatorSpec
from evaluators.optimisation import loss_of
from evaluators.saliency import Saliency, look
from evaluators.tokens import TokenFolder
from search_space.notation import parse
from tests.evaluators.tiny import evaluator_spec


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> EvaluatorSpec:
    return evaluator_spec(tmp_path_factory.mktemp("saliency"))


@pytest.fixture(scope="module")
def found(spec: EvaluatorSpec) -> Saliency:
    return look(spec)


def test_it_is_the_gradient_of_each_weight(spec: EvaluatorSpec, found: Saliency) -> None:
    folder = TokenFolder.open(Path(spec.tokens))
    backbone = load(spec.model, len(folder.classes))
    anatomy, tokens = anatomy_of(backbone.model), folder.read("train")
    model = attach(backbone.model, anatomy, parse("full")).model
    batch = tokens.batch(tokens.first_pass(spec.training.batch_size, seed=0)[0], backbone.device)
    loss_of(model(**batch.inputs).logits, batch.labels, 0.0).backward()
    names = [site.name for site in anatomy.sites if site.layer is not None and site.kind == "linear"]
    assert list(found.gradient) == names
    squares = {name: model.get_submodule(name).weight.grad.square().sum().item() for name in names}
    total = sum(squares.values())
    for name in names:
        assert sum(found.gradient[name]) == pytest.approx(squares[name] / total, rel=1e-3, abs=1e-9)
        exact = torch.linalg.svdvals(model.get_submodule(name).weight.grad)[0].square().item()
        assert found.gradient[name][0] == pytest.approx(exact / total, rel=1e-3)


def test_the_components_of_the_inputs_are_shares_in_falling_order(found: Saliency) -> None:
    for shares in found.inputs.values():
        assert 0 < sum(shares) <= 1 + 1e-5
        assert list(shares) == sorted(shares, reverse=True)


def test_it_is_the_same_each_time_and_leaves_the_random_state_alone(spec: EvaluatorSpec, found: Saliency) -> None:
    before = torch.get_rng_state()
    assert look(spec) == found
    assert torch.equal(torch.get_rng_state(), before)
    assert Saliency.from_json(found.to_json()) == found


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_other_architectures_are_looked_at_too(architecture: str, tmp_path: Path) -> None:
    found = look(evaluator_spec(tmp_path, architecture=architecture))
    assert sum(map(sum, found.gradient.values())) == pytest.approx(1.0)
    assert set(found.inputs) == set(found.gradient)
