"""`paretune estimate`: what methods cost on a model, as far as shapes tell; the model need not fit this machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, get_args

import typer
from rich.text import Text

from orchestrator.cli.output import Json, console, print_json, table
from orchestrator.home import Home
from search_space.candidate import Candidate, KnobValue, Part, Recipe
from search_space.errors import CandidateError, InputError, PlacementError, UnsupportedError, did_you_mean, one_of
from search_space.notation import write_parts
from search_space.placement import Layers
from search_space.quantities import format_bytes, format_count, parse_bytes
from search_space.registry import method
from search_space.space import Space, at_defaults, bind
from search_space.spec import SpaceSpec, presets

Dtype = Literal["float32", "bfloat16"]
Quantization = Literal["none", "int8", "nf4", "torchao_int8", "torchao_int4"]
Device = Literal["cuda", "cpu"]


@dataclass(frozen=True)
class Question:
    """What is estimated.

    Attributes:
        model: Hub name, folder or builtin.
        space: Name of a preset.
        batch: Examples of a step, in training and in inference.
        length: Tokens of an example.
        within: Bytes that there are, if that is asked.
        dtype: Of the frozen weights.
        quantization: Of the frozen linear weights.
        device: Where it would run.
        classes: Of the task.
        factor: On predicted tensors.
        checkpointing: Whether activations are computed again.
    """

    model: str
    space: str
    batch: int
    length: int
    within: int | None
    dtype: Dtype
    quantization: Quantization
    device: Device
    classes: int
    factor: float
    checkpointing: bool


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(estimate)


def estimate(
    model: Annotated[str, typer.Argument(help="A hub name, a folder with config.json, or builtin:minilm-l6.")],
    space: Annotated[str, typer.Option(help="A preset: its methods are listed, each at several sizes.")] = "default",
    batch: Annotated[int, typer.Option(min=1, help="Examples of a step.")] = 8,
    length: Annotated[int, typer.Option(min=4, help="Tokens of an example.")] = 512,
    within: Annotated[str, typer.Option(help="Memory that there is, such as 16GiB.")] = "",
    dtype: Annotated[str, typer.Option(help="Of the frozen weights: float32 or bfloat16.")] = "bfloat16",
    quantization: Annotated[
        str, typer.Option(help="Of the frozen linear weights: none, int8, nf4, torchao_int8 or torchao_int4.")
    ] = "none",
    device: Annotated[str, typer.Option(help="Where it would run: cuda or cpu.")] = "cuda",
    classes: Annotated[int, typer.Option(min=2, help="Classes of the task.")] = 2,
    factor: Annotated[float, typer.Option(min=0.1, help="Safety factor on predicted tensors.")] = 1.1,
    checkpointing: Annotated[bool, typer.Option(help="Compute activations again for the way back.")] = False,
    json: Json = False,
) -> None:
    """Say what methods would need on a model, by size: parameters, checkpoint, memory. No weight is loaded."""
    asked = Question(
        model,
        _checked("space", space, tuple(presets())),
        batch,
        length,
        _bytes(within),
        _checked("dtype", dtype, get_args(Dtype)),  # type: ignore[arg-type]
        _checked("quantization", quantization, get_args(Quantization)),  # type: ignore[arg-type]
        _checked("device", device, get_args(Device)),  # type: ignore[arg-type]
        classes,
        factor,
        checkpointing,
    )
    data = answer(asked)
    if json:
        print_json(data)
    else:
        _show(asked, data)


def answer(asked: Question) -> dict[str, Any]:
    """Return the costs of every method of the space at its sizes, cheapest in memory first."""
    import torch

    from evaluators.backbone import Machine, load_config
    from evaluators.costing import MetaCoster
    from evaluators.device_memory import needed_bytes
    from evaluators.memory import Load
    from evaluators.spec import ModelSpec

    spec = ModelSpec(name=asked.model, dtype=asked.dtype, quantization=asked.quantization)
    eager = asked.device == "cpu" and asked.dtype == "bfloat16"
    machine = Machine(torch.device(asked.device), getattr(torch, asked.dtype), "eager" if eager else "sdpa")
    load = Load(asked.batch, asked.length, asked.batch, asked.checkpointing)
    coster = MetaCoster(spec, load_config(spec, asked.classes), load, machine, tables=Home().tables())
    rows: list[dict[str, Any]] = []
    refused: list[dict[str, str]] = []
    for candidate in _candidates(bind(SpaceSpec(preset=asked.space), coster.anatomy)):
        try:
            cost = coster.cost(candidate)
        except (UnsupportedError, PlacementError) as error:
            refused.append({"candidate": write_parts(candidate), "reason": str(error)})
            continue
        memory = {
            name: needed_bytes(value, asked.device, asked.factor)
            for name, value in cost.values.items()
            if name in ("peak_memory_bytes", "inference_memory_bytes")
        }
        needed = memory["peak_memory_bytes"]
        fits = None if asked.within is None else needed <= asked.within
        rows.append({"candidate": write_parts(candidate), **cost.to_json(), "needed": memory, "fits": fits})
    rows.sort(key=lambda row: row["needed"]["peak_memory_bytes"])
    return {
        "model": asked.model, "architecture": coster.anatomy.architecture, "backbone_parameters": coster.parameters,
        "batch": asked.batch, "length": asked.length, "dtype": asked.dtype, "quantization": asked.quantization,
        "device": asked.device, "memory_factor": asked.factor, "gradient_checkpointing": asked.checkpointing,
        "within": asked.within, "candidates": rows, "refused": refused,
    }  # fmt: skip


def _candidates(space: Space) -> Iterator[Candidate]:
    """Yield the references, and each method of the space on all layers with its first size small, usual and large."""
    yield at_defaults("head")
    for name in dict.fromkeys(name for one in space.compositions for name in one.methods if len(one.methods) == 1):
        rule = method(name)
        part = replace(rule.default_part(), placement=replace(rule.default_part().placement, layers=Layers()))
        size = next((knob for knob in rule.knobs if knob.ordered and knob.shapes), None)
        values: list[KnobValue] = [] if size is None else [size.values[0], size.default, size.values[-1]]
        for value in dict.fromkeys(values) or [None]:
            knobs = dict(part.knobs) if size is None or value is None else {**dict(part.knobs), size.name: value}
            one = Part(name, tuple(knobs.items()), part.placement)
            yield Candidate((one,), Recipe((rule.learning_rate.default,)))
    yield at_defaults("full")


def _checked(name: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise InputError(f"--{name}: {value!r} is not one of {one_of(allowed)}{did_you_mean(value, allowed)}")
    return value


def _bytes(text: str) -> int | None:
    try:
        return parse_bytes(text) if text else None
    except (ValueError, CandidateError) as error:
        raise InputError(f"--within: {error}") from None


def _show(asked: Question, data: dict[str, Any]) -> None:
    about = (
        f": {format_count(data['backbone_parameters'])} parameters in {asked.dtype}"
        f"{'' if asked.quantization == 'none' else f', linear weights in {asked.quantization}'}; "
        f"batch {asked.batch}, {asked.length} tokens, on {asked.device}."
    )
    console.print(Text.assemble((asked.model, "bold"), about))
    rows = [_row(one) for one in data["candidates"]]
    heads = ["candidate", "params", "deployed", "checkpoint", "training", "inference", "fits"]
    console.print(table(heads, rows, right=(1, 2, 3, 4, 5)))
    for one in data["refused"]:
        console.print(f"not possible: {one['candidate']}: {one['reason']}")
    beside = "context, workspace and whole blocks beside them" if asked.device == "cuda" else "nothing beside them"
    console.print(f"Memory: predicted tensors times {asked.factor:g}, {beside}. It is a prediction, not a measurement.")


def _row(one: dict[str, Any]) -> list[str | Text]:
    fits = {None: Text(), True: Text("yes", "green"), False: Text("no", "red")}[one["fits"]]
    counts = [format_count(one["trainable_params"]), format_count(one["deployed_params"])]
    memory = [format_bytes(one["needed"][name]) for name in ("peak_memory_bytes", "inference_memory_bytes")]
    return [one["candidate"], *counts, format_bytes(one["checkpoint_bytes"]), *memory, fits]
