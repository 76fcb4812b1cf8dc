"""What the runs say: means over seeds, the search by two rules, and the pick beside an ensemble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.small_data import plan
from benchmarks.small_data.data import CLASSES, material
from benchmarks.small_data.journal import Journal
from benchmarks.small_data.measures import measured, nll_by_calibration_rows, surprises
from benchmarks.small_data.plan import Run
from benchmarks.small_data.selection import RULES, chosen, one_pass_runs, searched
from calibration.bootstrap import Difference, nested_difference
from calibration.temperature import fit_temperature
from evaluators.predictors import pooled_logits

Floats = NDArray[np.float64]
SUBSET, REPEATS = 12, 500
"""Candidates of a smaller search drawn from the whole, and how many such searches."""


def findings(
    journals: Mapping[str, Journal],
    ways: Mapping[str, Journal] | None = None,
    posteriors: Mapping[str, Journal] | None = None,
) -> dict[str, Any]:
    """Return everything that the report says, as JSON data.

    Args:
        journals: Of each task.
        ways: Of each way to one pass.
        posteriors: Of runs as they are, and of each posterior of theirs.
    """
    rows = [row for journal in journals.values() for row in journal.rows.values()]
    searches = {task: search(journal, task) for task, journal in journals.items()}
    return {
        "runs": len(rows),
        "failed": sum(bool(row["error"]) for row in rows),
        "core_hours": sum(row["seconds"] for row in rows) / 3600,
        "grid": [row for task, journal in journals.items() for row in grid(journal, task)],
        "calibration_rows": {task: _by_rows(journal, task) for task, journal in journals.items()},
        "search": {task: found for task, found in searches.items() if found},
        "one_pass": one_pass(journals[plan.ONE_PASS_TASK], ways or {}),
        "laplace": laplace(posteriors or {}),
    }


def grid(journal: Journal, task: str) -> list[dict[str, Any]]:
    """Return the mean over seeds of every measure, for each size, method and role, with how many seeds."""
    rows = []
    for size in plan.SIZES:
        for name, candidate in plan.METHODS.items():
            runs = [Run(task, size, seed, candidate, seed) for seed in range(plan.SEEDS)]
            found = [measured(task, journal.logits(run, CLASSES[task])) for run in runs if journal.has_logits(run)]
            for role in found[0] if found else ():
                values = {key: _mean([one[role][key] for one in found]) for key in found[0][role]}
                head = {"task": task, "size": size, "method": name, "role": role, "seeds": len(found)}
                rows.append(head | values | {"nll_after_sd": _spread([one[role]["nll_after"] for one in found])})
    return rows


def search(journal: Journal, task: str) -> dict[str, Any]:
    """Return what each rule chooses and how good that is on test; empty where the search is not trained."""
    runs = searched(journal, task)
    if len(runs) < SUBSET:
        return {}
    after = {run: float(np.mean(_after(journal, run))) for run in runs}
    smaller = {rule: _smaller_searches(journal, runs, after, rule) for rule in RULES}
    gain = np.array(smaller["accuracy"]) - np.array(smaller["calibrated NLL"])
    ensemble = _members(journal, list(plan.ensembles(task)))
    of_ensemble = _ensemble_surprises(ensemble, task) if ensemble else None
    alone = [float(np.mean(_scaled_surprises(one, task))) for one in ensemble]
    return {
        "candidates": len(runs),
        "points": [_point(journal, run, after[run]) for run in runs],
        "picks": {rule: _pick(journal, runs, rule, of_ensemble) for rule in RULES},
        "smaller": {rule: _mean(values) for rule, values in smaller.items()},
        "gain": {"mean": float(gain.mean()), "better": float(np.mean(gain > 0)), "worse": float(np.mean(gain < 0))},
        "ensemble": None if of_ensemble is None else {"members": len(ensemble), "nll_after": float(of_ensemble.mean())},
        "one_member": _mean(alone) if alone else None,
    }


def one_pass(journal: Journal, ways: Mapping[str, Journal]) -> dict[str, Any]:
    """Return how each way to one pass does beside the ensemble; empty where they, or its members, are not trained."""
    task = plan.ONE_PASS_TASK
    members = _members(journal, list(plan.ensembles(task)))
    runs = {way: one_pass_runs(way, one) for way, one in ways.items()}
    if not members or not all(len(one) >= plan.ONE_PASS_SEEDS for one in runs.values()) or not runs:
        return {}
    of_ensemble = _ensemble_surprises(members, task)
    longer = [ways["longer"].logits(run, CLASSES[task]) for run in runs["longer"]]
    return {
        "ensemble": float(of_ensemble.mean()),
        "alone": _mean([float(np.mean(_scaled_surprises(one, task))) for one in members]),
        "longer_ensemble": {"members": len(longer), "nll_after": float(_ensemble_surprises(longer, task).mean())},
        "candidates": len([run for run in ways["searched"].rows if run.seed == 0]),
        "core_hours": sum(row["seconds"] for way, one in ways.items() if way != "averaged" for row in one.rows.values())
        / 3600,
        "ways": [_way(way, ways[way], runs[way], of_ensemble) for way in ways],
    }


def laplace(posteriors: Mapping[str, Journal]) -> list[dict[str, Any]]:
    """Return how runs do as they are and by each posterior, and what that changes; empty where none is whole."""
    journals = list(posteriors.values())
    runs = [run for run in journals[0].rows if all(run in one.rows for one in journals)] if journals else []
    if len(runs) < plan.LAPLACE_SEEDS:
        return []
    task, labels = runs[0].task, material(runs[0].task).judged["test"].labels
    after = {name: np.array([_after(one, run) for run in runs]) for name, one in posteriors.items()}
    return [
        {
            "name": name,
            "size": runs[0].size,
            "seeds": len(runs),
            "texts": sum(len(logits) for logits in one.logits(runs[0], CLASSES[task]).values()),
            "nll": _mean([float(np.mean(surprises(one.logits(run, CLASSES[task])["test"], labels))) for run in runs]),
            "nll_after": float(after[name].mean()),
            "less_plain": _interval(nested_difference(after[name], after["plain"])),
            "seconds": _mean([one.rows[run]["seconds"] for run in runs]),
        }
        for name, one in posteriors.items()
    ]


def _way(way: str, journal: Journal, runs: Sequence[Run], of_ensemble: Floats) -> dict[str, Any]:
    each = np.array([_after(journal, run) for run in runs])
    less = nested_difference(each, np.tile(of_ensemble, (3, 1)))
    return {
        "way": way,
        "candidate": runs[0].candidate,
        "seeds": len(runs),
        "accuracy": _mean([_accuracy(journal, run) for run in runs]),
        "nll_after": float(each.mean()),
        "less_ensemble": _interval(less),
    }


def _by_rows(journal: Journal, task: str) -> dict[int, float]:
    runs = [run for run in plan.ensembles(task) if journal.has_logits(run)]
    found = [nll_by_calibration_rows(task, journal.logits(run, CLASSES[task])) for run in runs]
    return {count: _mean([one[count] for one in found]) for count in found[0]} if found else {}


def _smaller_searches(journal: Journal, runs: Sequence[Run], after: Mapping[Run, float], rule: str) -> list[float]:
    """Return the test NLL of the choice of many smaller searches; the same ones for every rule."""
    labels = material(runs[0].task).judged["validation"].labels
    losses = [RULES[rule](journal.logits(run, CLASSES[run.task])["validation"], labels) for run in runs]
    random, found = np.random.default_rng(0), []
    for _ in range(REPEATS):
        drawn = random.permutation(len(runs))[:SUBSET]
        found.append(after[runs[min(drawn, key=lambda at: losses[at])]])
    return found


def _pick(journal: Journal, runs: Sequence[Run], rule: str, of_ensemble: Floats | None) -> dict[str, Any]:
    """Return a rule's choice, trained again on every seed that there is, beside the ensemble."""
    pick = chosen(journal, runs, rule)
    again = [Run(pick.task, pick.size, pick.subset, pick.candidate, seed) for seed in range(plan.SEEDS)]
    each = np.array([_after(journal, run) for run in again if journal.has_logits(run)])
    found: dict[str, Any] = {"candidate": pick.candidate, "seeds": len(each), "nll_after": float(each.mean())}
    found["accuracy"] = _mean([_accuracy(journal, run) for run in again if journal.has_logits(run)])
    if of_ensemble is None or len(each) < 3:
        return found | {"less_ensemble": None}
    return found | {"less_ensemble": _interval(nested_difference(each, np.tile(of_ensemble, (3, 1))))}


