"""Tensors in groups, under one name each: `group/name`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from torch import Tensor


def joined(groups: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the tensors of all groups; names of groups hold no `/`."""
    return {f"{group}/{name}": one for group, named in groups.items() for name, one in named.items()}


def parted(tensors: Mapping[str, Tensor]) -> defaultdict[str, dict[str, Tensor]]:
    """Return the groups that `joined` put together; a group without tensors is empty."""
    groups: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        group, _, own = name.partition("/")
        groups[group][own] = tensor
    return groups
