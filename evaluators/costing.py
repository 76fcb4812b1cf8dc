"""The cost of a candidate before it is trained: exact counts and predicted memory, from shapes alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import nn

from evaluators.anatomy import anatomy_of
from evaluators.backbone import Machine, build_on_meta, choose_machine, fit_attention, head_of, load_config
from evaluators.counting import Counter
from evaluators.memory import Load, StepCost
from evaluators.memory_table import MemoryTable
from evaluators.quantization import saved_bytes
from evaluators.score import Cost
from evaluators.spec import ModelSpec, TrainingSpec
from evaluators.table_files import TableFiles, conditions
from evaluators.tracing import Subject, TracingProcess
from search_space.candidate import Candidate, Part
from search_space.errors import UnsupportedError
from search_space.placement import Anatomy

_VIRTUAL = "num_virtual_tokens"
_POSITIONS = re.compile(r"(position|pos)_?embeddings?$|embed_positions$|wpe$")
"""Names of tables with a row for each position."""


class Coster(Protocol):
    """Tells the cost of candidates of one study."""

    anatomy: Anatomy
    parameters: int

    def cost(self, candidate: Candidate, within: float | None = None) -> Cost:
        """Return the cost, where steps may be divided that of the fewest parts whose peak is at most `within` bytes.

        Raises:
            UnsupportedError, PlacementError: The model cannot carry the candidate.
        """

    def count(self, candidate: Candidate) -> int:
        """Return the trainable parameters without the head. Raises as `cost` does."""


class MetaCoster:
    """Attaches candidates to the model on the `meta` device, where tensors have shapes and no memory.

    Attributes:
        anatomy: What the model offers.
        parameters: Parameters of the backbone, without the head.
    """

    def __init__(
        self,
        spec: ModelSpec,
        config: Any,
        load: Load,
        machine: Machine | None = None,
        accumulate: int | Literal["auto"] = 1,
        tables: Path | None = None,
        process: TracingProcess | None = None,
    ) -> None:
        """Build a model from its configuration.

        Args:
            spec: The model.
            config: Its configuration.
            load: The shape of a whole step.
            machine: Where it would run; this one when None.
            accumulate: Parts that steps are divided into, or `auto` for as few as a limit lets.
            tables: A folder that keeps what was traced for later processes; None keeps it in this one.
            process: Traces what is not known; None traces in this process.

        Raises:
            UnsupportedError: The model does not have the attention that is asked for.
        """
        machine = fit_attention(machine or choose_machine(spec), spec, config)
        if getattr(config, "pad_token_id", None) is None:
            config.pad_token_id = 0  # a real one comes with the tokenizer; costs are the same
        self._model: nn.Module = build_on_meta(config, machine.attention, machine.dtype)
        self._dtype = machine.dtype
        self._load = replace(load, device=machine.device.type)
        self._divisions = tuple(_divisions(load.batch)) if accumulate == "auto" else (accumulate,)
        self._known: dict[tuple[str, bool, int], Cost] = {}
        self._saved = saved_bytes(self._model, spec.quantization, self._dtype, head_of(self._model), machine.device)
        self.anatomy = replace(anatomy_of(self._model), quantization=spec.quantization, device=machine.device.type)
        self.parameters = count_backbone(self._model)
        self._counter = Counter(self._model, self.anatomy)
        self._subject = Subject.of(config, machine.attention, machine.dtype, self.anatomy)
        self._tracer = process.of(self._subject) if process else None
        self._files = tables
        self._tables: dict[int, MemoryTable] = {}

    def cost(self, candidate: Candidate, within: float | None = None) -> Cost:
        """Return exact counts, the size of the checkpoint, and what is predicted of a step.

        Where steps may be divided, it is the cost with the fewest parts whose peak is at most `within` bytes, or with
        the most.
        """
        fewest = self._divided(candidate, self._divisions[0])
        if within is None or _fits(fewest, within) or len(self._divisions) == 1:
            return fewest
        return self._least_divided(candidate, within)

    def _least_divided(self, candidate: Candidate, within: float) -> Cost:
        """Return the cost with the fewest parts that fits, where one does not; else with the most.

        Steps grow until one fits, and what was leapt over is halved: what is little over a limit is looked at twice.
        """
        too_few, at, last = 0, 1, len(self._divisions) - 1
        while not _fits(cost := self._divided(candidate, self._divisions[at]), within):
            if at == last:
                return cost
            too_few, at = at, min(2 * at, last)
        while at - too_few > 1:
            middle = (too_few + at) // 2
            tried = self._divided(candidate, self._divisions[middle])
            if _fits(tried, within):
                cost, at = tried, middle
            else:
                too_few = middle
        return cost

    def _divided(self, candidate: Candidate, parts: int) -> Cost:
        # Of the recipe only this costs anything: dropout keeps masks for the way back.
        key = (candidate.architecture_sha256, candidate.recipe.dropout > 0, parts)
        if key not in self._known:
            counts = self._counter.count(candidate)
            step = self._step(candidate, parts)
            self._known[key] = Cost(
                counts.trainable_params,
                counts.head_params,
                step.peak_bytes - self._saved,
                counts.deployed_params,
                counts.checkpoint_bytes,
                step.inference_bytes - self._saved,
                round(step.forward_flops),
                round(step.training_flops),
                parts if parts > 1 else None,
            )
        return self._known[key]

    def count(self, candidate: Candidate) -> int:
        """Return the trainable parameters without the head; memory is not looked at."""
        return self._counter.trainable_params(candidate)

    def _step(self, candidate: Candidate, parts: int) -> StepCost:
        self._require_positions(candidate)
        if parts not in self._tables:
            self._tables[parts] = self._table(self._load.divided(parts))
        try:
            return self._tables[parts].cost(candidate)
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            tokens = max(self._load.length, self._load.evaluated[1])
            what = f"{candidate.method} cannot be trained on {tokens} tokens here"
            raise UnsupportedError(f"{what}: {str(error).splitlines()[0]}; lower training.max_length") from error

    def _table(self, load: Load) -> MemoryTable:
        files = None
        if self._files is not None:
            measures = load.device == "cpu" and self._dtype != torch.float32
            files = TableFiles(self._files, [asdict(self._subject), asdict(load), conditions(measures)])
        return MemoryTable(self._model, self.anatomy, self._dtype, load, self._tracer, files)

    def _require_positions(self, candidate: Candidate) -> None:
        """Refuse virtual tokens that leave no positions for a text: with some models only training would tell."""
        virtual = sum(map(_virtual_tokens, candidate.parts))
        tokens = max(self._load.length, self._load.evaluated[1])
        if not virtual or self._positions is None or virtual + tokens <= self._positions:
            return
        longest = self._positions - tokens
        raise UnsupportedError(
            f"{candidate.method} cannot be trained on {tokens} tokens here: {virtual} virtual tokens before them are "
            f"more than the model's {self._positions} positions; "
            + (f"the longest that fits is {longest}, or " if longest > 0 else "")
            + "lower training.max_length"
        )

    @cached_property
    def _positions(self) -> int | None:
        """How many tokens have a place in the model's table of positions; None where it has no table."""
        tables = (site for site in self.anatomy.sites if site.kind == "embedding" and _POSITIONS.search(site.name))
        places = []
        for site in tables:
            padding: Any = self._model.get_submodule(site.name).padding_idx
            places.append(site.in_features - (0 if padding is None else padding + 1))
        said = getattr(self._model.config, "max_position_embeddings", None)
        return min([*places, *([said] if isinstance(said, int) else [])]) if places else None


