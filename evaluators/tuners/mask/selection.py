"""Which weights a mask trains, when the data decide (FISH masks)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from evaluators.tuners.mask.config import MaskConfig
from evaluators.tuners.mask.layer import MaskLayer
from search_space.errors import DataError, PlacementError


def _loss_of(model: nn.Module, batch: Any) -> Tensor:
    loss: Tensor = model(**batch).loss
    return loss


def fisher_scores(
    model: nn.Module,
    batches: Iterable[Any],
    loss_of: Callable[[nn.Module, Any], Tensor] = _loss_of,
    adapter_name: str = "default",
) -> dict[str, Tensor]:
    """Estimate the diagonal of the empirical Fisher information of the masked modules' weights.

    F_i = 1/N Σ_j (∂ log p(y_j | x_j) / ∂ W_i)² (Sung et al. 2021). The estimate is the paper's when every
    batch holds one example; larger batches average gradients before they are squared, which costs less.

    Args:
        model: A model with a mask on it. Afterwards it is as it was.
        batches: Batches with labels. A few hundred examples are enough.
        loss_of: Computes the loss of a batch; by default `model(**batch).loss`.
        adapter_name: Name of the mask.

    Returns:
        Scores by full module name, in float32, of the shape of each weight.

    Raises:
        DataError: There are no batches.
        PlacementError: The model has no mask of this name.
    """
    layers = masked_layers(model, adapter_name)
    weights = [layer.get_base_layer().get_parameter("weight") for layer in layers.values()]
    sums, seen = [torch.zeros_like(weight, dtype=torch.float32) for weight in weights], 0
    with _differentiable(model, weights):
        for batch in batches:
            seen += 1
            for total, gradient in zip(sums, torch.autograd.grad(loss_of(model, batch), weights), strict=True):
                total.add_(gradient.to(torch.float32).square())
    if not seen:
        raise DataError("the Fisher information cannot be estimated without batches: give at least one")
    return {name: total / seen for name, total in zip(layers, sums, strict=True)}


def select_by_scores(model: nn.Module, scores: Mapping[str, Tensor], adapter_name: str = "default") -> None:
    """Move a mask to the weights with the largest scores over all its targets, with zeros there.

    The number of trained weights stays what it was. The parameters are new, so optimisers are made afterwards. Ties
    go to the target that comes first. NaN scores are an error.

    Args:
        model: A model with a mask on it.
        scores: A score per weight, by full module name, of the shape of the weight (`fisher_scores`).
        adapter_name: Name of the mask.

    Raises:
        PlacementError: The model has no mask of this name, or scores of a target are missing.
        DataError: A score is NaN.
    """
    layers = masked_layers(model, adapter_name)
    missing = [name for name in layers if name not in scores]
    if missing:
        raise PlacementError(f"mask: there are no scores for {missing[0]!r}")
    ranked = torch.cat([scores[name].detach().flatten().float().cpu() for name in layers])
    if bool(ranked.isnan().any()):
        raise DataError("mask: scores hold NaN; lower the precision of the model or look at the data")
    wanted = sum(layer.sparse_mask_values[adapter_name].numel() for layer in layers.values())
    chosen = torch.zeros(ranked.numel(), dtype=torch.bool)
    chosen[ranked.argsort(descending=True, stable=True)[:wanted]] = True
    _place(layers, chosen, adapter_name)


def masked_layers(model: nn.Module, adapter_name: str) -> dict[str, MaskLayer]:
    """Return the layers of a mask by full module name, in the model's order.

    Raises:
        PlacementError: The model has no mask of this name.
    """
    found = (module for module in model.modules() if isinstance(module, MaskLayer))
    layers = {
        layer.sparse_mask_site[adapter_name].name: layer for layer in found if adapter_name in layer.sparse_mask_site
    }
    if not layers:
        raise PlacementError(f"mask: the model has no mask called {adapter_name!r}")
    return layers


def _place(layers: Mapping[str, MaskLayer], chosen: Tensor, adapter_name: str) -> None:
    sizes = [layer.get_base_layer().get_parameter("weight").numel() for layer in layers.values()]
    counts = {}
    for (name, layer), part in zip(layers.items(), chosen.split(sizes), strict=True):
        places = part.nonzero().flatten().to(layer.adapter_device)
        trained = layer.sparse_mask_values[adapter_name].requires_grad
        layer.place(adapter_name, places)
        layer.sparse_mask_values[adapter_name].requires_grad_(trained)
        counts[name] = places.numel()
    config: MaskConfig = next(iter(layers.values())).sparse_mask_config[adapter_name]
    config.counts = counts


@contextmanager
def _differentiable(model: nn.Module, weights: list[nn.Parameter]) -> Iterator[None]:
    """Let gradients reach frozen weights for a while, in evaluation mode; no value changes."""
    training = {module: module.training for module in model.modules()}
    frozen = [weight for weight in weights if not weight.requires_grad]
    model.eval()
    for weight in frozen:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)
        for module, mode in training.items():
            module.training = mode
