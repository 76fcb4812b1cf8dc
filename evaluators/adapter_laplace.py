"""Laplace approximation of an adapter: how unsure all its trained matrices are, and the head's, and what that does.

The posterior of the weights is taken for a Gaussian around the trained ones (MacKay 1992; for LoRA: Yang et al. 2023,
arXiv:2308.13111). Its precision is the generalised Gauss-Newton matrix of the training loss, summed over the training
examples, plus that of a Gaussian prior around 0: one for the adapter's matrices and one for the head's, each chosen by
the marginal likelihood. Two structures (Daxberger et al. 2021, arXiv:2106.14806):

    diagonal     the exact diagonal of the matrix
    kronecker    a block for each matrix, B x A: A = sum of a a^T over its inputs a, B = the mean of g H g^T over the
                 gradients g of the logits by its outputs, H = diag(p) - p p^T; each token that a logit depends on
                 counts as an example (Martens & Grosse 2015; "expand" of Eschenhagen et al. 2023, arXiv:2311.00636)

A prediction is that of the linearised model, which is the right one for this posterior (Immer et al. 2021,
arXiv:2008.08216): the logits are Gaussian around the model's with covariance J S J^T, and probabilities are a mean over
draws of them, the same for every text. It takes one forward pass and one back for each class.

What is no matrix of a linear layer (norms, biases beside that of a layer here, gates) stays as it was trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from evaluators.attach import Attached
from search_space.errors import UnsupportedError

Structure: TypeAlias = Literal["diagonal", "kronecker"]
DRAWS = 512
MOST_BYTES = 2 * 2**30
"""Of Kronecker factors; a wide model has larger ones than its adapter is worth."""
_LOG_PRECISIONS = (math.log(1e-4), math.log(1e8))


@dataclass(frozen=True)
class Seen:
    """What some examples show of one matrix.

    Attributes:
        inputs: Of its layer, with a one for a trained bias, shape [examples, tokens, inputs].
        gradients: Of each logit by the layer's outputs, shape [classes, examples, tokens, outputs].
    """

    inputs: Tensor
    gradients: Tensor

    def jacobians(self) -> Tensor:
        """Return the gradients of each logit by the matrix, shape [classes, examples, outputs, inputs]."""
        return torch.einsum("kbto,bti->kboi", self.gradients, self.inputs)


@dataclass(frozen=True)
class Block:
    """The posterior of one matrix, in its own axes.

    Attributes:
        curvature: Along these axes, shape [outputs, inputs].
        precision: Of the prior.
        out_axes: Eigenvectors in columns; None where the axes are those of the matrix.
        in_axes: The same of the inputs.
    """

    curvature: Tensor
    precision: float
    out_axes: Tensor | None = None
    in_axes: Tensor | None = None

    def covariance(self, seen: Seen) -> Tensor:
        """Return what this matrix adds to the covariance of the logits, shape [examples, classes, classes]."""
        turned = seen
        if self.out_axes is not None and self.in_axes is not None:
            turned = Seen(seen.inputs @ self.in_axes, seen.gradients @ self.out_axes)
        scaled = turned.jacobians() / torch.sqrt(self.curvature + self.precision)
        flat = scaled.flatten(2).transpose(0, 1)
        return flat @ flat.transpose(1, 2)

    @property
    def bytes(self) -> int:
        """Of what must be kept beside the weights."""
        return sum(one.nbytes for one in (self.curvature, self.out_axes, self.in_axes) if one is not None)


@dataclass(frozen=True)
class AdapterLaplace:
    """A fitted posterior.

    Attributes:
        layers: The layers whose matrices it is about, by name.
        blocks: One for each, by the same names.
        attached: The candidate.
        classes: Number of classes.
    """

    layers: Mapping[str, nn.Linear]
    blocks: Mapping[str, Block]
    attached: Attached
    classes: int

    def logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the logarithm of the mean probabilities, shape [examples, classes], float64 on the CPU."""
        logits, seen = look(self.attached.model, self.layers, inputs)
        return mean_logits(logits, self.covariance(seen))

    def covariance(self, seen: Mapping[str, Seen]) -> Tensor:
        """Return the covariance of the logits, shape [examples, classes, classes]."""
        return torch.stack([block.covariance(seen[name]) for name, block in self.blocks.items()]).sum(dim=0)

    @property
    def bytes(self) -> int:
        """Of what must be kept beside the weights."""
        return sum(block.bytes for block in self.blocks.values())


