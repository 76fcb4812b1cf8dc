"""What the trials of a search tell a sampler, added up once for those that are settled.

A sampler that learns is asked before each trial. What it needs of all trials (who was trained to the end, what was
gained between rungs) would be read again each time, which takes a time that grows with the study. Trials that are
settled do not change, so each of them is read once, when it is settled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from orchestrator.growing import Rows
from orchestrator.trial import Trial


@dataclass
class Told:
    """What trials tell.

    Attributes:
        learnt: Trials with a score and a cost, in order.
        running: Those of them that run.
        reached: Objectives of those that were trained to the end and keep every limit, shape [trials, objectives].
        gains: By metric that is asked for and by fidelity what those that were trained to the end gained from there on.
        least: By objective the least value above 0 of any last score.
    """

    learnt: list[Trial]
    running: list[Trial]
    reached: Rows
    gains: dict[str, dict[float, Rows]]
    least: dict[str, float]

    def means(self, metric: str) -> dict[float, float]:
        """Return the mean gain in a metric from each fidelity to the end."""
        return {fidelity: float(rows.values.mean()) for fidelity, rows in self.gains[metric].items()}


@dataclass
class History:
    """Reads trials.

    Attributes:
        objectives: Names of the objectives.
        gained: Names of the metrics whose gains are asked for.
        keeps: Whether a trial that was trained to the end keeps every limit.
    """

    objectives: Sequence[str]
    gained: Sequence[str]
    keeps: Callable[[Trial], bool]
    _read: dict[int, Trial] = field(default_factory=dict)
    _told: Told | None = None

    def of(self, trials: Sequence[Trial]) -> Told:
        """Return what trials tell, in their order; what settled ones tell, in the order in which they were settled."""
        settled = [one for one in trials if one.is_settled]
        known = sum(self._read.get(one.number) is one for one in settled)
        if self._told is None or known < len(self._read):
            self._read, self._told = {}, self._nothing()
        for one in settled if len(settled) > len(self._read) else ():
            if one.number not in self._read:
                self._read[one.number] = one
                self._take(self._told, one)
        told = _copied(self._told, [one for one in trials if _teaches(one)])
        for one in told.learnt:
            if not one.is_settled:
                self._take(told, one)
        return told

    def _nothing(self) -> Told:
        return Told([], [], Rows(len(self.objectives)), {metric: {} for metric in self.gained}, {})

    def _take(self, told: Told, trial: Trial) -> None:
        """Add up what a trial tells."""
        if not _teaches(trial):
            return
        last = trial.scores[-1]
        for metric in self.objectives:
            if (value := last.values.get(metric, 0.0)) > 0:
                told.least[metric] = min(value, told.least.get(metric, value))
        if last.full:
            add_gains(told.gains, trial)
        if trial.state == "complete" and self.keeps(trial):
            told.reached.append(*(last[metric] for metric in self.objectives))


def _teaches(trial: Trial) -> bool:
    return bool(trial.scores) and trial.cost is not None


def add_gains(gains: dict[str, dict[float, Rows]], trial: Trial) -> None:
    """Add what a trial that was trained to the end gained from each of its rungs on, by metric and fidelity."""
    end = trial.scores[-1].values
    for metric, found in gains.items():
        for score in trial.scores if metric in end else ():
            if metric in score.values:
                found.setdefault(score.fidelity, Rows(1)).append(end[metric] - score.values[metric])


def _copied(told: Told, learnt: list[Trial]) -> Told:
    """Return what was added up, apart from what is added later, with the trials that it is told of."""
    gains = {metric: {at: rows.copy() for at, rows in found.items()} for metric, found in told.gains.items()}
    running = [one for one in learnt if one.state == "running"]
    return Told(learnt, running, told.reached.copy(), gains, dict(told.least))
