"""What predicts by a posterior of trained weights: of the last layer, or of the whole adapter; and exports that do so.

A posterior needs no labels, only the texts that the candidate was trained on, or some of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from calibration.calibrators import Calibrator
from evaluators.adapter_laplace import AdapterLaplace, Structure, fit_adapter
from evaluators.attach import Attached
from evaluators.exported import Predictor, calibrated_probabilities
from evaluators.laplace import Floats, LastLayerLaplace, fit_last_layer
from evaluators.predictors import PredictionCost, Texts, cost_of
from search_space.errors import UnsupportedError

Inputs: TypeAlias = Mapping[str, Tensor]
Spread: TypeAlias = Literal["last_layer"] | Structure
"""Which weights are spread, and how."""


class Posterior(Protocol):
    """What a posterior of weights can do."""

    @property
    def passes(self) -> int:
        """Passes through the model for each text, there or back."""

    @property
    def bytes(self) -> int:
        """Of what must be kept beside the weights."""

    def logits(self, inputs: Inputs) -> Floats:
        """Return logits of shape [examples, classes], whose softmax is the mean prediction."""


def fit_posterior(attached: Attached, batches: Iterable[Inputs], share: float, spread: Spread) -> Posterior:
    """Fit a posterior of a trained candidate.

    Args:
        attached: The candidate, trained, and set to evaluation.
        batches: Inputs of training examples.
        share: Which part of the training examples these are; they stand for all.
        spread: Which weights, and how.

    Raises:
        UnsupportedError: The candidate has no such posterior.
    """
    if spread == "last_layer":
        return _of_last_layer(attached, batches, share)
    return _OfAdapter(fit_adapter(attached, batches, share, spread))


@dataclass(frozen=True)
class LaplacePredictor:
    """An export that predicts by a posterior of its weights.

    Attributes:
        member: The export.
        posterior: Of its weights.
        fit: The calibrator of what it says; None where it is not calibrated.
    """

    member: Predictor
    posterior: Posterior
    fit: Calibrator | None = None

    def logits(self, texts: Texts) -> NDArray[np.float64]:
        """Return the logarithm of the mean probabilities, up to a shift of each row, shape [texts, classes]."""
        return self.posterior.logits(self.member.inputs(texts)) if texts else self.member.logits(texts)

    def probabilities(self, texts: Texts) -> NDArray[np.float64]:
        """Return calibrated probabilities of shape [texts, classes]."""
        return calibrated_probabilities(self.logits(texts), self.fit)

    @cached_property
    def cost(self) -> PredictionCost:
        """The passes of the posterior; the bytes of the candidate and of what it keeps beside."""
        one = cost_of(self.member)
        return replace(one, passes=self.posterior.passes, bytes=one.bytes + self.posterior.bytes)


def with_laplace(
    member: Predictor, texts: Texts, spread: Spread = "last_layer", *, size: int = 32, examples: int | None = None
) -> LaplacePredictor:
    """Return an export that predicts by a posterior; `evaluators.predictors.calibrated` gives it a temperature.

    Args:
        member: The export.
        texts: What it was trained on, or a sample.
        spread: Which weights, and how.
        size: Texts of a pass.
        examples: How many it was trained on, where `texts` are a sample.

    Raises:
        UnsupportedError: The candidate has no such posterior.
        ValueError: No texts, or fewer examples than texts.
    """
    if member.task is not None:
        raise UnsupportedError("its last layer is that of several tasks; Laplace is for one")
    if not texts:
        raise ValueError("a posterior needs texts that the candidate was trained on")
    if examples is not None and examples < len(texts):
        raise ValueError(f"{len(texts)} texts are no sample of {examples}")
    batches = (member.inputs(texts[start : start + size]) for start in range(0, len(texts), size))
    return LaplacePredictor(
        member, fit_posterior(member.attached, batches, len(texts) / (examples or len(texts)), spread)
    )


@dataclass(frozen=True)
class _OfAdapter:
    laplace: AdapterLaplace

    @property
    def passes(self) -> int:
        return 1 + self.laplace.classes

    @property
    def bytes(self) -> int:
        return self.laplace.bytes

    def logits(self, inputs: Inputs) -> Floats:
        return np.asarray(self.laplace.logits(inputs).numpy())


@dataclass(frozen=True)
class _OfLastLayer:
    model: nn.Module
    layer: nn.Linear
    laplace: LastLayerLaplace
    passes: int = 1

    @property
    def bytes(self) -> int:
        return self.laplace.bytes

    def logits(self, inputs: Inputs) -> Floats:
        return self.laplace.logits(*look_at_last(self.model, self.layer, inputs))


def last_layer(attached: Attached) -> nn.Linear:
    """Return the linear layer whose outputs are the logits. Raises UnsupportedError where there is none."""
    head = {id(parameter) for parameter in attached.head}
    layers = [one for one in attached.model.modules() if isinstance(one, nn.Linear) and id(one.weight) in head]
    if not layers:
        raise UnsupportedError("its head has no linear layer")
    return layers[-1]


def look_at_last(model: nn.Module, layer: nn.Linear, inputs: Inputs) -> tuple[Floats, Floats]:
    """Run the model, and return what went into its last layer and what came out of the model.

    Raises:
        UnsupportedError: The layer sees tokens one by one, not examples.
    """
    kept: list[Tensor] = []
    keep: Callable[[nn.Module, Sequence[Tensor]], None] = lambda _module, given: kept.append(given[0])  # noqa: E731
    hook = layer.register_forward_pre_hook(keep)
    try:
        with torch.inference_mode():
            logits = model(**inputs).logits
    finally:
        hook.remove()
    if len(kept) != 1 or kept[0].ndim != 2:
        raise UnsupportedError("its last layer sees tokens one by one; Laplace is for heads that see examples")
    return kept[0].cpu().double().numpy(), logits.cpu().double().numpy()


def _of_last_layer(attached: Attached, batches: Iterable[Inputs], share: float) -> _OfLastLayer:
    layer = last_layer(attached)
    looks = [look_at_last(attached.model, layer, inputs) for inputs in batches]
    features, logits = (np.concatenate([one[at] for one in looks]) for at in (0, 1))
    bias = layer.bias if layer.bias is not None else torch.zeros(layer.out_features)
    weights = torch.cat([layer.weight, bias[:, None].to(layer.weight)], dim=1).detach().double().cpu().numpy()
    laplace = fit_last_layer(features, logits, weights, round(len(features) / share))
    return _OfLastLayer(attached.model, layer, laplace)
