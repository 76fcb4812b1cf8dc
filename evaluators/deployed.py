"""What must be kept to serve a trained candidate beside the unchanged backbone, without the head.

That is what the saved state holds, a tensor that layers share once, less what only training needs: a prompt without the
network that made it, AdaLoRA's ranks that are left, the changes that diff pruning keeps, each with its place. PiSSA and
OLoRA change the frozen weights at their start: they are served as LoRAs of twice the rank, which take the start out
again (Meng et al. 2024), and not with weights of their own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from math import prod
from typing import NamedTuple

from torch import Tensor

from search_space.candidate import Candidate, Part
from search_space.registry import method

_PART = re.compile(r"\.part(\d+)(?:_\d+)?(?=\.|$)")
_RESIDUAL = ".base_layer.weight"
_SPARSE = 2
"""Numbers of a sparse change: its value and its place."""
_LAST_BIAS = ".transform.2.bias"
_TO_GATE = (".diff_pruning_change.", ".diff_pruning_gate.")


class Kept(NamedTuple):
    """A tensor of a saved state: its name, its shape, and its values where they are known."""

    name: str
    shape: tuple[int, ...]
    values: Tensor | None = None

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return prod(self.shape)


def deployed_params(parts: tuple[Part, ...], kept: Iterable[Kept]) -> int:
    """Return how many numbers must be kept to serve a candidate.

    Args:
        parts: Of the candidate, in order.
        kept: The tensors of its state beside the head. Without values AdaLoRA's and diff pruning's are those that
            training will leave where every module has the mean rank.
    """
    takes_out = any(_starts_in_weights(part) for part in parts)
    owns_weights = any(method(part.method).route == "full" for part in parts)
    groups: dict[int | None, list[Kept]] = {}
    for one in kept:
        if takes_out and not owns_weights and one.name.endswith(_RESIDUAL):
            continue
        found = _PART.search(one.name)
        groups.setdefault(int(found[1]) if found else None, []).append(one)
    return sum(_kept_of(None if at is None else parts[at], own, owns_weights) for at, own in groups.items())


def keeps_all(parts: tuple[Part, ...]) -> bool:
    """Whether everything that a candidate saves beside the head must be kept, whatever it is called."""
    return not any(_starts_in_weights(part) or method(part.method).peft_type in _OF_TYPE for part in parts)


def deployed_after(candidate: Candidate, state: Mapping[str, Tensor]) -> int:
    """Return how many numbers of a trained state, the head left out, must be kept to serve its candidate."""
    return deployed_params(candidate.parts, (Kept(name, tuple(one.shape), one) for name, one in state.items()))


def _kept_of(part: Part | None, kept: list[Kept], owns_weights: bool) -> int:
    """Return how many of the numbers of one part must be kept."""
    plain = sum(one.size for one in kept)
    if part is None:
        return plain
    if _starts_in_weights(part):
        return plain if owns_weights else 2 * plain
    found = _OF_TYPE.get(method(part.method).peft_type)
    return plain if found is None else found(part, kept)


def _starts_in_weights(part: Part) -> bool:
    return part.method in ("pissa", "olora")


def _ranks(part: Part, kept: list[Kept]) -> int:
    """Return what is left of A, B and E: a row of A, a column of B and a number for each rank."""
    left: dict[str, int] = {}
    for one in kept:
        if ".lora_E." in one.name:
            mean = min(int(part["target_r"]), one.shape[0])  # type: ignore[arg-type]
            left[_module(one.name)] = mean if one.values is None else int(one.values.count_nonzero())
    of_rank = {".lora_A.": 0, ".lora_B.": 1, ".lora_E.": 0}
    return sum(
        one.size // one.shape[axis] * left[_module(one.name)]
        for one in kept
        for word, axis in of_rank.items()
        if word in one.name
    )


def _module(name: str) -> str:
    return name.partition(".lora_")[0] + name.rpartition(".part")[2]


def _changes(part: Part, kept: list[Kept]) -> int:
    """Return the changes whose gates are open and their places, or all changes where that is less."""
    changes = [one for one in kept if ".diff_pruning_change." in one.name]
    every, density = sum(one.size for one in changes), float(part["density"])  # type: ignore[arg-type]
    if density == 1:
        return every
    gates = {one.name: one.values for one in kept}
    left = [
        int((one.values * (gates[one.name.replace(*_TO_GATE)] > 0)).count_nonzero())  # type: ignore[operator]
        for one in changes
        if one.values is not None
    ]
    return min(every, _SPARSE * (sum(left) if left else round(density * every)))


def _prompt(_part: Part, kept: list[Kept]) -> int:
    return sum(one.size for one in kept if ".mlp_head." not in one.name)


def _prefix(_part: Part, kept: list[Kept]) -> int:
    """Return the numbers of the prefix, where a network makes it: a row of its outputs for each token."""
    outputs = [one.shape[0] for one in kept if one.name.endswith(_LAST_BIAS)]
    tokens = [one.shape[0] for one in kept if one.name.endswith(".embedding.weight")]
    return tokens[0] * outputs[0] if outputs else sum(one.size for one in kept)


_OF_TYPE: Mapping[str, Callable[[Part, list[Kept]], int]] = {
    "ADALORA": _ranks,
    "DIFF_PRUNING": _changes,
    "P_TUNING": _prompt,
    "PREFIX_TUNING": _prefix,
}
