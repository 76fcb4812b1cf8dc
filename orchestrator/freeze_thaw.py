"""No stop is final: candidates pause at every rung, and the best of paused and new ones goes on.

Who goes on is a choice of the sampler (`orchestrator/proposals.py`), which expects more or less of each (Swersky, Snoek
& Adams 2014, arXiv:1406.3896). Here it only stands who can pause. What is decided once nothing new is begun any more is
decided as by `reach`: who pauses still and is within reach goes on.
"""

from __future__ import annotations

from evaluators.score import Score
from orchestrator.reach import Reach


class FreezeThaw(Reach):
    """Rungs at which a candidate waits for its turn; as `Reach` where a rung does not measure an objective."""

    def pauses(self, score: Score) -> bool:
        """Whether a trial that has this score at a rung waits there."""
        return not score.full and self.tells(score)
