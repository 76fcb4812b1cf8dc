"""The contest on real training: ours, random search and AutoPEFT's, from the spaces themselves and not from a table.

    python -m benchmarks.contest.real run [--task trec] [--seeds 3] [--trainings 40]   # hours; goes on where it stopped
    python -m benchmarks.contest.real report

What was trained is kept and not trained again: a search that was cut off is run again from its start, is answered by
what was kept, and so comes to where it was. All trainings have one seed; searches differ in theirs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from rich.progress import track

from benchmarks.contest.arena import Finished
from benchmarks.contest.autopeft import chosen, vectors
from benchmarks.contest.contests import CLASSES
from benchmarks.contest.journal import Entry
from benchmarks.contest.journal import read as read_entries
from benchmarks.contest.journal import write as write_entry
from benchmarks.contest.ours import Ended
from benchmarks.json_lines import append
from benchmarks.report import FOLDER
from benchmarks.table.drawing import QUALITY
from benchmarks.table.tasks import COUNTS, RUNGS, spec_of
from evaluators.score import Cost, Score
from evaluators.tabulated import Header, Row, Table
from orchestrator.jobs import failure_of
from orchestrator.preparation import Prepared, prepare
from orchestrator.simulation import simulate_with
from orchestrator.spec import parse
from search_space.candidate import Candidate
from search_space.errors import EvaluationError
from search_space.knobs import RandomChooser

SEARCHES = ("forest, early stopping", "random", "AutoPEFT, its own space")
POOL = 1000
"""Candidates of its own space that AutoPEFT's acquisition is maximised over."""

_MOST_DRAWS = 20 * POOL
_FLOPS_A_SECOND = 1e9
Trained = tuple[dict[str, float], dict[str, float]]
"""Metrics on validation and on test at one rung."""


class Start(Protocol):
    """Begins a training."""

    def __call__(self, candidate: Candidate) -> Callable[[int], Trained]:
        """Return what trains up to a step and tells the metrics there. Raises ParetuneError."""


class Kept:
    """Trainings that were done, in a file, and those that are done when they are asked for.

    Args:
        path: The file: a table, in which the last line about a candidate counts.
        header: Its first line.
        start: Begins a training that is not there.
        cost: Tells a candidate's cost.
    """

    def __init__(self, path: Path, header: Header, start: Start, cost: Callable[[Candidate], Cost]) -> None:
        self.path, self.header, self._start, self.cost = path, header, start, cost
        if not path.exists():
            append(path, json.dumps(header.to_json()))
        self.rows = {key: row for (key, _), row in Table.read(path).rows.items()}

    def start(self, candidate: Candidate, seed: int) -> KeptRun:
        """Begin a training, or its replay."""
        row = self.rows.get(candidate.sha256) or Row(candidate, 0, "real", self.cost(candidate))
        return KeptRun(self, row)

    def train(self, candidate: Candidate) -> Row:
        """Return a candidate trained to the end, or failed."""
        run = self.start(candidate, 0)
        with suppress(EvaluationError):  # the row tells it
            run.advance(self.header.rungs[-1])
        return run.row

    def begin(self, row: Row) -> Callable[[int], Trained]:
        """Begin a training that is not there, from its first step."""
        return self._start(row.candidate)

    def keep(self, row: Row) -> Row:
        """Write a row, in place of an earlier one of the same candidate. Returns it as it will be read again."""
        append(self.path, json.dumps(row.to_json(), separators=(",", ":")))
        self.rows[row.candidate.sha256] = Row.from_json(row.to_json())
        return self.rows[row.candidate.sha256]


class KeptRun:
    """One training: as far as it is kept from the file, and from there on for real."""

    def __init__(self, kept: Kept, row: Row) -> None:
        self.kept, self.row, self.step = kept, row, 0
        self._train: Callable[[int], Trained] | None = None

    def seconds(self, step: int) -> float:
        """Return how long training up to `step` takes on the simulated clock."""
        return (step - self.step) * (self.row.cost.training_flops or 0) / _FLOPS_A_SECOND

    def advance(self, step: int) -> Score:
        """Return the score at a rung. Raises EvaluationError where the training failed, now or then."""
        rung = self.kept.header.rungs.index(step)
        if not self.row.cause and len(self.row.validation) <= rung:
            self.row = self._trained(rung)
        self.step = step
        return Table(self.kept.header, {}).score(self.row, rung, "validation")

    def pause(self, folder: Path) -> None:
        """Keep nothing: the file has every rung."""

    def resume(self, folder: Path) -> bool:
        """Begin anew."""
        return False

    def save(self, folder: Path) -> None:
        """Keep nothing."""

    def test(self, folder: Path | None = None) -> Score:
        """Return the score on test at the end."""
        return Table(self.kept.header, {}).score(self.row, len(self.kept.header.rungs) - 1, "test")

    def _trained(self, rung: int) -> Row:
        """Train up to a rung; from the start where an earlier process had begun."""
        row = self.row
        try:
            if self._train is None:
                self._train, row = self.kept.begin(row), replace(row, validation=(), test=())
            for step in self.kept.header.rungs[len(row.validation) : rung + 1]:
                row = self._longer(row, *self._train(step))
        except Exception as error:  # noqa: BLE001  (whatever a candidate raises is its result)
            failure = failure_of(error)
            row = replace(row, cause=failure.cause, message=failure.message)
        return self.kept.keep(row)

    def _longer(self, row: Row, validation: dict[str, float], test: dict[str, float]) -> Row:
        names = self.kept.header.quality
        seen, judged = (tuple(one[name] for name in names) for one in (validation, test))
        return replace(row, validation=(*row.validation, seen), test=(*row.test, judged))


