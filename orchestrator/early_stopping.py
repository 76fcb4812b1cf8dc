"""Which rule looks at the rungs of a study."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.freeze_thaw import FreezeThaw
from orchestrator.halving import Halving
from orchestrator.reach import Reach
from orchestrator.rungs import Rungs
from orchestrator.spec import StudySpec

_RULES: Mapping[str, type[Rungs]] = {"freeze_thaw": FreezeThaw, "reach": Reach, "halving": Halving}


def rungs_of(spec: StudySpec, full: int) -> Rungs:
    """Return the rungs of a study with the rule that it chose, or with `reach` where its candidates cannot pause.

    Args:
        spec: The study.
        full: Steps of full training.
    """
    stopping = spec.search.early_stopping
    rule = Reach if stopping.rule == "freeze_thaw" and not spec.pauses else _RULES[stopping.rule]
    return rule(stopping, spec.objectives, full)