def _interval(one: Difference) -> dict[str, float]:
    return {"value": one.estimate, "low": one.low, "high": one.high}


def _point(journal: Journal, run: Run, after: float) -> dict[str, Any]:
    logits = journal.logits(run, CLASSES[run.task])["validation"]
    labels = material(run.task).judged["validation"].labels
    values = {rule: loss(logits, labels) for rule, loss in RULES.items()}
    return {"candidate": run.candidate, "validation": values, "nll_after": after}


def _after(journal: Journal, run: Run) -> Floats:
    """Return the NLL of each test row with the temperature of the calibration rows."""
    return _scaled_surprises(journal.logits(run, CLASSES[run.task]), run.task)


def _scaled_surprises(logits: Mapping[str, Floats], task: str) -> Floats:
    judged = material(task).judged
    fit = fit_temperature(logits["calibration"], judged["calibration"].labels)
    return surprises(fit.apply(logits["test"]), judged["test"].labels)


def _accuracy(journal: Journal, run: Run) -> float:
    labels = material(run.task).judged["test"].labels
    return float(np.mean(journal.logits(run, CLASSES[run.task])["test"].argmax(axis=1) == labels))


def _members(journal: Journal, runs: Sequence[Run]) -> list[dict[str, Floats]]:
    """Return the logits of all members, or nothing where one is missing."""
    there = [run for run in runs if journal.has_logits(run)]
    return [journal.logits(run, CLASSES[run.task]) for run in there] if len(there) == len(runs) else []


def _ensemble_surprises(members: Sequence[Mapping[str, Floats]], task: str) -> Floats:
    pooled = {role: pooled_logits([one[role] for one in members]) for role in ("calibration", "test")}
    return _scaled_surprises(pooled, task)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _spread(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
