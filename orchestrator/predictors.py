"""What predicts better than one trained candidate, and what it costs: points beside the front.

Finalists leave their logits on validation, calibration and test, and those of their variants. Ensembles are means of
these, so that nothing is run again: of the seeds of one candidate, and of the members of the front. Each is
calibrated after averaging by the study's calibrator, and scored on validation and, as finalists are, on test. None of
them is searched for or picked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from calibration.bootstrap import Statistic, paired_difference
from calibration.calibrators import held_out_log_probabilities
from calibration.conformal import Coverage
from calibration.proper_scores import surprises
from calibration.sets import fit_sets
from calibration.softmax import log_softmax
from calibration.spec import CalibrationSpec
from calibration.subgroup_temperatures import fit_subgroup_temperatures
from calibration.subgroups import subgroup_scores
from evaluators.calibrated import Groups, calibrate, groups_in
from evaluators.evaluation import PREDICTIONS_FILE
from evaluators.measurement import calibrated_quality, held_out_quality, quality
from evaluators.predictors import pooled_logits
from evaluators.tasks import TaskColumns, averaged, by_task
from evaluators.tokens import TokenFolder
from evaluators.variants import FinalistLogits
from orchestrator.front import Front
from orchestrator.member import Member

if TYPE_CHECKING:
    from orchestrator.trial import Trial

Kind = Literal["single", "seeds", "front", "dropout", "laplace", "laplace_diagonal", "laplace_kronecker"]
Logits = Mapping[str, NDArray[np.float64]]
Subgroups = Mapping[str, NDArray[np.str_]]
"""The name of each example's subgroup, by role."""
KINDS: Mapping[Kind, str] = {
    "single": "one pass of one seed",
    "seeds": "ensemble of seeds",
    "front": "ensemble of the front",
    "dropout": "MC-dropout",
    "laplace": "Laplace on the last layer",
    "laplace_diagonal": "Laplace on the adapter, diagonal",
    "laplace_kronecker": "Laplace on the adapter, Kronecker",
}
_ENSEMBLES = ("seeds", "front")
_SUMMED = ("trainable_params", "head_params", "checkpoint_bytes", "latency_ms")
"""Costs of an ensemble that are the sum of its members'."""


@dataclass(frozen=True)
class PredictorPoint:
    """One way to predict.

    Attributes:
        name: Unique in a study: its kind and its candidates, such as `seeds-12`.
        kind: What it is.
        trials: Numbers of the search trials whose candidates it uses.
        members: Keys of the finalists that it was made of. Those of one pass, dropout and Laplace are means
            over them.
        passes: Passes through a model for each text, there or back.
        costs: Metrics of cost; those of an ensemble are sums, latency too: its members run one after another.
        validation: Metrics of quality on validation.
        test: The same on test.
        conformal: Coverage on test of the sets that were fitted on the calibration split, by method; None where its
            rows are too few for the promise.
        subgroups: How each subgroup of test is calibrated, and what a temperature for each would change; None where
            the task has no subgroups. Of a mean over seeds it is the first seed's.
    """

    name: str
    kind: Kind
    trials: tuple[int, ...]
    members: tuple[str, ...]
    passes: int
    costs: Mapping[str, float]
    validation: Mapping[str, float]
    test: Mapping[str, float]
    conformal: Mapping[str, Mapping[str, float] | None]
    subgroups: Mapping[str, Any] | None = None

    @property
    def title(self) -> str:
        """What it is, for people."""
        return f"{KINDS[self.kind]}, trial{'s' if len(self.trials) > 1 else ''} {', '.join(map(str, self.trials))}"

    def to_json(self) -> dict[str, Any]:
        """Return this point as JSON data."""
        return {**asdict(self), "title": self.title}


@dataclass(frozen=True)
class _Finalist:
    """A finalist with what it left: `logits` by role for itself and each variant, by name; `single` is itself."""

    trial: Trial
    logits: Mapping[str, Logits]
    labels: Mapping[str, NDArray[np.int64]]
    extra: Mapping[str, Mapping[str, float]]
    subgroups: Subgroups | None
    tasks: tuple[TaskColumns, ...] = ()
    groups: Groups | None = None