def forest(prepared: Prepared, kept: Kept, spec: dict[str, Any], steps: int, seed: int) -> list[Finished]:
    """Search as a study with our sampler and early stopping does."""
    search = {"sampler": "forest", "seed": seed}
    budgets = {**spec["budgets"], "trials": 10 * steps // kept.header.rungs[-1], "steps": steps}
    study = parse({**spec, "search": search, "budgets": budgets})
    ended = Ended(kept.header.rungs[-1], lambda candidate: kept.rows[candidate.sha256])
    simulate_with(study, prepared, kept, watcher=ended)
    return ended.within(steps)


def at_random(prepared: Prepared, kept: Kept, steps: int, seed: int) -> Iterator[Finished]:
    """Train random candidates within the budget of parameters to the end."""
    fitting, taken = prepared.fitting(seed), set[str]()
    for at in range(kept.header.rungs[-1], steps + 1, kept.header.rungs[-1]):
        if (candidate := fitting.draw(taken)) is None:
            return
        taken.add(candidate.sha256)
        if not (row := kept.train(candidate)).cause:
            yield Finished(at, row)


def autopeft(prepared: Prepared, kept: Kept, classes: int, steps: int, seed: int) -> Iterator[Finished]:
    """Run AutoPEFT's search in its own space, over a pool that is drawn within the budget of parameters."""
    chooser, pool = RandomChooser(seed), dict[str, Row]()
    for candidate in (prepared.space.draw(chooser) for _ in range(_MOST_DRAWS)):
        if (cost := prepared.affordable(candidate)) is not None:
            pool.setdefault(candidate.sha256, Row(candidate, 0, "real", cost))
        if len(pool) == POOL:
            break
    rows = list(pool.values())
    Random(seed).shuffle(rows)
    full = kept.header.rungs[-1]
    found = chosen(
        vectors(prepared.space, rows), lambda at: kept.train(rows[at].candidate), classes, steps // full, seed
    )
    for at, row in enumerate(found, 1):
        if not row.cause:
            yield Finished(at * full, row)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.contest.real", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("verb", choices=("run", "report"))
    parser.add_argument("--task", choices=list(COUNTS), default="trec")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trainings", type=int, default=40, help="full trainings that each search may pay for")
    parser.add_argument("--searches", nargs="+", choices=SEARCHES, default=SEARCHES, help="by a process each, say")
    given = parser.parse_args()
    if given.verb == "run":
        run(given.task, given.seeds, given.trainings * RUNGS[-1], given.searches)
    from benchmarks.contest.real_report import report  # it reads what this file knows

    report()


def run(task: str, seeds: int, steps: int, names: Sequence[str] = SEARCHES) -> None:
    """Run what is not in the journal yet, seed after seed."""
    there = {one.key for one in read_entries(journal_path())}
    with TemporaryDirectory() as folder:
        wide, own = (prepare(spec_of(task, preset), Path(folder)) for preset in ("everything", "autopeft"))
        kept = _kept(task, wide)
        spec = spec_of(task).to_json()
        ways: tuple[Callable[[int], Iterator[Finished]], ...] = (
            lambda seed: forest(wide, kept, spec, steps, seed),
            lambda seed: at_random(wide, kept, steps, seed),
            lambda seed: autopeft(own, kept, CLASSES[task], steps, seed),
        )
        searches = dict(zip(SEARCHES, ways, strict=True))
        jobs = [(name, seed) for seed in range(seeds) for name in names]
        for name, seed in track(jobs, description=f"{task}, trained"):
            entry = Entry(f"{task}, trained", "", name, seed, steps, ())
            if entry.key not in there:
                found = tuple((one.at, one.row.candidate.sha256) for one in searches[name](seed))
                write_entry(replace(entry, found=found), journal_path())


def rows_path(task: str) -> Path:
    """Return the file of what was trained for a task."""
    return FOLDER / "results" / f"contest_real.{task}.jsonl"


def journal_path() -> Path:
    """Return the file of what searches found."""
    return FOLDER / "results" / "contest_real.jsonl"


def _kept(task: str, prepared: Prepared) -> Kept:
    provenance = {"backbone_parameters": prepared.coster.parameters, "command": "python -m benchmarks.contest.real run"}
    header = Header(spec_of(task).to_json(), RUNGS, QUALITY, provenance)
    return Kept(rows_path(task), header, _trainer(prepared), prepared.coster.cost)


def _trainer(prepared: Prepared) -> Start:
    """Return what begins trainings; the backbone is loaded for the first one."""
    from evaluators.measurement import quality
    from evaluators.trained import TrainedEvaluator

    held: list[TrainedEvaluator] = []

    def start(candidate: Candidate) -> Callable[[int], Trained]:
        evaluator = held[0] if held else TrainedEvaluator(prepared.evaluator)
        held[:] = [evaluator]
        run, tokens = evaluator.start(candidate, 0), evaluator.folder.read("test")

        def train(step: int) -> Trained:
            score = run.advance(step)
            return dict(score.values), quality(run.predict("test", tokens), tokens.labels, evaluator.spec.calibration)

        return train

    return start


if __name__ == "__main__":
    main()
