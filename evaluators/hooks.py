"""What some methods need while they train, beyond a gradient: by the hook that a method names, else by its type.

AdaLoRA takes rank from the matrices that need it least, diff pruning pays for every change and fixes its mask, sparse
masks and EVA look at training data before they start, and LoRA+ trains one matrix faster than the other. Every other
method trains without a hook.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from peft import AdaLoraConfig
from peft.tuners.adalora.layer import AdaLoraLayer, RankAllocator
from peft.tuners.frod.layer import FrodLayer
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.poly.layer import PolyLayer
from peft.tuners.shira.layer import ShiraLayer
from torch import Tensor, nn

from evaluators.attach import Attached
from evaluators.groups import joined, parted
from evaluators.hook import Hook, NoHook, Schooling
from evaluators.tuners.diff_pruning import fix_mask, sparsity_penalty
from evaluators.tuners.mask import fisher_scores, select_by_scores
from evaluators.tuners.mask.selection import masked_layers
from search_space.candidate import Part
from search_space.carrying import is_per_task
from search_space.errors import UnsupportedError
from search_space.registry import method


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

    def after_step(self, step: int) -> bool:
        """Take rank away, and keep away what was taken."""
        if step > self._fixed_from:
            self._allocator.mask_using_rank_pattern(self._model, self._ranks)
            return True
        last = step == self._fixed_from
        _, self._ranks = self._allocator.update_and_allocate(self._model, step, force_mask=last)
        if last:
            self._allocator.reset_ipt()
        return True

    def kept(self) -> dict[str, Tensor]:
        """Return the smoothed importances, their uncertainties, and which ranks are left once that is settled."""
        ranks = {name: torch.tensor(left) for name, left in (self._ranks or {}).items()}
        known = {"importance": self._allocator.exp_avg_ipt, "uncertainty": self._allocator.exp_avg_unc}
        return joined({**known, "ranks": ranks})

    def take_up(self, kept: Mapping[str, Tensor]) -> None:
        """Give the allocator what it knew; the importance in a single step is made anew before it is read."""
        groups = parted({name: one.to(self._layers()[0].lora_A[self._name].device) for name, one in kept.items()})
        self._allocator.exp_avg_ipt, self._allocator.exp_avg_unc = groups["importance"], groups["uncertainty"]
        self._allocator.ipt = dict(groups["importance"])
        self._ranks = {name: left.tolist() for name, left in groups["ranks"].items()} or None

    def _layers(self) -> list[Any]:
        layers = (module for module in self._model.modules() if isinstance(module, AdaLoraLayer))
        return [layer for layer in layers if self._name in layer.lora_E]


class DiffPruningHook(NoHook):
    """Pays for every change that is not zero (Guo, Rush & Kim 2021, equation 4), and fixes the mask for the last steps.

    The mask keeps the largest changes; the steps after it train those alone (section 3.2).
    """

    _FREE = 0.8
    """Share of the steps before the mask is fixed."""

    def begin(self, schooling: Schooling) -> Mapping[int, nn.Parameter]:
        """Note when the mask is to be fixed; never where every change may stay."""
        self._fix_after = max(1, round(self._FREE * schooling.steps)) if self._density < 1 else None
        return {}

    def penalty(self) -> Tensor | None:
        """Return the expected number of changes, weighted."""
        return sparsity_penalty(self._model, self._name)

    def after_step(self, step: int) -> bool:
        """Fix the mask when it is time."""
        if step != self._fix_after:
            return False
        fix_mask(self._model, self._density, self._name)
        return True

    @property
    def _density(self) -> float:
        return float(self._part["density"])  # type: ignore[arg-type]


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


class EvaHook(NoHook):
    """Starts A as the main directions of what goes into each module (Paischer et al. 2024, section 3.2).

    The directions are found batch by batch, by a singular value decomposition of those known so far and the new rows.
    Every module keeps the rank that it was given, so that the count is known before.
    """

    def begin(self, schooling: Schooling) -> Mapping[int, nn.Parameter]:
        """Look at the batches and set A; what was seen in fewer directions than the rank keeps the rest as drawn."""
        layers = [module for module in self._model.modules() if isinstance(module, LoraLayer)]
        layers = [layer for layer in layers if self._name in layer.lora_A]
        seen: dict[int, Tensor] = {}
        handles = [nn.Module.register_forward_pre_hook(layer, partial(self._look, seen)) for layer in layers]
        with torch.no_grad():
            for batch in schooling.batches:
                schooling.loss_of(self._model, batch)
            for handle in handles:
                handle.remove()
            for layer in layers:
                if id(layer) in seen:
                    directions = nn.functional.normalize(seen[id(layer)])
                    layer.lora_A[self._name].weight[: len(directions)].copy_(directions)
        return {}

    def _look(self, seen: dict[int, Tensor], layer: Any, inputs: tuple[Any, ...]) -> None:
        rows = inputs[0].detach().float().flatten(0, -2)
        known = seen.get(id(layer))
        rows = rows if known is None else torch.cat([known, rows])
        _, values, directions = torch.linalg.svd(rows, full_matrices=False)
        kept = min(layer.r[self._name], int((values > values[0] * torch.finfo(values.dtype).eps).sum()))
        seen[id(layer)] = values[:kept, None] * directions[:kept]


class LoraPlusHook(NoHook):
    """Lets B learn faster than A (Hayou, Ghosh & Yu 2024, section 4)."""

    def pace(self, name: str) -> float:
        """Return the ratio for B, and 1 for what else there is."""
        return float(self._part["ratio"]) if ".lora_B." in name else 1.0  # type: ignore[arg-type]


class ShiraHook(NoHook):
    """SHiRA changes weights by a sparse tensor, which fake ones cannot be."""

    def assume(self) -> None:
        """Change the same number of entries of a dense tensor."""
        for module in self._model.modules():
            if isinstance(module, ShiraLayer) and self._name in module.shira_weight:
                module.__dict__["get_delta_weight"] = partial(_dense_change, module)


class FrodHook(NoHook):
    """FRoD multiplies by a sparse tensor, which fake ones cannot be."""

    def assume(self) -> None:
        """Multiply by the sum of its entries: as many numbers go in, come out and are kept."""
        for module in self._model.modules():
            if isinstance(module, FrodLayer) and self._name in module.frod_lambda_l:
                module.__dict__["_get_frod_tensors"] = partial(_frod_tensors, module)
                module.__dict__["_sparse_activation_mm"] = lambda rows, values: rows * values.sum()


def _frod_tensors(layer: Any, adapter: str, **_: Any) -> tuple[Tensor, ...]:
    basis = layer.frod_V[adapter]
    return layer.frod_U[adapter], basis, layer.frod_lambda_s_values[adapter], layer.frod_lambda_l[adapter]


class PolyHook(NoHook):
    """Poly's router looks at the numbers of the tasks, which fake ones do not have."""

    def assume(self) -> None:
        """Weigh the skills without looking."""
        for module in self._model.modules():
            if isinstance(module, PolyLayer) and self._name in module.poly_router:
                router = module.poly_router[self._name]
                router.__dict__["forward"] = partial(_skill_weights, router)


