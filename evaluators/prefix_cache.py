"""The frozen prefix: what the layers below a candidate's lowest change give, computed once for each example of a study.

A candidate that leaves the first layers as they are starts from their stored states. The files lie with the study's
tokens, memory-mapped, so that candidates, epochs, and the processes of a node share them.

States are computed in fixed groups of examples: the batches of the first training pass, and those of an evaluation.
Padding changes an example's states only in how matrix products of other shapes round. So evaluations and the first pass
are bit for bit those of a whole forward pass; later passes, whose batches mix the groups, are equal up to that
rounding. What is stored does not depend on which candidate came first, so studies repeat exactly.

The cache is off by itself where it would not be exact: when the candidate changes the first layer or what comes before
it (embeddings, prompts, prefixes); while training under dropout, which must be drawn anew; where a model hands on more
than hidden states, or does not run its layers in order. Every depth is tried on the bare model before it is used.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from evaluators.backbone import Backbone
from evaluators.clock import Clock
from evaluators.dropout import set_dropout
from evaluators.model_copies import copy_of
from evaluators.shortcut import Course, Shortcut
from evaluators.state_files import Shape, StateFile, boot, make_room
from evaluators.tokens import Batch, Tokens
from search_space.errors import UnsupportedError
from search_space.placement import Anatomy
from search_space.quantities import format_bytes

_LIKE = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}
"""How far logits may lie apart, relative and absolute: rounding passes, a wrong layer does not."""


@dataclass(frozen=True)
class Portion:
    """Some examples of a study, and the groups in which their states are computed.

    Attributes:
        name: What tells it from other portions of the study.
        tokens: The examples.
        groups: Positions of the examples, each in exactly one group.
    """

    name: str
    tokens: Tokens
    groups: Sequence[list[int]]

    @cached_property
    def group_of(self) -> dict[int, int]:
        """The number of the group of each example."""
        return {index: number for number, group in enumerate(self.groups) for index in group}


class PrefixCache:
    """Stored states of one backbone.

    Args:
        backbone: The frozen model.
        anatomy: Where its layers are.
        tokens: The examples of each role that the study's candidates share.
        folder: Where the files go.
        about: What else the states depend on: the model's spec and the data.
        limit: Most bytes of all files together; 0 turns the cache off.
        clock: Counts the time spent on computing states.

    Attributes:
        why_off: Why no candidate can use it, or empty.
        clock: Counts the time spent on computing states that were not stored yet.
    """

    def __init__(
        self,
        backbone: Backbone,
        anatomy: Anatomy,
        tokens: Mapping[str, Tokens],
        folder: Path,
        about: str,
        limit: int,
        clock: Clock,
    ) -> None:
        self._bare, self._device, self._dtype = backbone.model, backbone.device, backbone.dtype
        self._folder, self._limit = folder, limit
        self._forms: dict[int, tuple[int, torch.dtype]] = {}
        self._names = [block.name for block in anatomy.blocks]
        self._tokens = sum(len(ids) for one in tokens.values() for ids in one.ids)
        self.clock = clock
        self._files: dict[Path, StateFile] = {}
        self._worth: dict[Path, int] = defaultdict(int)
        self._tried: dict[tuple[int, bool], str] = {}
        attention = getattr(getattr(self._bare, "config", None), "_attn_implementation", "")
        text = f"{about}|{self._dtype}|{self._device.type}|{attention}|{torch.__version__}|{boot()}"
        self._key = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.why_off = "" if limit else "training.prefix_cache is 0"
        if limit:
            self._look(anatomy, next(iter(tokens.values())))

    def _look(self, anatomy: Anatomy, tokens: Tokens) -> None:
        """Watch the model run, on the shortest examples."""
        self._reader = copy_of(self._bare)
        set_dropout(self._reader, 0.0)
        try:
            self._course = Course(self._reader, anatomy, tokens.batch(tokens.by_length(2)[-1], self._device).inputs)
            self._shortcut = self._shortcut_on(self._reader)
        except UnsupportedError as error:
            self.why_off = str(error)

    def forward_of(self, model: nn.Module) -> Forward:
        """Return how an attached candidate is run: from stored states where that is exact."""
        depth = 0 if self.why_off else self._course.unchanged_layers(self._bare, model)
        if not depth:
            why = self.why_off or "the candidate changes the first layer, or what comes before it"
            return Forward(model, 0, why)
        drops = self._course.may_drop_out(model, depth)
        reads = self._course.depths_read(model, depth)
        return Forward(model, depth, "", drops, self, self._shortcut_on(model), reads)

    def _shortcut_on(self, model: nn.Module) -> Shortcut:
        names = self._names[: self._course.depth]
        return Shortcut(model, names, self._course.entries[: len(names)])

    def why_not(self, depths: Sequence[int], batch: Batch, training: bool) -> str:
        """Return why states of some depths cannot be used, or an empty text; tries each on a batch the first time."""
        for depth in depths:
            if (depth, training) not in self._tried:
                with torch.inference_mode(), self.clock.phase("prefix"):
                    self._tried[depth, training] = self._draws(depth, batch) if training else self._try(depth, batch)
            if why := self._tried[depth, training]:
                return why
        forms = (self._forms[depth] for depth in depths)
        size = self._tokens * sum(width * dtype.itemsize for width, dtype in forms)
        if size > self._limit:
            return f"the study's states need {format_bytes(size)}; training.prefix_cache is {format_bytes(self._limit)}"
        return ""

    def _try(self, depth: int, batch: Batch) -> str:
        """Compare a forward pass from a depth with a whole one, on the bare model."""
        states = self._shortcut.states_after((depth,), self._reader, batch.inputs)
        self._forms[depth] = states[depth].shape[-1], states[depth].dtype
        whole = self._reader(**batch.inputs).logits.float()
        with self._shortcut.beginning(states):
            short = self._reader(**batch.inputs).logits.float()
        like = _LIKE[self._dtype]
        same = torch.allclose(whole, short, rtol=like, atol=like)
        return "" if same else f"the model gives something else when its first {depth} layers are skipped"

    def _draws(self, depth: int, batch: Batch) -> str:
        """Compare the lower layers of the bare model in training, without dropout modules, with those in evaluation."""
        if any(isinstance(module, _NormBase) for module in self._reader.modules()):
            return "the model normalises over the batch"
        before = self._shortcut.states_after((depth,), self._reader, batch.inputs)[depth]
        with torch.random.fork_rng([self._device] if self._device.type == "cuda" else []):
            self._reader.train()
            after = self._shortcut.states_after((depth,), self._reader, batch.inputs)[depth]
            self._reader.eval()
        same = torch.allclose(before.float(), after.float(), rtol=_LIKE[self._dtype], atol=_LIKE[self._dtype])
        return "" if same else "the model's lower layers draw random numbers while it trains"

    def states(
        self, depths: Sequence[int], portion: Portion, indices: Sequence[int], batch: Batch
    ) -> dict[int, Tensor]:
        """Return the states of some depths for a batch, [batch, tokens, width], computing what is not stored.

        Raises:
            OSError: There is no room on the disk.
        """
        files = self._opened(depths, portion)
        lacking = {number for file in files.values() for number in self._groups(file, portion, indices)}
        for number in sorted(lacking):
            with self.clock.phase("prefix"):
                self._compute(files, portion, portion.groups[number])
        width = batch.inputs["input_ids"].shape[1]
        for depth, file in files.items():
            self._worth[file.path] += depth
        return {depth: file.read(indices, width).to(self._device) for depth, file in files.items()}

    def _groups(self, file: StateFile, portion: Portion, indices: Sequence[int]) -> set[int]:
        """Return the groups whose states a file lacks for some examples."""
        return {portion.group_of[index] for index in file.lacking(indices)}

    def _compute(self, files: Mapping[int, StateFile], portion: Portion, group: list[int]) -> None:
        """Store the states of a group that files lack, from those of the highest lower depth that is stored."""
        batch = portion.tokens.batch(group, self._device)
        lacking = [depth for depth, file in files.items() if file.lacking(group)]
        below = self._nearest(min(lacking), portion, group, batch)
        with torch.no_grad(), self._shortcut.beginning(below):
            found = self._shortcut.states_after(lacking, self._reader, batch.inputs)
        for depth, states in found.items():
            files[depth].write(group, states)

    def _nearest(self, depth: int, portion: Portion, group: list[int], batch: Batch) -> dict[int, Tensor]:
        for below in range(depth - 1, 0, -1):
            file = self._files.get(self._path(below, portion))
            if file is not None and not file.lacking(group):
                return {below: file.read(group, batch.inputs["input_ids"].shape[1]).to(self._device)}
        return {}

    def _opened(self, depths: Sequence[int], portion: Portion) -> dict[int, StateFile]:
        """Return the files of some depths, opened or made; another process may have deleted them to make room."""
        paths = {depth: self._path(depth, portion) for depth in depths}
        if any(path not in self._files or not path.exists() for path in paths.values()):
            lengths = tuple(len(ids) for ids in portion.tokens.ids)
            shapes = {depth: Shape(lengths, *self._forms[depth]) for depth in depths}
            wanted = {path: shapes[depth].size for depth, path in paths.items()}
            for gone in make_room(self._folder, wanted, self._limit, self._worth):
                self._files.pop(gone, None)
            for depth, path in paths.items():
                if path not in self._files or not path.exists():
                    self._files[path] = StateFile(path, shapes[depth])
        return {depth: self._files[path] for depth, path in paths.items()}

    def _path(self, depth: int, portion: Portion) -> Path:
        return self._folder / f"{self._key}-{portion.name}-{depth}.states"


class Forward:
    """How one candidate is run.

    Attributes:
        depth: Layers that it leaves as they are.
        why_whole: Why it was run whole the last time, or empty.
    """

    def __init__(
        self,
        model: nn.Module,
        depth: int,
        why_whole: str,
        drops: bool = False,
        cache: PrefixCache | None = None,
        shortcut: Shortcut | None = None,
        reads: tuple[int, ...] = (),
    ) -> None:
        self.depth, self.why_whole = depth, why_whole
        self._model, self._drops, self._cache, self._shortcut, self._reads = model, drops, cache, shortcut, reads

    def __call__(self, portion: Portion, indices: Sequence[int], batch: Batch) -> Tensor:
        """Return the logits of a batch, [batch, classes]; `indices` are its examples' positions in the portion."""
        if self._cache is None or self._shortcut is None:
            return self.whole(batch)
        self.why_whole = self._why_whole(self._cache, batch)
        if self.why_whole:
            return self.whole(batch)
        try:
            states = self._cache.states(self._reads, portion, indices, batch)
        except OSError as error:
            self.why_whole = f"states cannot be stored: {error}"
            return self.whole(batch)
        with self._shortcut.beginning(states):
            return self.whole(batch)

    def whole(self, batch: Batch) -> Tensor:
        """Return the logits of a batch without stored states, [batch, classes]."""
        logits: Tensor = self._model(**batch.inputs).logits
        return logits

    def _why_whole(self, cache: PrefixCache, batch: Batch) -> str:
        if self._model.training and self._drops:
            return "dropout below the candidate's lowest change"
        return cache.why_not(self._reads, batch, training=False) or (
            cache.why_not(self._reads, batch, training=True) if self._model.training else ""
        )