def predictor_points(
    front: Front, folder: Path, spec: CalibrationSpec, subgroups: Subgroups | None = None
) -> list[PredictorPoint]:
    """Return every way to predict that the finalists of a study offer, the cheapest kinds first.

    Args:
        front: The study's front with its finalists.
        folder: Where trials left their files; finalists without files there are left out.
        spec: Which predictors, and how they are calibrated.
        subgroups: The subgroup of each example of calibration and test, where the task has subgroups.

    Raises:
        CalibrationError: Predictions that no calibrator can be fitted on.
    """
    found: list[PredictorPoint] = []
    firsts: list[_Finalist] = []
    for member in (*front.members, *front.neighbours):
        finalists = [one for one in (_read(trial, folder, subgroups) for trial in _by_seed(member)) if one is not None]
        found.extend(_of_candidate(member, finalists, spec))
        firsts += finalists[:1] if front.tags[member.number] == "front" else []
    if "front" in spec.predictors and len(firsts) > 1:
        found.append(_ensemble("front", firsts, spec))
    order = list(KINDS)
    return sorted(found, key=lambda one: (order.index(one.kind), one.trials))


def _by_seed(member: Member) -> list[Trial]:
    return sorted(member.finalists, key=lambda one: one.seed)


def _of_candidate(member: Member, finalists: Sequence[_Finalist], spec: CalibrationSpec) -> Iterator[PredictorPoint]:
    kinds = [kind for kind in KINDS if kind not in _ENSEMBLES]
    for kind in kinds:
        able = [one for one in finalists if kind in one.logits]
        if able:
            yield _mean_of([_single(kind, one, spec) for one in able])
    if "seeds" in spec.predictors and len(finalists) > 1:
        yield _ensemble("seeds", finalists, spec)


def _single(kind: Kind, one: _Finalist, spec: CalibrationSpec) -> PredictorPoint:
    """Return what one finalist predicts by itself, or by a variant."""
    costs = _costs(one.trial)
    extra = one.extra.get(kind, {"passes": 1})
    costs |= {name: extra[name] for name in ("latency_ms",) if name in extra}
    if "checkpoint_bytes" in costs:
        costs["checkpoint_bytes"] += extra.get("bytes", 0)
    return _scored(kind, [one], one.logits[kind], int(extra["passes"]), costs, spec)


def _ensemble(kind: Kind, members: Sequence[_Finalist], spec: CalibrationSpec) -> PredictorPoint:
    roles = members[0].logits["single"]
    logits = {role: pooled_logits([one.logits["single"][role] for one in members]) for role in roles}
    costs = [_costs(one.trial) for one in members]
    summed = {name: sum(one[name] for one in costs) for name in costs[0] if all(name in one for one in costs)}
    return _scored(kind, members, logits, len(members), summed, spec)