def _skill_weights(router: Any, task_ids: Tensor, input_ids: Tensor) -> Tensor:
    chosen = router.module_logits.index_select(0, task_ids).view(-1, router.n_splits, router.n_skills)
    weights = torch.sigmoid(chosen)
    return weights / weights.sum(dim=-1, keepdim=True)


def _dense_change(layer: Any, adapter: str) -> Tensor:
    values = layer.shira_weight[adapter]
    change = values.new_zeros(layer.out_features * layer.in_features)
    return change.index_add(0, torch.arange(len(values)), values).view(layer.out_features, layer.in_features)


_HOOKS: Mapping[str, type[NoHook]] = {
    "ADALORA": AdaLoraHook,
    "DIFF_PRUNING": DiffPruningHook,
    "EVA": EvaHook,
    "FROD": FrodHook,
    "LORA_PLUS": LoraPlusHook,
    "MASK": MaskHook,
    "POLY": PolyHook,
    "SHIRA": ShiraHook,
}
_LOOK_FIRST = (EvaHook, MaskHook)


@dataclass(frozen=True)
class Hooks:
    """The hooks of all parts of a candidate, in order."""

    each: tuple[Hook, ...]

    def begin(self, attached: Attached, schooling: Schooling) -> Attached:
        """Prepare all parts; returns the candidate with the parameters that training has now."""
        new: dict[int, nn.Parameter] = {}
        if any(isinstance(hook, _LOOK_FIRST) for hook in self.each):
            schooling = replace(schooling, batches=tuple(schooling.batches))  # each of them looks at all
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

    def after_step(self, step: int) -> bool:
        """Tell all parts that a step was made. Returns whether any wrote into weights."""
        wrote = [hook.after_step(step) for hook in self.each]
        return any(wrote)

    def fit_to(self, state: Mapping[str, Tensor]) -> None:
        """Let all parts take the shapes of a saved state."""
        for hook in self.each:
            hook.fit_to(state)

    def assume(self) -> None:
        """Let all parts stand as if training had begun."""
        for hook in self.each:
            hook.assume()

    def kept(self) -> dict[str, Tensor]:
        """Return what the hooks have learnt, by the number of the part and the name that its hook gave it."""
        return joined({str(number): hook.kept() for number, hook in enumerate(self.each)})

    def take_up(self, kept: Mapping[str, Tensor]) -> None:
        """Let all parts, which have begun, go on from what `kept` returned."""
        of_parts = parted(kept)
        for number, hook in enumerate(self.each):
            hook.take_up(of_parts[str(number)])


def hook_of(model: nn.Module, name: str, part: Part) -> Hook:
    """Return the hook of one part, whose adapter has this name in the model."""
    rule = method(part.method)
    return _HOOKS.get(rule.hook or rule.peft_type, NoHook)(model, name, part)


def hooks_of(attached: Attached) -> Hooks:
    """Return the hooks of an attached candidate.

    Raises:
        UnsupportedError: A part with an adapter for each task needs more than gradients.
    """
    each = [hook_of(attached.model, f"part{index}", part) for index, part in enumerate(attached.candidate.parts)]
    for hook, part in zip(each, attached.candidate.parts, strict=True):
        if is_per_task(part) and not isinstance(hook, LoraPlusHook) and type(hook) is not NoHook:
            raise UnsupportedError(f"{part.method} looks after its adapter as it trains, and knows one only")
    return Hooks(tuple(each))


def load_trained(attached: Attached, state: Mapping[str, Tensor], shared: frozenset[int]) -> None:
    """Load a trained state into a freshly attached candidate, whatever shapes its training chose.

    Raises:
        ExportError: The state is another candidate's.
    """
    hooks_of(attached).fit_to(state)
    attached.load(state, shared)
