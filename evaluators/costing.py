"""The cost of a candidate before it is trained: exact counts and predicted memory, from shapes alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal, Protocol

from torch import nn

from evaluators.anatomy import anatomy_of
from evaluators.attach import attach
from evaluators.backbone import Machine, build_on_meta, choose_machine, head_of, load_config
from evaluators.counting import Counter
from evaluators.memory import Load, StepCost, predict_step
from evaluators.memory_table import MemoryTable
from evaluators.quantization import saved_bytes
from evaluators.score import Cost
from evaluators.spec import ModelSpec, TrainingSpec
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
    ) -> None:
        """Build a model from its configuration.

        Args:
            spec: The model.
            config: Its configuration.
            load: The shape of a whole step.
            machine: Where it would run; this one when None.
            accumulate: Parts that steps are divided into, or `auto` for as few as a limit lets.
        """
        machine = machine or choose_machine(spec)
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
        self._tables: dict[int, MemoryTable] = {}

    def cost(self, candidate: Candidate, within: float | None = None) -> Cost:
        """Return exact counts, the size of the checkpoint, and what is predicted of a step.

        Where steps may be divided, it is the cost with the fewest parts whose peak is at most `within` bytes, or with
        the most.
        """
        for parts in self._divisions:
            cost = self._divided(candidate, parts)
            if within is None or (cost.peak_memory_bytes or 0) <= within:
                break
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
        return self._counter.count(candidate).trainable_params

    def _step(self, candidate: Candidate, parts: int) -> StepCost:
        self._require_positions(candidate)
        load = self._load.divided(parts)
        if parts not in self._tables:
            self._tables[parts] = MemoryTable(self._model, self.anatomy, self._dtype, load)
        try:
            if self._tables[parts].takes(candidate):
                return self._tables[parts].cost(candidate)
            return predict_step(attach(self._model, self.anatomy, candidate), self._dtype, load)
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            tokens = max(self._load.length, self._load.evaluated[1])
            what = f"{candidate.method} cannot be trained on {tokens} tokens here"
            raise UnsupportedError(f"{what}: {str(error).splitlines()[0]}; lower training.max_length") from error

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
    """Yield into how many parts a step may be divided: 1, 2, 4 and so on, until each part is one example."""
    parts = 1
    while parts < batch:
        yield parts
        parts *= 2
    yield batch


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
) -> MetaCoster:
    """Make the coster of a model for the batches of a study.

    Args:
        spec: The model.
        classes: Columns of its logits.
        training: How candidates are trained.
        length: Tokens of the longest example that is trained on.
        tasks: How many tasks share the model.
        evaluation_length: Tokens of the longest example that is evaluated; `length` when None.
    """
    load = Load(
        training.batch_size,
        length,
        training.evaluation_batch_size,
        training.gradient_checkpointing,
        evaluation_length=evaluation_length,
    )
    return MetaCoster(spec, load_config(spec, classes, tasks), load, accumulate=training.accumulate)
