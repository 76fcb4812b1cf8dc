"""The report: every number about some logits and labels, before and after calibration.

`report` is what `paretune calibrate` prints. With a calibrator in hand it is judged on the rows given, which must not
be rows of its fit. Without one, "after" is cross-fitted: each row calibrated by a fit on other rows; and the
calibrator that the report carries, to be used from then on, is fitted on them all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from calibration.bootstrap import Difference, paired_difference
from calibration.calibrators import DEFAULT_OPTIONS, Calibrator, FitOptions, Kind, held_out_log_probabilities
from calibration.choice import AnyKind, Choice, choose_calibrator
from calibration.conformal import Coverage, Method, crossed_coverage
from calibration.cross_fitting import cross_fitted_log_probabilities
from calibration.documents import headed
from calibration.errors import OptionError, TooFewRowsError
from calibration.fitted_rows import Ids
from calibration.floor import EceFloor
from calibration.proper_scores import Decomposition, ProperScore, decomposition
from calibration.rows import BoolArray, FloatArray, IntArray, check_several_classes, check_several_classes_judged
from calibration.scorecard import (
    DEFAULT_SETTINGS,
    Scorecard,
    Settings,
    interval_method,
    plain,
    row_statistics,
    scorecard,
)
from calibration.sets import Fits
from calibration.softmax import log_softmax
from calibration.subgroup_temperatures import SubgroupTemperatures
from calibration.subgroups import Subgroups, subgroup_scores
from calibration.temperature import labelled_logits


@dataclass(frozen=True)
class Report:
    """Every number before and after calibration.

    Attributes:
        n: Rows.
        classes: Classes.
        how: "cross_fitted" or "held_out": how "after" was kept from the rows that it is judged on.
        calibrator: To be used from here on. Cross-fitted: fitted on all these rows. Held out: the one given.
        cross_fitted_nll: NLL of each kind that was tried; empty when the calibrator was given.
        left_out: Why other kinds were not tried; empty when the kind or the calibrator was given.
        before: Of softmax(logits).
        after: Of the calibrated probabilities.
        differences: After less before, with intervals: the same numbers as `Scorecard.intervals`.
        decompositions: "nll" and "brier" before calibration, in what a temperature mends and what it does not; empty
            when there are fewer rows (or groups) than folds.
        conformal: Coverage of the sets given. Without any: of sets fitted on one half of the calibrated rows and
            judged on the other, both ways round. None where the rows are too few for the promise.
        settings: How it was computed.
        subgroups: How each subgroup is calibrated afterwards; None where the rows have none.
        by_subgroup: NLL with a temperature for each subgroup less that with the calibrator; None where none is given.
    """

    n: int
    classes: int
    how: Literal["cross_fitted", "held_out"]
    calibrator: Calibrator
    cross_fitted_nll: Mapping[Kind, float]
    left_out: Mapping[str, str]
    before: Scorecard
    after: Scorecard
    differences: Mapping[str, Difference]
    decompositions: Mapping[str, Decomposition]
    conformal: Mapping[Method, Coverage | None]
    settings: Settings
    subgroups: Subgroups | None = None
    by_subgroup: Difference | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able document with a schema version; an infinite number is null."""
        body = {field.name: plain(getattr(self, field.name)) for field in fields(self) if field.name != "settings"}
        return headed("report", {**body, "settings": asdict(self.settings)})

    def text(self) -> str:
        """Return the report as lines of text, for people."""
        return "\n".join([*_heading(self), *_table(self), *_sets(self), *_parts(self)]) + "\n"