def fit_adapter(
    attached: Attached, batches: Iterable[Mapping[str, Tensor]], share: float, structure: Structure
) -> AdapterLaplace:
    """Fit the posterior of a trained candidate.

    Args:
        attached: The candidate, trained.
        batches: Inputs of training examples.
        share: Which part of the training examples these are; they stand for all.
        structure: Of the precision.

    Raises:
        UnsupportedError: Its parts have no matrix that this is for, or the factors would be too large.
    """
    layers = trained_layers(attached)
    sums = {name: _SUMS[structure](layer) for name, layer in layers.items()}
    classes = 0
    for inputs in batches:
        logits, seen = look(attached.model, layers, inputs)
        classes = logits.shape[1]
        for name, one in seen.items():
            sums[name].add(one, torch.softmax(logits, dim=1))
    curved = {name: one.block(share) for name, one in sums.items()}
    head = {id(parameter) for parameter in attached.head}
    of_head = {name for name, layer in layers.items() if id(layer.weight) in head}
    blocks = _with_prior(curved, layers, of_head) | _with_prior(curved, layers, set(layers) - of_head)
    return AdapterLaplace(layers, {name: blocks[name] for name in layers}, attached, classes)


def trained_layers(attached: Attached) -> dict[str, nn.Linear]:
    """Return the linear layers whose matrix is trained, by name, those of the head included.

    Raises:
        UnsupportedError: None of them belongs to a part.
    """
    trained = {id(parameter) for parameter in attached.trainable}
    parts = {id(parameter) for part in attached.parts for parameter in part}
    modules = attached.model.named_modules()
    found = {name: one for name, one in modules if isinstance(one, nn.Linear) and id(one.weight) in trained}
    if not any(id(layer.weight) in parts for layer in found.values()):
        raise UnsupportedError("its parts train no linear layer; the Laplace of the last layer is for all")
    return found


def look(
    model: nn.Module, layers: Mapping[str, nn.Linear], inputs: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Seen]]:
    """Run a model there and back for each class, and return its logits and what its layers saw, float64 on the CPU.

    Raises:
        UnsupportedError: A layer is used otherwise than once, on the examples.
    """
    with torch.enable_grad(), _watching(layers) as watched:
        logits = model(**inputs).logits
        for name, calls in watched.items():
            if len(calls) != 1 or len(calls[0][0]) != len(logits) or not calls[0][1].requires_grad:
                raise UnsupportedError(f"{name} does not see each example once, as the Laplace of an adapter needs it")
        outputs = [watched[name][0][1] for name in layers]
        rows = [
            torch.autograd.grad(one.sum(), outputs, retain_graph=True, materialize_grads=True)
            for one in logits.unbind(dim=1)
        ]
    seen = {
        name: Seen(_inputs(layer, watched[name][0][0]), torch.stack([_by_token(row[at]) for row in rows]))
        for at, (name, layer) in enumerate(layers.items())
    }
    return logits.detach().cpu().double(), seen


