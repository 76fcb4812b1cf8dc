"""Candidates to begin with whose places and ranks follow from one backward pass through the frozen model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from evaluators.evaluation import EvaluatorSpec
from orchestrator.preparation import Prepared
from orchestrator.spec import LOOKING, Looking
from search_space.allocation import Worth, allocate, by_position, by_rank
from search_space.candidate import Candidate
from search_space.errors import StudyError
from search_space.quantities import format_count

_SHARES = (1.0, 1 / 4, 1 / 16)
_DEFAULT_SHARE = 0.01
"""Of the backbone, where nothing limits the trainable parameters."""


class Allocations:
    """What one study may begin with.

    The model is looked at when the first source is asked for, in a process of its own: nothing of it stays in the
    driver's memory, or on its device.
    """

    def __init__(self, prepared: Prepared, seed: int) -> None:
        self._prepared, self._seed = prepared, seed
        self._worths: dict[Looking, Worth] | None = None

    def of(self, source: Looking) -> Iterator[tuple[str, Candidate]]:
        """Yield LoRAs of three sizes, each with its name.

        Raises:
            StudyError: The model could not be looked at.
        """
        if self._worths is None:
            self._worths = worths(self._prepared.evaluator)
        limit = self._prepared.limits.get("trainable_params", _DEFAULT_SHARE * self._prepared.coster.parameters)
        for share in _SHARES:
            most = share * limit
            found = allocate(self._prepared.space, self._prepared.tally, self._worths[source], most, self._seed)
            if found is not None:
                yield f"within {format_count(round(most))} parameters", found


def worths(evaluator: EvaluatorSpec) -> dict[Looking, Worth]:
    """Return what positions are worth, by each source.

    Raises:
        StudyError: The model could not be looked at.
    """
    with TemporaryDirectory() as folder:
        asked, answer = Path(folder, "asked.json"), Path(folder, "answer.json")
        asked.write_text(json.dumps(evaluator.to_json()), encoding="utf-8")
        command = [sys.executable, "-m", "evaluators.saliency", str(asked), str(answer)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  (our own module)
        if done.returncode:
            why = (done.stderr.strip().splitlines() or ["it was killed"])[-1]
            raise StudyError(
                f"the model could not be looked at for its proposals: {why}; "
                f"take {', '.join(LOOKING)} out of search.proposals"
            )
        found = json.loads(answer.read_text(encoding="utf-8"))
    gradient, inputs = found["gradient"], found["inputs"]
    # places with the largest gradients; ranks by the gradients' singular values; ranks by the variance of the inputs
    return {"saliency": by_position(gradient), "adalora": by_rank(gradient), "eva": by_rank(inputs)}
