"""What some methods need while they train, beyond a gradient: found here by peft's name of their type, nowhere else.

AdaLoRA takes rank from the matrices that need it least, diff pruning pays for every change, and a sparse mask may
have to look at training data before it is chosen. Every other type trains without a hook.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from peft import AdaLoraConfig
from peft.tuners.adalora.layer import AdaLoraLayer, RankAllocator
from torch import Tensor, nn

from evaluators.attach import Attached
from evaluators.tuners.diff_pruning import sparsity_penalty
from evaluators.tuners.mask import fisher_scores, select_by_scores
from evaluators.tuners.mask.selection import masked_layers
from search_space.candidate import Part
from search_space.registry import method

Losses = Callable[[nn.Module, Any], Tensor]


@dataclass(frozen=True)
class Schooling:
    """What training tells the hooks before its first step.

    Attributes:
        steps: Optimiser steps of full training.
        batches: A few batches of training data, for methods that look at them first.
        loss_of: The loss of a model on one of those batches.
    """

    steps: int
    batches: Iterable[Any]
    loss_of: Losses


class Hook(Protocol):
    """What one part needs in training. A hook changes its own part and nothing else."""

    def begin(self, schooling: Schooling) -> Mapping[int, nn.Parameter]:
        """Prepare before the first step, the optimiser not made yet. Returns new parameters by the id of the old."""

    def penalty(self) -> Tensor | None:
        """Return a scalar to add to the loss, if any."""

    def after_step(self, step: int) -> None:
        """Act after optimiser step number `step`, from 1 on; gradients are still there."""

    def fit_to(self, state: Mapping[str, Tensor]) -> None:
        """Take the shapes of a saved state before it is loaded."""

    def assume(self) -> None:
        """Stand as if training had begun, without data: for predictions from shapes."""


class NoHook:
    """The hook of methods that need none, and the base of the others."""

    def __init__(self, model: nn.Module, name: str, part: Part) -> None:
        self._model, self._name, self._part = model, name, part

    def begin(self, schooling: Schooling) -> Mapping[int, nn.Parameter]:
        """Change nothing."""
        return {}

    def penalty(self) -> Tensor | None:
        """Add nothing."""
        return None

    def after_step(self, step: int) -> None:
        """Do nothing."""

    def fit_to(self, state: Mapping[str, Tensor]) -> None:
        """Change nothing."""

    def assume(self) -> None:
        """Change nothing."""


class AdaLoraHook(NoHook):
    """Allocates the rank: free for a tenth of the steps, then pruned, then fixed for the last third.

    Zhang et al. 2023 (arXiv:2303.10512), algorithm 1; the regulariser is their equation 4.
    """

    _ORTHOGONALITY = 0.5

    def begin(self, schooling: Schooling) -> Mapping[int, nn.Parameter]:
        """Make the allocator for the real number of steps."""
        steps = schooling.steps
        config = AdaLoraConfig(
            init_r=next(iter(self._layers())).r[self._name],
            target_r=self._part["target_r"],
            tinit=steps // 10,
            tfinal=steps // 3,
            deltaT=max(1, steps // 100),
            total_step=steps,
        )
        self._fixed_from = steps - config.tfinal
        self._ranks: Any = None
        self._allocator = RankAllocator(self._model, config, self._name)
        return {}

    def penalty(self) -> Tensor | None:
        """Keep the factors near orthogonal."""
        terms = []
        for layer in self._layers():
            first, second = layer.lora_A[self._name], layer.lora_B[self._name]
            for gram in (first @ first.T, second.T @ second):
                terms.append(torch.norm(gram - torch.eye(len(gram), device=gram.device), p="fro"))
        return self._ORTHOGONALITY * torch.stack(terms).mean()

    def after_step(self, step: int) -> None:
        """Take rank away, and keep away what was taken."""
        if step > self._fixed_from:
            self._allocator.mask_using_rank_pattern(self._model, self._ranks)
            return
        last = step == self._fixed_from
        _, self._ranks = self._allocator.update_and_allocate(self._model, step, force_mask=last)
        if last:
            self._allocator.reset_ipt()

    def _layers(self) -> list[Any]:
        layers = (module for module in self._model.modules() if isinstance(module, AdaLoraLayer))
        return [layer for layer in layers if self._name in layer.lora_E]


class DiffPruningHook(NoHook):
    """Pays for every change that is not zero (Guo, Rush & Kim 2021, equation 4)."""

    def penalty(self) -> Tensor | None:
        """Return the expected number of changes, weighted."""
        return sparsity_penalty(self._model, self._name)


class MaskHook(NoHook):
    """Chooses a mask by the Fisher information of a few examples (Sung, Nair & Raffel 2021, section 3)."""

    def begin(self, schooling: Schooling) -> Mapping[int, nn.Parameter]:
        """Move the mask to the weights that matter most."""
        layers = masked_layers(self._model, self._name)
        if not any(layer.sparse_mask_config[self._name].awaits_selection for layer in layers.values()):
            return {}
        old = {site: layer.sparse_mask_values[self._name] for site, layer in layers.items()}
        scores = fisher_scores(self._model, schooling.batches, schooling.loss_of, self._name)
        select_by_scores(self._model, scores, self._name)
        return {id(one): layers[site].sparse_mask_values[self._name] for site, one in old.items()}

    def fit_to(self, state: Mapping[str, Tensor]) -> None:
        """Give every layer as many places as the state has for it."""
        names = {id(module): name for name, module in self._model.named_modules()}
        counts = {}
        for site, layer in masked_layers(self._model, self._name).items():
            known = state.get(f"{names[id(layer)]}.sparse_mask_indices.{self._name}")
            count = 0 if known is None else known.numel()
            device = layer.sparse_mask_values[self._name].device
            layer.place(self._name, torch.zeros(count, dtype=torch.int64, device=device))
            counts[site] = count
        self._choose(counts)

    def assume(self) -> None:
        """Take the places that it has for the chosen ones."""
        layers = masked_layers(self._model, self._name).items()
        self._choose({site: layer.sparse_mask_values[self._name].numel() for site, layer in layers})

    def _choose(self, counts: dict[str, int]) -> None:
        for layer in masked_layers(self._model, self._name).values():
            layer.sparse_mask_config[self._name].counts = counts


_HOOKS: Mapping[str, type[NoHook]] = {"ADALORA": AdaLoraHook, "DIFF_PRUNING": DiffPruningHook, "MASK": MaskHook}


@dataclass(frozen=True)
class Hooks:
    """The hooks of all parts of a candidate, in order."""

    each: tuple[Hook, ...]

    def begin(self, attached: Attached, schooling: Schooling) -> Attached:
        """Prepare all parts; returns the candidate with the parameters that training has now."""
        new: dict[int, nn.Parameter] = {}
        for hook in self.each:
            new |= hook.begin(schooling)
        parts = tuple(tuple(new.get(id(parameter), parameter) for parameter in part) for part in attached.parts)
        return replace(attached, parts=parts)

    def penalised(self, loss: Tensor) -> Tensor:
        """Return the loss with the penalties of all parts."""
        for hook in self.each:
            penalty = hook.penalty()
            loss = loss if penalty is None else loss + penalty
        return loss

    def after_step(self, step: int) -> None:
        """Tell all parts that a step was made."""
        for hook in self.each:
            hook.after_step(step)

    def fit_to(self, state: Mapping[str, Tensor]) -> None:
        """Let all parts take the shapes of a saved state."""
        for hook in self.each:
            hook.fit_to(state)

    def assume(self) -> None:
        """Let all parts stand as if training had begun."""
        for hook in self.each:
            hook.assume()


def hook_of(model: nn.Module, name: str, part: Part) -> Hook:
    """Return the hook of one part, whose adapter has this name in the model."""
    return _HOOKS.get(method(part.method).peft_type, NoHook)(model, name, part)


def hooks_of(attached: Attached) -> Hooks:
    """Return the hooks of an attached candidate."""
    parts = enumerate(attached.candidate.parts)
    return Hooks(tuple(hook_of(attached.model, f"part{index}", part) for index, part in parts))


def load_trained(attached: Attached, state: Mapping[str, Tensor], shared: frozenset[int]) -> None:
    """Load a trained state into a freshly attached candidate, whatever shapes its training chose.

    Raises:
        ExportError: The state is another candidate's.
    """
    hooks_of(attached).fit_to(state)
    attached.load(state, shared)
