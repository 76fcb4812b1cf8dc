"""The adapter's posterior against the dense Gauss-Newton matrix of a model small enough to write it out."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from calibration.softmax import log_softmax
from calibration.spec import CalibrationSpec
from evaluators.adapter_laplace import AdapterLaplace, Block, Structure, fit_adapter, look, mean_logits, trained_layers
from evaluators.attach import Attached, attach
from evaluators.trained import TrainedEvaluator, TrainedRun
from evaluators.variants import Bench, laplace_variant, make_variants
from search_space.errors import UnsupportedError
from search_space.notation import parse
from tests.evaluators.tiny import evaluator_spec

CPU = torch.device("cpu")
STRUCTURES: tuple[Structure, ...] = ("diagonal", "kronecker")


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory: pytest.TempPathFactory) -> TrainedEvaluator:
    return TrainedEvaluator(evaluator_spec(tmp_path_factory.mktemp("study"), steps=6, num_labels=3))


@pytest.fixture(scope="module")
def run(evaluator: TrainedEvaluator) -> TrainedRun:
    run = evaluator.start(parse("lora(r=2) | lr=0.02"), 0)
    run.advance(6)
    run.attached.model.eval()
    return run


def inputs_of(evaluator: TrainedEvaluator, rows: list[int]) -> dict[str, Tensor]:
    return evaluator.tokens["train"].batch(rows, CPU).inputs


def dense_jacobians(attached: Attached, inputs: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    """Probabilities, and the gradients of each logit by one matrix, shape [examples, classes, outputs, inputs]."""
    layer = attached.model.get_submodule(name)
    matrices = [layer.weight] if layer.bias is None or not layer.bias.requires_grad else [layer.weight, layer.bias]
    logits = attached.model(**inputs).logits
    rows = []
    for logit in logits.flatten():
        weight, *bias = torch.autograd.grad(logit, matrices, retain_graph=True)
        rows.append(torch.cat([weight, *(one[:, None] for one in bias)], dim=1).double())
    jacobians = torch.stack(rows).reshape(*logits.shape, *rows[0].shape)
    return torch.softmax(logits.detach().double(), dim=1), jacobians


def dense_curvature(p: Tensor, jacobians: Tensor) -> Tensor:
    """The Gauss-Newton matrix of one matrix of weights, written out."""
    flat = jacobians.flatten(2)
    hessians = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    return torch.einsum("nkp,nkl,nlq->pq", flat, hessians, flat)


def dense_posterior(block: Block) -> Tensor:
    """The covariance of one matrix's weights, written out."""
    rows, columns = block.curvature.shape
    axes = torch.eye(rows * columns, dtype=torch.float64)
    if block.out_axes is not None and block.in_axes is not None:
        axes = torch.kron(block.out_axes, block.in_axes)
    return axes @ torch.diag(1.0 / (block.curvature.flatten() + block.precision)) @ axes.T


def test_the_layers_are_those_of_the_adapter_and_the_head(run: TrainedRun) -> None:
    layers = trained_layers(run.attached)
    trained = sum(one.weight.numel() for one in layers.values())
    assert trained == run.attached.trainable_params + 16 * 3
    assert "classifier" in layers
    assert sum("lora_A" in name for name in layers) == sum("lora_B" in name for name in layers) == 4


def test_the_diagonal_is_that_of_the_dense_matrix(evaluator: TrainedEvaluator, run: TrainedRun) -> None:
    batches = [inputs_of(evaluator, rows) for rows in ([0, 1, 2], [3, 4])]
    fit = fit_adapter(run.attached, batches, 0.5, "diagonal")
    for name, block in fit.blocks.items():
        dense = sum(dense_curvature(*dense_jacobians(run.attached, one, name)) for one in batches)
        expected = torch.diagonal(torch.as_tensor(dense)) / 0.5
        assert torch.allclose(block.curvature.flatten(), expected, rtol=1e-3, atol=1e-9), name


def test_the_factors_are_exact_where_one_token_counts(evaluator: TrainedEvaluator, run: TrainedRun) -> None:
    """One example: the head, and the last layer's queries, matter to the logits at the first token only."""
    inputs = inputs_of(evaluator, [0])
    fit = fit_adapter(run.attached, [inputs], 1.0, "kronecker")
    exact = [name for name in fit.blocks if name == "classifier" or ("layer.1." in name and "query" in name)]
    assert len(exact) == 3
    for name in exact:
        block = fit.blocks[name]
        assert block.out_axes is not None
        assert block.in_axes is not None
        axes = torch.kron(block.out_axes, block.in_axes)
        found = axes @ torch.diag(block.curvature.flatten()) @ axes.T
        dense = dense_curvature(*dense_jacobians(run.attached, inputs, name))
        assert torch.allclose(found, dense, rtol=1e-3, atol=1e-6 * float(dense.abs().max())), name


