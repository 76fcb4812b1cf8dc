"""Training steps on a GPU: predicted memory beside the allocator's, and how long a step takes.

The models have random weights: memory and time do not depend on their values.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
import transformers
from torch import nn

from benchmarks.evaluator.journal import Journal
from benchmarks.memory import attached_for
from evaluators.anatomy import anatomy_of
from evaluators.backbone import avoid_attention_plans, head_of
from evaluators.device_memory import WORKSPACE_BYTES
from evaluators.memory import Load, storage_bytes, tensors_of
from evaluators.memory_table import MemoryTable
from evaluators.quantization import quantization_config, saved_bytes, settle
from search_space.notation import parse

_WARM_UP, _STEPS = 3, 8
_CUDA = torch.device("cuda")


@dataclass(frozen=True)
class Subject:
    """A model and what it is trained with.

    Attributes:
        name: As people know the size.
        load: Batch and length.
        dtype: Of weights and arithmetic.
        quantization: Of the frozen weights.
        candidates: In notation.
    """

    name: str
    load: Load
    dtype: torch.dtype
    candidates: tuple[str, ...]
    quantization: str = "none"

    @property
    def key(self) -> str:
        """One line for people."""
        again = ", checkpointing" if self.load.checkpointing else ""
        kind = self.quantization if self.quantization != "none" else str(self.dtype).removeprefix("torch.")
        return f"{self.name}, {kind}, {self.load.batch} x {self.load.length}{again}"


_ALL = (
    "head",
    "full",
    "full@[top:2]",
    "lora",
    "lora(r=32)@linear[top:3]",
    "ia3",
    "bitfit",
    "vera(r=32)",
    "serial_adapter@attention.output,mlp.down",
    "prefix_tuning(num_virtual_tokens=8)",
    "lst",
    "lora + prefix_tuning(num_virtual_tokens=4)",
    "serial_adapter + bitfit + lora@mlp.up[top:1]",
)
_AGAIN = tuple(one for one in _ALL if "prefix_tuning" not in one)  # computed again, layers lose a prefix
_LARGE = (
    "full",
    "lora(r=8)@attention.query,attention.value",
    "lora(r=16)@linear",
    "serial_adapter",
    "ia3",
    "ln_tuning",
    "prefix_tuning",
    "lst",
    "lora(r=16)@linear[top:8]",
    "head",
)
_QUANTISED = ("lora(r=8)@attention.query,attention.value", "lora(r=16)@linear", "serial_adapter", "head")
_SHORT, _LONG = Load(32, 128, 32, device="cuda"), Load(8, 512, 8, device="cuda")

SUBJECTS = (
    Subject("BERT-base, 109 M", _SHORT, torch.float32, _ALL),
    Subject("BERT-base, 109 M", _SHORT, torch.bfloat16, _ALL),
    Subject("BERT-base, 109 M", replace(_LONG, checkpointing=True), torch.bfloat16, _AGAIN),
    Subject("Llama, 1.1 B", _LONG, torch.bfloat16, _LARGE),
    Subject("Llama, 1.1 B", replace(_LONG, checkpointing=True), torch.bfloat16, _LARGE[:5]),
    *(Subject("Llama, 1.1 B", _LONG, torch.bfloat16, _QUANTISED, kind) for kind in ("int8", "nf4", "torchao_int8")),
    Subject("Llama, 1.1 B", _LONG, torch.bfloat16, _QUANTISED, "torchao_int4"),
    Subject("Llama, 6.6 B", _LONG, torch.bfloat16, _LARGE),
    Subject("Llama, 6.6 B", _LONG, torch.bfloat16, _QUANTISED, "nf4"),
)


def measure(journal: Journal, subjects: tuple[Subject, ...] = SUBJECTS) -> None:
    """Train a few steps of every candidate on every model."""
    avoid_attention_plans()
    for subject in subjects:
        keys = {text: f"step/{subject.key}/{text}" for text in subject.candidates}
        if all(key in journal.rows for key in keys.values()):
            continue
        shapes = _model(_config(subject.name), "meta", subject.dtype)
        table = MemoryTable(shapes, anatomy_of(shapes), subject.dtype, subject.load)
        saved = saved_bytes(shapes, subject.quantization, subject.dtype, head_of(shapes), _CUDA)
        with _on_gpu(subject) as model:
            for text, key in keys.items():
                journal.once(
                    key,
                    lambda text=text, model=model, table=table, saved=saved, subject=subject: {  # type: ignore[misc]
                        **_predicted(table, text, saved), **_trained(model, text, subject)
                    },
                )  # fmt: skip


def _config(name: str) -> Any:
    if name.startswith("BERT"):
        return transformers.BertConfig(num_labels=6)
    sizes = {"hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32, "num_attention_heads": 32}
    if "1.1 B" in name:
        sizes = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32}
        sizes["num_key_value_heads"] = 4
    return transformers.LlamaConfig(**sizes, vocab_size=32_000, num_labels=6, pad_token_id=0)


def _model(config: Any, device: str, dtype: torch.dtype) -> nn.Module:
    with torch.device(device):
        model: nn.Module = transformers.AutoModelForSequenceClassification.from_config(
            config, attn_implementation="sdpa", dtype=dtype
        )
    return model.requires_grad_(False).eval()


@contextmanager
def _on_gpu(subject: Subject) -> Iterator[nn.Module]:
    model = _model(_config(subject.name), "cuda", subject.dtype)
    if subject.quantization != "none":
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)  # type: ignore[operator]
            heads = head_of(model)
            del model
            _free()
            config = quantization_config(subject.quantization, subject.dtype, heads, _CUDA)
            model = transformers.AutoModelForSequenceClassification.from_pretrained(
                folder, dtype=subject.dtype, quantization_config=config, device_map={"": "cuda"}
            )
        settle(model.requires_grad_(False).eval())
    _free()
    try:
        yield model
    finally:
        del model
        _free()


def _free() -> None:
    gc.collect()
    torch.cuda.empty_cache()


def _predicted(table: MemoryTable, text: str, saved: int) -> dict[str, Any]:
    return {"predicted_bytes": table.cost(parse(text)).peak_bytes - saved}


def _trained(model: nn.Module, text: str, subject: Subject) -> dict[str, Any]:
    _free()
    try:
        return _steps(model, text, subject)
    except torch.OutOfMemoryError:
        return {"out_of_memory": True}
    finally:
        _free()


def _steps(model: nn.Module, text: str, subject: Subject) -> dict[str, Any]:
    it = attached_for(model, text, subject.load)
    for _ in range(_WARM_UP):
        it.step()
    seconds = []
    for _ in range(_STEPS):
        torch.cuda.synchronize()
        began = time.perf_counter()
        it.step()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    own = storage_bytes((*tensors_of(it.one.model), *it.optimiser.tensors, *it.inputs.values()))
    beside = torch.cuda.memory_allocated() - WORKSPACE_BYTES - own
    it.step()
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    return {
        "trainable": it.one.trainable_params,
        "seconds": median(seconds),
        "beside_bytes": beside,
        "allocated_bytes": torch.cuda.max_memory_allocated(),
        "reserved_bytes": torch.cuda.max_memory_reserved(),
        "outside_bytes": total - free - torch.cuda.memory_reserved(),
    }