def report(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    calibrator: Calibrator | None = None,
    sets: Fits | None = None,
    by_subgroup: SubgroupTemperatures | None = None,
    kind: AnyKind = "auto",
    answer_set: npt.ArrayLike | None = None,
    groups: npt.ArrayLike | None = None,
    subgroups: npt.ArrayLike | None = None,
    ids: Ids | None = None,
    options: FitOptions = DEFAULT_OPTIONS,
    settings: Settings = DEFAULT_SETTINGS,
) -> Report:
    """Return every number about labelled logits before and after calibration.

    Args:
        logits: Raw logits of shape (n, k), k >= 2; ``-inf`` outside the answer set.
        labels: Class indices of shape (n,), at least two distinct.
        calibrator: One that was fitted on other rows. Without it, `kind` is cross-fitted.
        sets: Conformal fits of that calibrator's probabilities, fitted on other rows.
        by_subgroup: Temperatures by subgroup, fitted on other rows, to be set beside the calibrator.
        kind: Without a calibrator: which kind, or "auto" to have it chosen by cross-fitted NLL.
        answer_set: Optional booleans of shape (n, k) or (k,).
        groups: Optional, shape (n,): rows of one group stay in one fold, and are resampled together.
        subgroups: Optional, shape (n,): the name of each row's subgroup, which is scored by itself too.
        ids: Optional ids of the rows; needed when the calibrator's fit had ids.
        options: What the richer calibrators may be told.
        settings: How it is computed.

    Raises:
        SeenRowsError: The calibrator, or the sets, were fitted on these rows.
        OptionError: Both a calibrator and a kind; sets or temperatures by subgroup without a calibrator, or
            temperatures without subgroups.
        CalibrationError: Arrays that are not fit to use, too few rows, other options out of range.
    """
    array, targets = labelled_logits(logits, labels, answer_set)
    check_classes = check_several_classes if calibrator is None else check_several_classes_judged
    check_classes(targets)
    before, folds, seed = log_softmax(array), settings.folds, settings.seed
    _check_beside(calibrator, kind, sets, by_subgroup, subgroups)
    choice = None
    if calibrator is not None:
        after = held_out_log_probabilities(calibrator, array, ids=ids)
    else:
        choice = choose_calibrator(
            array, targets, kind=kind, folds=folds, seed=seed, groups=groups, ids=ids, options=options
        )
        calibrator = choice.calibrator
        after = cross_fitted_log_probabilities(
            array, targets, kind=kind, folds=folds, seed=seed, groups=groups, options=options
        )
    found = _report(before, after, targets, calibrator, choice, groups, settings)
    if sets is not None:
        found = replace(found, conformal=_judged(sets, after, targets, np.isfinite(array), ids))
    if subgroups is None:
        return found
    asked = {"bins": settings.bins, "draws": settings.draws, "seed": seed}
    found = replace(found, subgroups=subgroup_scores(np.exp(after), targets, subgroups, **asked))
    if by_subgroup is None:
        return found
    own = by_subgroup.held_out_log_probabilities(array, subgroups, ids=ids)
    return replace(found, by_subgroup=_less(own, after, targets, groups, settings))


def _check_beside(
    calibrator: Calibrator | None,
    kind: AnyKind,
    sets: Fits | None,
    by_subgroup: SubgroupTemperatures | None,
    subgroups: npt.ArrayLike | None,
) -> None:
    """Refuse what does not go together."""
    if calibrator is not None and kind != "auto":
        raise OptionError(f"a calibrator is given, and kind={kind!r} as well; give one of the two.")
    if calibrator is None and sets is not None:
        raise OptionError("sets are given without the calibrator whose probabilities they were fitted on; give both.")
    if by_subgroup is not None and (calibrator is None or subgroups is None):
        raise OptionError("temperatures by subgroup need the calibrator to be set beside, and the rows' subgroups.")


def _less(
    own: FloatArray, after: FloatArray, targets: IntArray, groups: npt.ArrayLike | None, settings: Settings
) -> Difference:
    """Return the NLL of some log-probabilities less that of others, with its interval."""
    return paired_difference(
        *(row_statistics(logs, targets, settings.bins)["nll"] for logs in (own, after)),
        rows=targets.size,
        groups=groups,
        resamples=settings.resamples,
        confidence=settings.confidence,
        seed=settings.seed,
    )


def _report(
    before: FloatArray,
    after: FloatArray,
    targets: IntArray,
    calibrator: Calibrator,
    choice: Choice | None,
    groups: npt.ArrayLike | None,
    settings: Settings,
) -> Report:
    answered = np.isfinite(before)
    return Report(
        n=targets.size,
        classes=before.shape[1],
        how="cross_fitted" if choice else "held_out",
        calibrator=calibrator,
        cross_fitted_nll=dict(choice.nll) if choice else {},
        left_out=dict(choice.left_out) if choice else {},
        before=scorecard(before, targets, settings, groups),
        after=scorecard(after, targets, settings, groups),
        differences=_differences(before, after, targets, groups, settings),
        decompositions=_decompositions(before, targets, groups, settings),
        conformal={one: _conformal(after, targets, one, answered, groups, settings) for one in get_args(Method)},
        settings=settings,
    )


def _differences(
    before: FloatArray, after: FloatArray, targets: IntArray, groups: npt.ArrayLike | None, settings: Settings
) -> dict[str, Difference]:
    old, new = (row_statistics(logs, targets, settings.bins) for logs in (before, after))
    every_row = np.arange(targets.size)
    finite = [name for name in new if math.isfinite(new[name](every_row)) and math.isfinite(old[name](every_row))]
    return {
        name: paired_difference(
            new[name],
            old[name],
            rows=targets.size,
            groups=groups,
            resamples=settings.resamples,
            confidence=settings.confidence,
            seed=settings.seed,
            method=interval_method(name),
        )
        for name in finite
    }