def test_the_factors_resemble_the_dense_matrix_elsewhere(evaluator: TrainedEvaluator, run: TrainedRun) -> None:
    """An approximation: of the right size, and nearer in its own axes than the diagonal of another matrix is."""
    inputs = inputs_of(evaluator, list(range(8)))
    fit = fit_adapter(run.attached, [inputs], 1.0, "kronecker")
    for name, block in fit.blocks.items():
        dense = dense_curvature(*dense_jacobians(run.attached, inputs, name))
        assert 0.2 < float(block.curvature.sum() / dense.trace()) < 5.0, name


@pytest.mark.parametrize("structure", STRUCTURES)
def test_the_covariance_of_logits_is_that_of_the_dense_posterior(
    evaluator: TrainedEvaluator, run: TrainedRun, structure: Structure
) -> None:
    fit = fit_adapter(run.attached, [inputs_of(evaluator, list(range(8)))], 1.0, structure)
    inputs = inputs_of(evaluator, [8, 9, 10])
    _, seen = look(run.attached.model, fit.layers, inputs)
    expected = torch.zeros(3, 3, 3, dtype=torch.float64)
    for name, block in fit.blocks.items():
        flat = dense_jacobians(run.attached, inputs, name)[1].flatten(2)
        expected += flat @ dense_posterior(block) @ flat.transpose(1, 2)
    assert torch.allclose(fit.covariance(seen), expected, rtol=2e-3)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_the_priors_are_the_most_likely_ones(
    evaluator: TrainedEvaluator, run: TrainedRun, structure: Structure
) -> None:
    fit = fit_adapter(run.attached, [inputs_of(evaluator, list(range(8)))], 0.1, structure)
    of_adapter = [name for name in fit.blocks if name != "classifier"]
    assert len({fit.blocks[name].precision for name in of_adapter}) == 1
    assert fit.blocks["classifier"].precision != fit.blocks[of_adapter[0]].precision
    for names in (["classifier"], of_adapter):
        best = evidence(fit, names, 1.0)
        assert best > max(evidence(fit, names, 1.05), evidence(fit, names, 1 / 1.05))


def evidence(fit: AdapterLaplace, names: list[str], factor: float) -> float:
    """The logarithm of the marginal likelihood, as far as it depends on the prior's precision."""
    total = 0.0
    for name in names:
        layer, block = fit.layers[name], fit.blocks[name]
        precision = factor * block.precision
        weights = [layer.weight, *([layer.bias] if layer.bias is not None and layer.bias.requires_grad else [])]
        prior = sum(float(one.detach().double().square().sum()) for one in weights)
        volume = float(torch.log(block.curvature + precision).sum()) - block.curvature.numel() * math.log(precision)
        total -= 0.5 * (precision * prior + volume)
    return total


def test_the_mean_of_probabilities_is_the_integral() -> None:
    """Two classes: only their difference counts, and Gauss-Hermite quadrature integrates it."""
    logits = torch.tensor([[0.3, -1.0], [2.0, 0.0]], dtype=torch.float64)
    roots = torch.tensor([[[1.0, 0.2], [0.0, 0.7]], [[2.0, 0.0], [1.0, 1.0]]], dtype=torch.float64)
    covariance = roots @ roots.transpose(1, 2)
    points, weights = np.polynomial.hermite_e.hermegauss(80)
    found = torch.exp(mean_logits(logits, covariance))
    for row in range(2):
        gap = float(logits[row, 0] - logits[row, 1])
        spread = float(covariance[row, 0, 0] + covariance[row, 1, 1] - 2 * covariance[row, 0, 1])
        expected = weights @ (1 / (1 + np.exp(-(gap + math.sqrt(spread) * points)))) / weights.sum()
        assert float(found[row, 0]) == pytest.approx(expected, abs=1e-3)
        assert float(found[row].sum()) == pytest.approx(1.0)
    sure = torch.tensor([[4.0, 0.0, 0.0]], dtype=torch.float64)
    assert mean_logits(sure, 4 * torch.eye(3, dtype=torch.float64)[None])[0, 0] < torch.log_softmax(sure, dim=1)[0, 0]
    shifted = mean_logits(logits, covariance + 25.0)
    assert torch.allclose(shifted, mean_logits(logits, covariance), atol=1e-3), "a shift of all logits means nothing"
    still = mean_logits(logits, torch.zeros(2, 2, 2, dtype=torch.float64))
    assert torch.allclose(still, torch.log_softmax(logits, dim=1))