def mean_logits(logits: Tensor, covariance: Tensor, draws: int = DRAWS, seed: int = 0) -> Tensor:
    """Return the logarithm of E softmax(z), z ~ N(logits, covariance), by Sobol points and their mirror images.

    Args:
        logits: Shape [examples, classes].
        covariance: Shape [examples, classes, classes].
        draws: How many, an even number.
        seed: Of the scrambling.
    """
    values, axes = torch.linalg.eigh(covariance)
    root = axes * values.clamp(min=0.0).sqrt().unsqueeze(1)
    points = torch.quasirandom.SobolEngine(logits.shape[1], scramble=True, seed=seed)
    half = torch.special.ndtri(points.draw(draws // 2, dtype=torch.float64).clamp(1e-12, 1 - 1e-12))
    moved = torch.cat([half, -half]) @ root.transpose(1, 2)
    drawn = torch.log_softmax(logits.unsqueeze(1) + moved, dim=2)
    return torch.logsumexp(drawn, dim=1) - math.log(len(half) * 2)


@dataclass
class _Diagonal:
    """Sums the diagonal of the Gauss-Newton matrix of one layer, exactly."""

    layer: nn.Linear
    total: Tensor | None = None

    def add(self, seen: Seen, p: Tensor) -> None:
        jacobians, weights = seen.jacobians(), p.T[:, :, None, None]
        mean = (weights * jacobians).sum(dim=0)
        found = ((weights * jacobians.square()).sum(dim=0) - mean.square()).sum(dim=0)
        self.total = found if self.total is None else self.total + found

    def block(self, share: float) -> Block:
        assert self.total is not None
        return Block(self.total.clamp(min=0.0) / share, 0.0)


@dataclass
class _Kronecker:
    """Sums the two factors of one layer."""

    layer: nn.Linear
    of_inputs: Tensor = field(init=False)
    of_outputs: Tensor = field(init=False)
    tokens: int = 0

    def __post_init__(self) -> None:
        width, height = self.layer.in_features + _has_bias(self.layer), self.layer.out_features
        if 8 * (width**2 + height**2) > MOST_BYTES:
            raise UnsupportedError(
                f"a layer of {height} x {width} has Kronecker factors of more than {MOST_BYTES // 2**30} GiB; "
                "ask for laplace_diagonal"
            )
        self.of_inputs = torch.zeros(width, width, dtype=torch.float64)
        self.of_outputs = torch.zeros(height, height, dtype=torch.float64)

    def add(self, seen: Seen, p: Tensor) -> None:
        felt = seen.gradients.abs().sum(dim=(0, 3)) > 0
        inputs, gradients = seen.inputs[felt], seen.gradients[:, felt]
        weights = p[:, None, :].expand(*felt.shape, -1)[felt].T.unsqueeze(2)
        mean = (weights * gradients).sum(dim=0)
        self.of_inputs += inputs.T @ inputs
        self.of_outputs += torch.einsum("kno,knq->oq", weights * gradients, gradients) - mean.T @ mean
        self.tokens += len(inputs)

    def block(self, share: float) -> Block:
        of_out, out_axes = torch.linalg.eigh(self.of_outputs / max(self.tokens, 1))
        of_in, in_axes = torch.linalg.eigh(self.of_inputs / share)
        curvature = torch.outer(of_out.clamp(min=0.0), of_in.clamp(min=0.0))
        return Block(curvature, 0.0, out_axes, in_axes)


_SUMS: Mapping[Structure, Callable[[nn.Linear], Any]] = {"diagonal": _Diagonal, "kronecker": _Kronecker}


def _with_prior(blocks: Mapping[str, Block], layers: Mapping[str, nn.Linear], names: set[str]) -> dict[str, Block]:
    """Return some blocks with the precision of their prior, by the marginal likelihood of the approximation."""
    if not names:
        return {}
    curvature = torch.cat([blocks[name].curvature.flatten() for name in sorted(names)])
    size = sum(_squares(layers[name]) for name in names)

    def surprise(log_precision: float) -> float:
        precision = math.exp(log_precision)
        volume = float(torch.log(curvature + precision).sum())
        return 0.5 * (precision * size - len(curvature) * log_precision + volume)

    found = minimize_scalar(surprise, bounds=_LOG_PRECISIONS, method="bounded", options={"xatol": 1e-6})
    precision = math.exp(found.x)
    return {
        name: Block(one.curvature, precision, one.out_axes, one.in_axes)
        for name, one in blocks.items()
        if name in names
    }


def _squares(layer: nn.Linear) -> float:
    size = float(layer.weight.detach().double().square().sum())
    return size + (float(layer.bias.detach().double().square().sum()) if _has_bias(layer) else 0.0)


def _has_bias(layer: nn.Linear) -> bool:
    return layer.bias is not None and layer.bias.requires_grad


def _inputs(layer: nn.Linear, given: Tensor) -> Tensor:
    by_token = _by_token(given)
    return nn.functional.pad(by_token, (0, 1), value=1.0) if _has_bias(layer) else by_token


def _by_token(values: Tensor) -> Tensor:
    """Return values with an axis of tokens, float64 on the CPU."""
    return values.detach().cpu().double().reshape(len(values), -1, values.shape[-1])


@contextmanager
def _watching(layers: Mapping[str, nn.Linear]) -> Iterator[dict[str, list[tuple[Tensor, Tensor]]]]:
    """Keep what goes into layers and what comes out, call by call."""
    watched: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in layers}

    def keep(name: str) -> Callable[[nn.Module, Sequence[Tensor], Tensor], None]:
        return lambda _module, given, output: watched[name].append((given[0], output))

    hooks = [layer.register_forward_hook(keep(name)) for name, layer in layers.items()]
    try:
        yield watched
    finally:
        for hook in hooks:
            hook.remove()