def _decompositions(
    before: FloatArray, targets: IntArray, groups: npt.ArrayLike | None, settings: Settings
) -> dict[str, Decomposition]:
    try:
        return {
            score: decomposition(before, targets, score=score, folds=settings.folds, seed=settings.seed, groups=groups)
            for score in get_args(ProperScore)
        }
    except TooFewRowsError:
        return {}


def _conformal(
    logs: FloatArray,
    targets: IntArray,
    method: Method,
    answered: BoolArray,
    groups: npt.ArrayLike | None,
    settings: Settings,
) -> Coverage | None:
    p, alpha, seed = np.exp(logs), settings.alpha, settings.seed
    try:
        return crossed_coverage(p, targets, alpha, method, seed=seed, answer_set=answered, groups=groups)
    except TooFewRowsError:
        return None


def _parts(shown: Report) -> list[str]:
    """Return the lines about subgroups."""
    lines = ["", *shown.subgroups.text()] if shown.subgroups else []
    if found := shown.by_subgroup:
        verdict = "" if found.distinguishable else ", not distinguishable"
        lines.append(
            f"a temperature for each subgroup: nll {found.estimate:+.4f} [{found.low:+.4f}, {found.high:+.4f}]{verdict}"
        )
    return lines


def _judged(
    sets: Fits, logs: FloatArray, targets: IntArray, answered: BoolArray, ids: Ids | None
) -> dict[Method, Coverage | None]:
    p = np.exp(logs)
    return {
        method: None if fit is None else fit.evaluate(p, targets, answer_set=answered, ids=ids)
        for method, fit in sets.items()
    }


def _heading(shown: Report) -> list[str]:
    how = "cross-fitted" if shown.how == "cross_fitted" else "on rows held out from its fit"
    lines = [f"{shown.n} rows, {shown.classes} classes; calibrated by {shown.calibrator.kind}, {how}"]
    if shown.cross_fitted_nll:
        tried = ", ".join(f"{kind} {nll:.4f}" for kind, nll in shown.cross_fitted_nll.items())
        lines.append(f"cross-fitted NLL: {tried}")
    lines += [f"not tried: {kind} ({reason})" for kind, reason in shown.left_out.items()]
    return [*lines, ""]


def _table(shown: Report) -> list[str]:
    rows = [("", "before", "after", "after - before")]
    for name in ("accuracy", "nll", "brier", "ece", "debiased_squared_error"):
        rows.append((name, _with_interval(shown.before, name), _with_interval(shown.after, name), _change(shown, name)))
    for score, parts in shown.decompositions.items():
        rows.append(
            (f"{score} = calibration + refinement", f"{parts.calibration:.4f} + {parts.refinement:.4f}", "", "")
        )
    for definition in shown.before.floors:
        old, new = shown.before.floors[definition], shown.after.floors[definition]
        rows.append((f"{definition} error", _with_floor(old), _with_floor(new), ""))
    rows.append(("aurc", f"{shown.before.aurc:.4f}", f"{shown.after.aurc:.4f}", ""))
    for part, accuracy in shown.before.selective_accuracy.items():
        rows.append((f"accuracy at {part:.0%}", f"{accuracy:.4f}", f"{shown.after.selective_accuracy[part]:.4f}", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _with_interval(card: Scorecard, name: str) -> str:
    found = card.intervals.get(name)
    value = f"{getattr(card, name):.4f}"
    return f"{value} [{found.low:.4f}, {found.high:.4f}]" if found else value


def _with_floor(floor: EceFloor) -> str:
    return f"{floor.ece:.4f} (floor {floor.floor_mean:.4f}, p {floor.p_value:.3f})"


def _change(shown: Report, name: str) -> str:
    found = shown.differences.get(name)
    if found is None:
        return ""
    verdict = "" if found.distinguishable else " not distinguishable"
    return f"{found.estimate:+.4f} [{found.low:+.4f}, {found.high:+.4f}]{verdict}"


def _sets(shown: Report) -> list[str]:
    lines = [""]
    for method, found in shown.conformal.items():
        if found is None:
            lines.append(f"conformal {method}: too few rows to promise {1 - shown.settings.alpha:.0%}")
        else:
            lines.append(
                f"conformal {method}: promised {found.promised:.0%}, covered {found.coverage:.1%} "
                f"[{found.low:.1%}, {found.high:.1%}], {found.mean_size:.2f} classes a set"
            )
    return lines