def bench_of(evaluator: TrainedEvaluator, attached: Attached) -> Bench:
    tokens = {role: evaluator.folder.read(role) for role in ("validation", "calibration", "test")}
    return Bench(attached, tokens, evaluator.tokens["train"], 3, 4, evaluator.backbone.device, 0)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_variant_says_every_role_softer_than_the_candidate(
    evaluator: TrainedEvaluator, run: TrainedRun, structure: Structure
) -> None:
    bench = bench_of(evaluator, run.attached)
    made = laplace_variant(structure, bench, CalibrationSpec())
    assert set(made.logits) == set(bench.roles)
    assert made.passes == 1 + 3
    assert made.latency_ms > 0
    layers = trained_layers(run.attached)
    numbers = run.attached.trainable_params + run.attached.head_params
    if structure == "kronecker":
        shapes = [(one.out_features, one.in_features + (one.bias is not None)) for one in layers.values()]
        numbers += sum(rows**2 + columns**2 for rows, columns in shapes)
    assert made.bytes == 8 * numbers
    assert np.abs(made.logits["validation"] - log_softmax(run.logits["validation"])).max() < 0.5
    again = laplace_variant(structure, bench, CalibrationSpec())
    assert np.array_equal(made.logits["test"], again.logits["test"]), "the draws are the same every time"
    alone = bench.roles["test"].batch([0], CPU).inputs
    fit = fit_adapter(run.attached, [inputs_of(evaluator, [0, 1])], 1.0, structure)
    both = bench.roles["test"].batch([0, 1], CPU).inputs
    assert torch.allclose(fit.logits(alone)[0], fit.logits(both)[0], atol=1e-4), "each text stands for itself"


def test_training_goes_on_as_if_nothing_had_been(evaluator: TrainedEvaluator, run: TrainedRun) -> None:
    before = {name: one.clone() for name, one in run.attached.model.named_parameters()}
    laplace_variant("diagonal", bench_of(evaluator, run.attached), CalibrationSpec())
    assert all(torch.equal(one, before[name]) for name, one in run.attached.model.named_parameters())
    assert all(one.grad is None for one in run.attached.trainable)
    assert not any(module._forward_hooks for module in trained_layers(run.attached).values())


def test_what_has_no_such_posterior_is_told(evaluator: TrainedEvaluator) -> None:
    spec = CalibrationSpec(predictors=("laplace_diagonal", "laplace_kronecker"))
    for text, why in (("bitfit", "its parts train no linear layer"), ("lora(r=2,use_dora=true)", "each example once")):
        attached = attach(evaluator.backbone.model, evaluator.anatomy, parse(text), 0)
        made, refused = make_variants(bench_of(evaluator, attached), spec)
        assert made == {}
        assert set(refused) == {"laplace_diagonal", "laplace_kronecker"}
        assert all(why in one for one in refused.values()), refused


def test_factors_that_are_too_large_are_refused(
    evaluator: TrainedEvaluator, run: TrainedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evaluators.adapter_laplace.MOST_BYTES", 8 * 16**2)
    with pytest.raises(UnsupportedError, match="ask for laplace_diagonal"):
        fit_adapter(run.attached, [inputs_of(evaluator, [0])], 1.0, "kronecker")


def test_heads_that_see_tokens_have_one_too(tmp_path: Path) -> None:
    evaluator = TrainedEvaluator(evaluator_spec(tmp_path, architecture="llama", num_labels=3))
    attached = attach(evaluator.backbone.model, evaluator.anatomy, parse("lora(r=2)"), 0)
    attached.model.eval()
    fit: Any = partial(fit_adapter, attached, [inputs_of(evaluator, [0, 1, 2])], 1.0)
    for structure in STRUCTURES:
        found = fit(structure).logits(inputs_of(evaluator, [3, 4]))
        assert torch.allclose(torch.exp(found).sum(dim=1), torch.ones(2, dtype=torch.float64))
