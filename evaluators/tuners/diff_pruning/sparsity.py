"""How sparse a diff is: its penalty in training, and its final mask."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evaluators.tuners.diff_pruning.layer import OPEN, DiffPruningLayer
from search_space.errors import CandidateError, PlacementError


def sparsity_penalty(model: nn.Module, adapter_name: str = "default") -> Tensor:
    """Return λ times the expected number of nonzero changes, a scalar to add to the loss.

    Raises:
        PlacementError: The model has no diff of this name.
    """
    layers = pruned_layers(model, adapter_name)
    expected = torch.stack([layer.expected_nonzeros(adapter_name) for layer in layers]).sum()
    return layers[0].diff_pruning_config[adapter_name].sparsity_penalty * expected


def kept_weights(model: nn.Module, adapter_name: str = "default") -> int:
    """Return how many weights the diff changes: what is deployed.

    Raises:
        PlacementError: The model has no diff of this name.
    """
    return sum(int(change.count_nonzero()) for change in _changes(pruned_layers(model, adapter_name), adapter_name))


def fix_mask(model: nn.Module, density: float, adapter_name: str = "default") -> int:
    """Keep the largest changes over all targets and close the gates of the others for good (section 3.2).

    Gates of kept changes are opened for good, so further training moves the kept changes only.

    Args:
        model: A model with a trained diff on it.
        density: Fraction of the targets' weights that may change, above 0 and at most 1.
        adapter_name: Name of the diff.

    Returns:
        How many changes were kept; changes that are zero are not.

    Raises:
        CandidateError: The density is out of range.
        PlacementError: The model has no diff of this name.
    """
    if not 0 < density <= 1:
        raise CandidateError(f"diff_pruning: density must be above 0 and at most 1, not {density!r}")
    layers = pruned_layers(model, adapter_name)
    changes = _changes(layers, adapter_name)
    size = torch.cat([change.abs().flatten() for change in changes])
    chosen = torch.zeros_like(size, dtype=torch.bool)
    chosen[size.argsort(descending=True, stable=True)[: round(density * size.numel())]] = True
    chosen &= size > 0
    parts = chosen.split([change.numel() for change in changes])
    for layer, change, part in zip(layers, changes, parts, strict=True):
        _fix(layer, change, part.view_as(change), adapter_name)
    return int(chosen.sum())


def pruned_layers(model: nn.Module, adapter_name: str) -> list[DiffPruningLayer]:
    """Return the layers of a diff.

    Raises:
        PlacementError: The model has no diff of this name.
    """
    found = [module for module in model.modules() if isinstance(module, DiffPruningLayer)]
    layers = [layer for layer in found if adapter_name in layer.diff_pruning_change]
    if not layers:
        raise PlacementError(f"diff_pruning: the model has no diff called {adapter_name!r}")
    return layers


@torch.no_grad()
def _changes(layers: list[DiffPruningLayer], adapter_name: str) -> list[Tensor]:
    """Return what each layer changes in evaluation."""
    changes = []
    for layer in layers:
        mode, layer.training = layer.training, False
        changes.append(layer.deltas(adapter_name)["weight"])
        layer.training = mode
    return changes


@torch.no_grad()
def _fix(layer: DiffPruningLayer, change: Tensor, chosen: Tensor, adapter_name: str) -> None:
    layer.diff_pruning_change[adapter_name].copy_(change * chosen)
    per_weight, *of_the_whole = layer.gates(adapter_name)
    per_weight.copy_(torch.where(chosen, OPEN, -OPEN))
    for gate in of_the_whole:
        gate.fill_(OPEN)