def _mean_of(points: Sequence[PredictorPoint]) -> PredictorPoint:
    """Return the mean over seeds."""
    first = points[0]

    def mean(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
        return {name: float(np.mean([one[name] for one in values])) for name in values[0]}

    sets = {name: [one.conformal[name] for one in points] for name in first.conformal}
    return PredictorPoint(
        f"{first.kind}-{first.trials[0]}",
        first.kind,
        first.trials,
        tuple(key for one in points for key in one.members),
        first.passes,
        mean([one.costs for one in points]),
        mean([one.validation for one in points]),
        mean([one.test for one in points]),
        {name: None if None in of else mean([one for one in of if one is not None]) for name, of in sets.items()},
        first.subgroups,
    )


def _scored(
    kind: Kind, members: Sequence[_Finalist], logits: Logits, passes: int, costs: Mapping[str, float],
    spec: CalibrationSpec,
) -> PredictorPoint:  # fmt: skip
    labels = members[0].labels
    tasks = members[0].tasks
    done = calibrate(logits, labels, spec, tasks, members[0].groups)
    plain = partial(quality, spec=spec)
    values = {role: by_task(tasks, plain, labels[role], logits[role]) for role in ("validation", "test")}
    after = log_softmax(logits["test"])
    if done is not None:
        after = held_out_log_probabilities(done.calibrator, logits["test"])
        mended, held_out = partial(calibrated_quality, spec=spec), partial(held_out_quality, spec=spec)
        values["validation"] |= by_task(tasks, mended, labels["validation"], logits["validation"], done.validation)
        values["test"] |= by_task(tasks, held_out, labels["test"], logits["test"], after)
    trials = tuple(sorted({int(one.trial.origin) for one in members}))
    keys = tuple(one.trial.key for one in members)
    name = f"{kind}-{'-'.join(map(str, trials))}"
    groups = (members[0].groups or {}).get("calibration")
    sets = _conformal_each(tasks, logits["calibration"], labels["calibration"], after, labels["test"], spec, groups)
    of_parts = _by_subgroup(logits, labels, after, members[0].subgroups, spec)
    return PredictorPoint(
        name, kind, trials, keys, passes, dict(costs), values["validation"], values["test"], sets, of_parts
    )


def _by_subgroup(
    logits: Logits, labels: Mapping[str, NDArray[np.int64]], after: NDArray[np.float64], subgroups: Subgroups | None,
    spec: CalibrationSpec,
) -> dict[str, Any] | None:  # fmt: skip
    """Score each subgroup of test after calibration, and what a temperature for each would change."""
    if subgroups is None:
        return None
    scores = subgroup_scores(
        np.exp(after), labels["test"], subgroups["test"],
        least=spec.least_subgroup, bins=spec.bins, draws=spec.floor_draws,
    )  # fmt: skip
    own = fit_subgroup_temperatures(logits["calibration"], labels["calibration"], subgroups["calibration"])
    logs = own.held_out_log_probabilities(logits["test"], subgroups["test"])
    losses = [surprises(one, labels["test"]) for one in (logs, after)]
    less = paired_difference(*(_mean_of_rows(one) for one in losses), rows=len(after))
    change = {"nll": float(losses[0].mean()), "less_common": less.estimate, "low": less.low, "high": less.high}
    return {**scores.to_json(), "temperatures": dict(own.temperatures), "with_temperatures": change}


def _mean_of_rows(values: NDArray[np.float64]) -> Statistic:
    return lambda rows: float(values[rows].mean())


def _conformal_each(
    tasks: Sequence[TaskColumns], logits: NDArray[np.float64], labels: NDArray[np.int64], test: NDArray[np.float64],
    test_labels: NDArray[np.int64], spec: CalibrationSpec, groups: NDArray[np.int64] | None,
) -> dict[str, Mapping[str, float] | None]:  # fmt: skip
    """Return what `_conformal` does; where there are several tasks, for each by itself, and the mean over them."""
    if not tasks:
        return _conformal(logits, labels, test, test_labels, spec, groups)
    each = {
        one.name: _conformal(
            one.own(logits, labels),
            one.own_labels(labels),
            one.own(test, test_labels),
            one.own_labels(test_labels),
            spec,
            one.own_groups(groups, labels),
        )
        for one in tasks
    }
    found: dict[str, Mapping[str, float] | None] = {}
    for method in next(iter(each.values())):
        known = {task: one for task, sets in each.items() if (one := sets[method]) is not None}
        found[method] = averaged(known) if len(known) == len(each) else None
    return found


def _conformal(
    logits: NDArray[np.float64], labels: NDArray[np.int64], test: NDArray[np.float64],
    test_labels: NDArray[np.int64], spec: CalibrationSpec, groups: NDArray[np.int64] | None,
) -> dict[str, Mapping[str, float] | None]:  # fmt: skip
    """Fit sets on the calibration split, as exports have them, and judge them on test."""
    fits = fit_sets(logits, labels, spec.alpha, kind=spec.method, folds=spec.folds, groups=groups)
    answered = np.isfinite(test)
    return {
        name: None if fit is None else _coverage(fit.evaluate(np.exp(test), test_labels, answer_set=answered))
        for name, fit in fits.items()
    }


def _coverage(one: Coverage) -> dict[str, float]:
    names = ("coverage", "low", "high", "promised", "mean_size", "empty")
    return {name: float(getattr(one, name)) for name in names}


def _costs(trial: Trial) -> dict[str, float]:
    known = (trial.cost.values if trial.cost else {}) | dict(trial.score.values if trial.score else {})
    return {name: float(known[name]) for name in _SUMMED if name in known}


def _read(trial: Trial, folder: Path, subgroups: Subgroups | None) -> _Finalist | None:
    """Read what a finalist left; None where its files are not here."""
    place = folder / trial.phase / str(trial.number)
    try:
        arrays = safetensors.numpy.load_file(place / PREDICTIONS_FILE)
        left = FinalistLogits.load(place)
    except (OSError, SafetensorError):
        return None
    labels = {role: arrays[f"{role}_labels"] for role in ("validation", "calibration")} | {"test": left.labels}
    own = {role: arrays[f"{role}_logits"] for role in ("validation", "calibration")} | {"test": left.logits}
    extra = {
        name: {"passes": one.passes, "bytes": one.bytes, "latency_ms": one.latency_ms}
        for name, one in left.variants.items()
    }
    said = {name: one.logits for name, one in left.variants.items()}
    return _Finalist(trial, {"single": own} | said, labels, extra, subgroups, _tasks(folder), groups_in(arrays))


def _tasks(folder: Path) -> tuple[TaskColumns, ...]:
    """Return the tasks of the study in a folder; none where it has one, or left no tokens there."""
    try:
        return TokenFolder.open(folder / "tokens").tasks
    except FileNotFoundError:
        return ()
