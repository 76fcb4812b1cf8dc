"""Predicted peak memory beside what the allocator counts, over methods, placements, batches, lengths and types.

    python -m benchmarks.memory [--quick]

The prediction is added up from the table of layers; the measurement is a real training step on the CPU, and a forward
pass without gradients, read from the profiler's memory events. The models are a BERT and a Llama of five layers with
random weights.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from benchmarks.report import write
from evaluators.anatomy import anatomy_of
from evaluators.attach import Attached, attach
from evaluators.backbone import checkpoint_activations
from evaluators.live_bytes import allocated_peak
from evaluators.memory import Load, inputs_of, measure_peak_bytes, storage_bytes, tensors_of
from evaluators.memory_table import MemoryTable
from evaluators.optimisation import Optimiser, build_optimiser, loss_of
from search_space.notation import parse

GOAL = 0.02
CANDIDATES = (
    "head",
    "full",
    "full@[top:2]",
    "lora",
    "lora(r=32,use_dora=true)@linear[top:3]",
    "lora@mlp[bits:01010]",
    "ia3",
    "bitfit",
    "vera(r=32)",
    "serial_adapter@attention.output,mlp.down",
    "prefix_tuning(num_virtual_tokens=8)",
    "prompt_tuning(num_virtual_tokens=8)",
    "lst",
    "lora + prefix_tuning(num_virtual_tokens=4)",
    "serial_adapter + bitfit + lora@mlp.up[top:1]",
)
_PROMPTED = ("prefix_tuning", "lora + prefix_tuning")


@dataclass(frozen=True)
class Setting:
    """A load with its type and attention."""

    load: Load
    dtype: torch.dtype
    attention: str
    architecture: str = "BERT"

    @property
    def text(self) -> str:
        """One line for people."""
        again = ", checkpointing" if self.load.checkpointing else ""
        other = "" if self.architecture == "BERT" else f"{self.architecture}, "
        return f"{other}{self.load.batch} x {self.load.length}, {str(self.dtype).removeprefix('torch.')}{again}"


SETTINGS = (
    Setting(Load(4, 32, 4), torch.float32, "sdpa"),
    Setting(Load(16, 64, 16), torch.float32, "sdpa"),
    Setting(Load(2, 128, 2), torch.float32, "sdpa"),
    Setting(Load(16, 64, 16), torch.bfloat16, "eager"),
    Setting(Load(16, 64, 16, checkpointing=True), torch.float32, "sdpa"),
    Setting(Load(16, 64, 32), torch.float32, "sdpa", "Llama"),
    Setting(Load(8, 128, 16), torch.bfloat16, "eager", "Llama"),
)


def model_of(setting: Setting, device: str) -> nn.Module:
    """Build the model: with weights, or on `meta`."""
    shape: dict[str, Any] = {
        "vocab_size": 4000, "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 5,
        "num_attention_heads": 4, "max_position_embeddings": 256, "num_labels": 6, "pad_token_id": 0,
    }  # fmt: skip
    config: Any = transformers.BertConfig(**shape)
    if setting.architecture == "Llama":
        config = transformers.LlamaConfig(**shape, num_key_value_heads=2)
    with torch.device(device):
        model = transformers.AutoModelForSequenceClassification.from_config(
            config, attn_implementation=setting.attention, dtype=setting.dtype
        )
    return model.requires_grad_(False).eval()


@dataclass(frozen=True)
class Trained:
    """A candidate on a model with one batch of some load, and the step that trains it.

    Attributes:
        one: The candidate.
        optimiser: Its optimiser.
        inputs: Of the batch, on the model's device.
        step: Does one whole step.
    """

    one: Attached
    optimiser: Optimiser
    inputs: Mapping[str, Tensor]
    step: Callable[[], None]


def attached_for(model: nn.Module, text: str, load: Load) -> Trained:
    """Attach a candidate to a model, with what trains it on a batch."""
    one = attach(model, anatomy_of(model), parse(text))
    one.model.train()
    if load.checkpointing:
        checkpoint_activations(one.model)
    optimiser, device = build_optimiser(one), next(model.parameters()).device
    inputs = {name: tensor.to(device) for name, tensor in inputs_of(one.model, load.batch, load.length).items()}
    inputs["attention_mask"][-1, -1] = 0  # as in every real batch: without padding there is no mask to keep
    labels = torch.zeros(load.batch, dtype=torch.long, device=device)

    def step() -> None:
        logits = one.model(**inputs).logits
        loss = loss_of(logits, labels, 0.0)
        del logits
        optimiser.update(loss, 1.0)

    return Trained(one, optimiser, inputs, step)


def measured(model: nn.Module, text: str, setting: Setting) -> int:
    """Train for one step, so that the optimiser has its state, and measure the second."""
    it = attached_for(model, text, setting.load)
    it.step()
    return measure_peak_bytes(it.one.model, it.optimiser.tensors, it.step, torch.device("cpu"))


def measured_inference(model: nn.Module, text: str, setting: Setting) -> int:
    """Measure the second of two forward passes without gradients."""
    one = attach(model, anatomy_of(model), parse(text)).model.eval()
    inputs = inputs_of(one, *setting.load.evaluated)
    inputs["attention_mask"][-1, -1] = 0

    def forward() -> None:
        with torch.no_grad():
            one(**inputs)

    forward()
    return storage_bytes(tensors_of(one)) + allocated_peak(forward)


def run(quick: bool) -> list[dict[str, Any]]:
    """Return a row for each candidate in each setting."""
    rows = []
    for setting in SETTINGS[:1] if quick else SETTINGS:
        shapes, model = model_of(setting, "meta"), model_of(setting, "cpu")
        table = MemoryTable(shapes, anatomy_of(shapes), setting.dtype, setting.load)
        for text in CANDIDATES:
            if setting.load.checkpointing and text.startswith(_PROMPTED):
                continue  # refused: layers that are computed again lose a prefix
            candidate = parse(text)
            table.cost(candidate)
            began = time.process_time()
            predicted = table.cost(replace(candidate))
            seconds = time.process_time() - began
            true, forward = measured(model, text, setting), measured_inference(model, text, setting)
            rows.append(
                {"candidate": text, "setting": setting.text, "milliseconds": 1e3 * seconds,
                 "predicted_bytes": predicted.peak_bytes, "measured_bytes": true,
                 "error": predicted.peak_bytes / true - 1,
                 "predicted_inference_bytes": predicted.inference_bytes, "measured_inference_bytes": forward,
                 "inference_error": predicted.inference_bytes / forward - 1}
            )  # fmt: skip
    return rows


def section(rows: list[dict[str, Any]]) -> str:
    """Return the section of the results page."""
    errors = [abs(row["error"]) for row in rows]
    milliseconds = statistics.median(row["milliseconds"] for row in rows)
    worst = max(rows, key=lambda row: abs(row["error"]))
    forward = [abs(row["inference_error"]) for row in rows]
    lines = [
        "## Memory: predicted beside measured",
        "",
        f"{len(rows)} trainings on a CPU. Goal: at most {GOAL:.0%} off. Seen: median {statistics.median(errors):.2%}, "
        f"worst {max(errors):.2%} ({worst['candidate']}, {worst['setting']}); {sum(one <= GOAL for one in errors)} of "
        f"{len(rows)} within the goal. Forward passes without gradients: median {statistics.median(forward):.2%}, "
        f"worst {max(forward):.2%}. Once its layers are in the table a candidate takes {milliseconds:.2g} ms of CPU "
        "time (median; goal 5). Below: training.",
        "",
        "| candidate | " + " | ".join(setting.text for setting in SETTINGS) + " |",
        "|---|" + "---:|" * len(SETTINGS),
    ]
    for text in CANDIDATES:
        by_setting = {row["setting"]: f"{row['error']:+.2%}" for row in rows if row["candidate"] == text}
        lines.append(f"| `{text}` | " + " | ".join(by_setting.get(one.text, "–") for one in SETTINGS) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run the benchmark and write its results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one setting")
    quick = parser.parse_args().quick
    rows = run(quick)
    print(section(rows))
    if not quick:
        write("memory", {"goal": GOAL, "rows": rows}, section(rows))


if __name__ == "__main__":
    main()
