"""The frozen layers that all members of an ensemble leave as they are, run once for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from evaluators.anatomy import anatomy_of
from evaluators.backbone import Backbone
from evaluators.model_copies import copy_of
from evaluators.shortcut import Course, Shortcut
from search_space.errors import UnsupportedError


class SharedPrefix:
    """Runs candidates on one backbone, its lower layers once.

    Args:
        backbone: What all of them stand on.
        models: The candidates, attached and trained.
        inputs: Any batch, to watch the backbone run on.

    Attributes:
        depth: Layers that are run once; 0 where each candidate is run whole.
        why_whole: Why they are run whole, or empty.
    """

    def __init__(self, backbone: Backbone, models: Sequence[nn.Module], inputs: Mapping[str, Tensor]) -> None:
        self._models = tuple(models)
        self.depth, self.why_whole = 0, ""
        reader, anatomy = copy_of(backbone.model), anatomy_of(backbone.model)
        try:
            course = Course(reader, anatomy, inputs)
        except UnsupportedError as error:
            self.why_whole = str(error)
            return
        self.depth = min(course.unchanged_layers(backbone.model, model) for model in models)
        if not self.depth:
            self.why_whole = "a member changes the first layer, or what comes before it"
            return
        names = [block.name for block in anatomy.blocks][: course.depth]
        entries = course.entries[: len(names)]
        self._reader = reader
        self._below = Shortcut(reader, names, entries)
        self._above = [Shortcut(model, names, entries) for model in models]
        self._reads = [course.depths_read(model, self.depth) for model in models]

    def logits(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the logits of each candidate, [batch, classes]."""
        with torch.inference_mode():
            if not self.depth:
                return [model(**inputs).logits for model in self._models]
            states = self._below.states_after(set().union(*self._reads), self._reader, inputs)
            return [
                self._from({depth: states[depth] for depth in reads}, above, model, inputs)
                for reads, above, model in zip(self._reads, self._above, self._models, strict=True)
            ]

    def _from(
        self, states: Mapping[int, Tensor], above: Shortcut, model: nn.Module, inputs: Mapping[str, Tensor]
    ) -> Tensor:
        with above.beginning(states):
            logits: Tensor = model(**inputs).logits
        return logits
