"""A pretended exact counter: what parts bring to a layer depends on the layer, the method and the shaping knobs."""

from __future__ import annotations

import math

from search_space.candidate import Candidate, Part
from search_space.errors import UnsupportedError
from search_space.placement import Anatomy
from search_space.registry import method
from search_space.space import resolve
from search_space.spread import in_one_size


class Counted:
    """Counts candidates on one anatomy, slowly and exactly; one method shares a tensor between its layers."""

    def __init__(self, anatomy: Anatomy, sharing: str = "", refused: str = "") -> None:
        self.anatomy, self.sharing, self.refused = anatomy, sharing, refused
        self.asked = 0

    def __call__(self, candidate: Candidate) -> int:
        self.asked += 1
        if self.refused and self.refused in candidate.method:
            raise UnsupportedError(f"{self.refused} is refused")
        return sum(self._part(one) for part in candidate.parts for one in in_one_size(part, self.anatomy))

    def _part(self, part: Part) -> int:
        targets = resolve(part, self.anatomy)
        knobs = [knob for knob in method(part.method).knobs if knob.shapes]
        sizes = math.prod(max(1, int(part[knob.name])) for knob in knobs if knob.low is not None)  # type: ignore[arg-type]
        flags = sum(part[knob.name] is True for knob in knobs)
        widths = sum(site.in_features + site.out_features for site in targets.sites) or 32 * len(targets.layers)
        shared = 1000 if part.method == self.sharing else 0
        return widths * sizes + flags * len(targets.layers) + shared