def _virtual_tokens(part: Part) -> int:
    """Return the longest prefix of a part; 0 where it has none."""
    length = dict(part.knobs).get(_VIRTUAL, 0)
    return max(length) if isinstance(length, tuple) else int(length)


def _divisions(batch: int) -> Iterator[int]:
    """Yield the fewest parts for each size of the largest part that a batch can be divided into, largest first."""
    size = None
    for parts in range(1, batch + 1):
        if (divided := -(-batch // parts)) != size:
            size = divided
            yield parts


def _fits(cost: Cost, within: float) -> bool:
    return (cost.peak_memory_bytes or 0) <= within


def count_backbone(model: nn.Module) -> int:
    """Return the number of a classifier's parameters without its head."""
    heads = {id(parameter) for name in head_of(model) for parameter in model.get_submodule(name).parameters()}
    return sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in heads)


def meta_coster(
    spec: ModelSpec,
    classes: int,
    training: TrainingSpec,
    length: int,
    tasks: int = 1,
    evaluation_length: int | None = None,
    tables: Path | None = None,
    process: TracingProcess | None = None,
) -> MetaCoster:
    """Make the coster of a model for the batches of a study.

    Args:
        spec: The model.
        classes: Columns of its logits.
        training: How candidates are trained.
        length: Tokens of the longest example that is trained on.
        tasks: How many tasks share the model.
        evaluation_length: Tokens of the longest example that is evaluated; `length` when None.
        tables: A folder that keeps what was traced for later processes.
        process: Traces what is not known there.
    """
    load = Load(
        training.batch_size,
        length,
        training.evaluation_batch_size,
        training.gradient_checkpointing,
        evaluation_length=evaluation_length,
    )
    config = load_config(spec, classes, tasks)
    return MetaCoster(spec, config, load, accumulate=training.accumulate, tables=tables, process=process)
