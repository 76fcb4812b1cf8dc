"""LoftQ: a LoRA on quantised weights that starts as the best low-rank repair of what quantisation took away.

Li et al. 2023 (arXiv:2310.08659), algorithm 1 with one iteration: B A is the truncated singular value decomposition of
W - Q, and Q, which all candidates of a study share, stays as it is. W is read from the backbone's own safetensors.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer
from safetensors import safe_open
from torch import Tensor, nn
from transformers.utils import cached_file

from evaluators.quantization import dequantised
from search_space.errors import UnsupportedError

_ATTRIBUTE = "paretune_weights_before_quantisation"
_ONE_FILE, _INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class Originals:
    """Where a backbone's weights can be read as they were before it was quantised.

    Attributes:
        source: Folder or hub name.
        revision: Of the hub's repository.
        prefix: Name of the base model, which files of a bare backbone leave out.
    """

    source: str
    revision: str
    prefix: str

    def read(self, name: str) -> Tensor:
        """Return one tensor in float32. Raises UnsupportedError when the files do not hold it."""
        for key in (name, name.removeprefix(f"{self.prefix}.")):
            if file := self._file_of(key):
                with safe_open(file, framework="pt") as tensors:
                    if key in set(tensors.keys()):
                        found: Tensor = tensors.get_tensor(key)
                        return found.float()
        raise UnsupportedError(f"loftq: the files of {self.source} hold no {name}; quantise another model, or use lora")

    def _file_of(self, key: str) -> str | None:
        index = self._path(_INDEX)
        if index is None:
            return self._path(_ONE_FILE)
        file = json.loads(Path(index).read_text())["weight_map"].get(key)
        return None if file is None else self._path(file)

    def _path(self, file: str) -> str | None:
        found: str | None = cached_file(
            self.source,
            file,
            revision=self.revision,
            local_files_only=True,
            _raise_exceptions_for_missing_entries=False,
        )
        return found


def remember(model: nn.Module, source: str, revision: str) -> None:
    """Note on a quantised model where its weights come from; copies of it know it too."""
    model.__dict__[_ATTRIBUTE] = Originals(source, revision, getattr(model, "base_model_prefix", ""))


def start_from_residual(model: nn.Module, adapter_name: str) -> None:
    """Let each LoRA of this name start with B A = the best approximation of W - Q of its rank.

    On the `meta` device nothing is done: there are no values.

    Raises:
        UnsupportedError: It is not known where the weights come from.
    """
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer) and adapter_name in layer.lora_A:
            base: Any = layer.get_base_layer()
            if not base.weight.is_meta:
                _start(layer, adapter_name, _residual(model, name, base))


def _residual(model: nn.Module, name: str, base: nn.Module) -> Tensor:
    originals = model.__dict__.get(_ATTRIBUTE)
    if originals is None:
        raise UnsupportedError("loftq: it is not known where the backbone's weights come from; load it by its name")
    kept = dequantised(base)
    weight: Tensor = originals.read(f"{name}.weight".replace(".base_layer", ""))
    return weight.to(kept.device) - kept


@torch.no_grad()
def _start(layer: Any, adapter_name: str, residual: Tensor) -> None:
    first, second = layer.lora_A[adapter_name].weight, layer.lora_B[adapter_name].weight
    left, values, right = torch.linalg.svd(residual / layer.scaling[adapter_name], full_matrices=False)
    roots, rank = values.sqrt(), len(first)
    first[: len(values)].copy_(roots[:rank, None] * right[:rank])
    second[:, : len(values)].copy_(left[:, :rank] * roots[:rank])
