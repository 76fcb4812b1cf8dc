"""What one backward pass tells about each position of a frozen model, before anything is trained.

A low-rank update of rank r can follow at most the r largest singular directions of the loss's gradient, so the squares
of the gradient's singular values say how much a position would gain from each rank at the first step: what AdaLoRA's
importance (Zhang et al. 2023, arXiv:2303.10512) measures while it trains. EVA (Paischer et al. 2024, arXiv:2410.07170)
gives ranks by how much of the variance of a position's inputs each principal component explains. Both come from one
batch, through the head as it begins.

    python -m evaluators.saliency SPEC.json ANSWER.json

The weights' gradients are made one at a time from what flows in and out of a module, so that no more memory is needed
than for a training step with everything frozen.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evaluators.anatomy import anatomy_of
from evaluators.attach import attach
from evaluators.backbone import load
from evaluators.evaluation import EvaluatorSpec
from evaluators.optimisation import loss_of
from evaluators.tokens import Batch, TokenFolder
from search_space.files import atomic_write
from search_space.notation import parse

_MOST_RANKS = 64


@dataclass(frozen=True)
class Saliency:
    """What each position is worth, by the name of its module.

    Attributes:
        gradient: Squared singular values of the loss's gradient, the largest first, as shares of all positions' sum.
        inputs: Share of the variance of the module's inputs that each principal component explains, the largest first.
    """

    gradient: Mapping[str, tuple[float, ...]]
    inputs: Mapping[str, tuple[float, ...]]

    def to_json(self) -> dict[str, Any]:
        """Return this as JSON data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Saliency:
        """Read what `to_json` wrote."""
        return cls(*({name: tuple(one) for name, one in data[part].items()} for part in ("gradient", "inputs")))


def look(spec: EvaluatorSpec) -> Saliency:
    """Load the backbone and look at the first training batch.

    Raises:
        DataError: The model cannot be read.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)  # the decompositions begin at random directions
        folder = TokenFolder.open(Path(spec.tokens))
        backbone = load(spec.model, len(folder.classes))
        anatomy, tokens = anatomy_of(backbone.model), folder.read("train")
        model = attach(backbone.model, anatomy, parse("head")).model
        names = [site.name for site in anatomy.sites if site.layer is not None and site.kind in ("linear", "conv1d")]
        batch = tokens.batch(tokens.first_pass(spec.training.batch_size, seed=0)[0], backbone.device)
        return _looked(model, names, batch)


def _looked(model: nn.Module, names: list[str], batch: Batch) -> Saliency:
    gradient: dict[str, tuple[float, ...]] = {}
    inputs: dict[str, tuple[float, ...]] = {}
    kept = batch.inputs["attention_mask"].bool()
    hooks = [model.get_submodule(name).register_forward_hook(_watch(name, kept, gradient, inputs)) for name in names]
    hooks.append(model.get_input_embeddings().register_forward_hook(_let_gradients_through))  # type: ignore[operator]
    try:
        loss_of(model(**batch.inputs).logits, batch.labels, 0.0).backward()
    finally:
        for hook in hooks:
            hook.remove()
    total = sum(map(sum, gradient.values())) or 1.0
    return Saliency({name: tuple(one / total for one in gradient[name]) for name in names if name in gradient}, inputs)


def _watch(
    name: str, kept: Tensor, gradient: dict[str, tuple[float, ...]], inputs: dict[str, tuple[float, ...]]
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def watch(_module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        seen = _rows(given[0].detach(), kept)
        squares = _squared_singular_values(seen)
        whole = float(seen.square().sum()) or 1.0
        inputs[name] = tuple(one / whole for one in squares)

        def keep(flowing: Tensor) -> None:
            gradient[name] = _squared_singular_values(_rows(flowing, kept).T @ seen)

        output.register_hook(keep)

    return watch


def _rows(values: Tensor, kept: Tensor) -> Tensor:
    """Return hidden states as rows [tokens, width] in float32, without those of padding."""
    return (values[kept] if values.shape[:2] == kept.shape else values.flatten(0, -2)).float()


def _squared_singular_values(matrix: Tensor) -> tuple[float, ...]:
    """Return the largest squared singular values, in falling order."""
    most = min(_MOST_RANKS, *matrix.shape)
    _, values, _ = torch.svd_lowrank(matrix, q=most, niter=2)
    return tuple(values.square().tolist())


def _let_gradients_through(_module: nn.Module, _inputs: object, output: Tensor) -> None:
    output.requires_grad_(True)


if __name__ == "__main__":
    asked, answer = map(Path, sys.argv[1:])
    found = look(EvaluatorSpec.from_json(json.loads(asked.read_text(encoding="utf-8"))))
    atomic_write(answer, json.dumps(found.to_json()))
