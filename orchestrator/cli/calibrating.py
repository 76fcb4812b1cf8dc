"""`paretune calibrate`: how far the probabilities of any classifier can be trusted, and what mends them."""

from __future__ import annotations

import json as json_text
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.output import Json, console, print_json
from search_space.errors import InputError, did_you_mean, one_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from calibration.calibrators import Calibrator
    from calibration.report import Report
    from calibration.scorecard import Settings
    from calibration.sets import Fits
    from calibration.subgroup_temperatures import SubgroupTemperatures
    from orchestrator.logit_files import LogitRows

Source = Annotated[Path, typer.Argument(help="An exported folder, or a .csv or .npz file of logits.", metavar="SOURCE")]
Evaluate = Annotated[
    Path | None, typer.Option("--evaluate", help="Another .csv or .npz file; SOURCE is then for the fit alone.")
]
To = Annotated[Path | None, typer.Option("--to", help="A folder to make: calibrator, report, figures.")]
Kind = Annotated[str, typer.Option("--kind", help="The kind of calibrator; the best by cross-fitted NLL by default.")]
CrossFit = Annotated[bool, typer.Option("--cross-fit", help="Fit on every row and judge by five folds; for few rows.")]
With = Annotated[
    Path | None,
    typer.Option(
        "--with", help="A folder whose calibrator and conformal sets are judged on SOURCE; nothing is fitted."
    ),
]
Bins = Annotated[int, typer.Option(help="Bins of the calibration errors.", min=2, max=100)]
Seed = Annotated[int, typer.Option(help="Decides halves, folds and draws.", min=0)]
REPORT, TEXT, BY_SUBGROUP = "report.json", "report.txt", "subgroup_temperatures.json"


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(calibrate)


def calibrate(
    source: Source,
    evaluate: Evaluate = None,
    to: To = None,
    kind: Kind = "auto",
    cross_fit: CrossFit = False,
    using: With = None,
    bins: Bins = 15,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Fit a calibrator to logits and report on rows that it was not fitted on.

    An exported folder is fitted on its calibration split and judged on validation. A single file is split in halves
    by class (and by group), or cross-fitted. A CSV file names its columns: label, one for each class, perhaps group,
    id and subgroup. With --with nothing is fitted: an exported calibrator is judged on rows of today.
    """
    from calibration.scorecard import Settings
    from evaluators.fits import CALIBRATOR_FILE

    if to is not None and to.exists():
        raise InputError(f"{to} exists; choose another folder or remove it")
    settings = Settings(bins=bins, seed=seed)
    _check_kind(kind)
    if using is not None:
        _check_alone(kind, evaluate, cross_fit)
        done = _reused(source, using, settings)
    else:
        done = _done(*_sets(source, evaluate, cross_fit, settings), kind, settings)
    report = done.report
    if to is not None:
        _write(to.resolve(), done, kind)
    if json:
        print_json(report.to_json())
        return
    console.print(done.said, soft_wrap=True)
    console.print(report.text(), soft_wrap=True, end="")
    if to is not None:
        console.print(f"\nThe calibrator is in {to / CALIBRATOR_FILE}, the figures are in {to}.", soft_wrap=True)


def _check_kind(kind: str) -> None:
    from typing import get_args

    from calibration.calibrators import Kind as Known

    allowed = ("auto", *get_args(Known))
    if kind not in allowed:
        raise InputError(f"there is no kind {kind!r}; allowed: {one_of(allowed)}{did_you_mean(kind, allowed)}")


def _sets(
    source: Path, evaluate: Path | None, cross_fit: bool, settings: Settings
) -> tuple[LogitRows, LogitRows | None]:
    """Return the rows to fit on, and those to judge on: None where the first are cross-fitted."""
    from orchestrator.logit_files import read_export, read_judged_rows, read_rows

    if evaluate is not None and (cross_fit or source.is_dir()):
        why = "--cross-fit needs no other rows" if cross_fit else "an exported folder holds its own"
        raise InputError(f"--evaluate has no meaning here: {why}")
    if source.is_dir():
        fitted, judged = read_export(source)
        return fitted, None if cross_fit else judged
    rows = read_rows(source)
    if evaluate is not None:
        return rows, _fitting(rows, read_judged_rows(evaluate))
    return (rows, None) if cross_fit else _halves(rows, settings.seed)


def _fitting(fitted: LogitRows, judged: LogitRows) -> LogitRows:
    if fitted.logits.shape[1] != judged.logits.shape[1]:
        raise InputError(
            f"{fitted.source} has {fitted.logits.shape[1]} classes and {judged.source} has {judged.logits.shape[1]}"
        )
    if fitted.subgroups is not None and judged.subgroups is None:
        raise InputError(f"{fitted.source} has subgroups, so {judged.source} needs them as well")
    if fitted.ids is not None and judged.ids is None:
        raise InputError(
            f"{fitted.source} has ids, so {judged.source} needs them as well, to tell that none is in both"
        )
    return judged


def _halves(rows: LogitRows, seed: int) -> tuple[LogitRows, LogitRows]:
    """Split rows in two, alike in classes, groups kept whole."""
    from calibration.folds import stratified_folds

    first = stratified_folds(rows.labels, 2, seed, rows.groups) == 0
    return rows.at(first), rows.at(~first)


@dataclass(frozen=True)
class _Done:
    """A report with what belongs to it: the rows that it judged, who had which part, and what was fitted beside."""

    report: Report
    judged: LogitRows
    said: str
    sets: Fits
    temperatures: SubgroupTemperatures | None = None


def _done(fitted: LogitRows, judged: LogitRows | None, kind: Any, settings: Settings) -> _Done:
    """Fit, and judge on the other rows; or on the same by cross-fitting where there are none."""
    from calibration.report import report
    from calibration.sets import fit_sets
    from calibration.subgroup_temperatures import fit_subgroup_temperatures

    if judged is None or kind == "auto":
        _check_folds(fitted, judged, kind, settings.folds)
    how: dict[str, Any] = {"folds": settings.folds, "seed": settings.seed, "groups": fitted.groups, "ids": fitted.ids}

    def sets_of(calibrator: Calibrator) -> Fits:
        chosen: Any = calibrator.kind
        return fit_sets(fitted.logits, fitted.labels, settings.alpha, kind=chosen, **how)

    own = None
    if fitted.subgroups is not None:
        own = fit_subgroup_temperatures(fitted.logits, fitted.labels, fitted.subgroups, ids=fitted.ids)
    said = _said(fitted, judged)
    if judged is None:
        found = report(fitted.logits, fitted.labels, kind=kind, settings=settings, **_beside(fitted))
        return _Done(found, fitted, said, sets_of(found.calibrator), own)
    calibrator = _fit(fitted, kind, how)
    sets = sets_of(calibrator)
    return _Done(_judge(judged, calibrator, settings, sets, own), judged, said, sets, own)


def _fit(fitted: LogitRows, kind: Any, how: dict[str, Any]) -> Calibrator:
    """Fit one kind as it is; nothing is chosen then, so that it needs no folds."""
    from calibration.calibrators import fit_calibrator
    from calibration.choice import choose_calibrator

    if kind == "auto":
        return choose_calibrator(fitted.logits, fitted.labels, **how).calibrator
    return fit_calibrator(kind, fitted.logits, fitted.labels, ids=fitted.ids)


def _check_folds(fitted: LogitRows, judged: LogitRows | None, kind: str, folds: int) -> None:
    """Refuse rows, or groups, that are too few to be cross-fitted, with the options that need no cross-fitting."""
    what, count = "rows", len(fitted.labels)
    if fitted.groups is not None:
        what, count = "groups", len(set(fitted.groups.tolist()))
    if count >= folds:
        return
    if judged is None:
        why, instead = "--cross-fit judges", f"give at least {folds}, or judge on other rows with --evaluate"
    else:
        why, instead = "--kind auto chooses", f"name one kind, as in --kind temperature, or give at least {folds}"
        if judged.source == fitted.source:
            instead += ", or fit on all of the file with --cross-fit"
    raise InputError(f"{fitted.source}: {count} {what} to fit on, and {why} by {folds} folds of them; {instead}")


def _reused(source: Path, folder: Path, settings: Settings) -> _Done:
    """Judge what a folder holds on all rows of a file."""
    from evaluators.fits import read_fits
    from orchestrator.logit_files import read_judged_rows

    calibrator, sets = read_fits(folder)
    if calibrator is None:
        raise InputError(
            f"{folder} holds no calibrator; give a folder that `paretune export` or `calibrate --to` wrote"
        )
    judged = read_judged_rows(source)
    said = f"nothing fitted: the {calibrator.kind} of {folder} judged on all {len(judged.labels)} rows of {source}"
    return _Done(_judge(judged, calibrator, settings, sets), judged, said, sets)


def _check_alone(kind: str, evaluate: Path | None, cross_fit: bool) -> None:
    given = {"--kind": kind != "auto", "--evaluate": evaluate is not None, "--cross-fit": cross_fit}
    for name, there in given.items():
        if there:
            raise InputError(f"{name} has no meaning beside --with, which fits nothing")


def _judge(
    judged: LogitRows, calibrator: Calibrator, settings: Settings, sets: Fits, own: SubgroupTemperatures | None = None
) -> Report:
    from calibration.report import report

    fits: dict[str, Any] = {"calibrator": calibrator, "sets": sets, "by_subgroup": own}
    return report(judged.logits, judged.labels, settings=settings, **fits, **_beside(judged))


def _beside(rows: LogitRows) -> dict[str, Any]:
    """Return what stands beside logits and labels."""
    return {"groups": rows.groups, "ids": rows.ids, "subgroups": rows.subgroups}


def _said(fitted: LogitRows, judged: LogitRows | None) -> str:
    """Say which rows had which part."""
    if judged is None:
        return f"fitted on all {len(fitted.labels)} rows of {fitted.source}; judged by cross-fitting"
    if fitted.source == judged.source:
        return f"fitted on one half of {fitted.source}, judged on the other"
    return f"fitted on {len(fitted.labels)} rows of {fitted.source}, judged on {judged.source}"


def _write(to: Path, done: _Done, kind: str) -> None:
    """Write the calibrator, the report and the figures into a folder that appears whole or not at all."""
    to.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=to.parent, prefix=f".{to.name}."))
    try:
        _fill(aside, done, kind)
        aside.chmod(0o755)
        aside.rename(to)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _fill(folder: Path, done: _Done, kind: str) -> None:
    from calibration.sets import sets_to_json
    from calibration.softmax import softmax
    from evaluators.evaluation import SETS_FILE
    from evaluators.fits import CALIBRATOR_FILE
    from orchestrator.figures.probabilities import calibration_files
    from search_space.files import atomic_write

    report, judged = done.report, done.judged
    documents = {CALIBRATOR_FILE: report.calibrator.to_json(), REPORT: report.to_json()}
    if done.sets:
        documents[SETS_FILE] = sets_to_json(done.sets)
    if done.temperatures:
        documents[BY_SUBGROUP] = done.temperatures.to_json()
    files: dict[str, bytes | str] = {
        name: json_text.dumps(one, indent=1, allow_nan=False) + "\n" for name, one in documents.items()
    }
    files[TEXT] = report.text()
    title = f"{judged.source}: {len(judged.labels)} rows, calibrated by {report.calibrator.kind}"
    before, after = softmax(judged.logits), _after(report, judged, kind)
    shown = {"bins": report.settings.bins, "seed": report.settings.seed}
    files |= calibration_files(before, after, judged.labels, title=title, **shown)
    for name, content in files.items():
        atomic_write(folder / name, content)


def _after(report: Report, judged: LogitRows, kind: Any) -> NDArray[np.float64]:
    """Return the calibrated probabilities that the report judged."""
    from calibration.cross_fitting import cross_fitted_probabilities

    if report.how == "held_out":
        return report.calibrator.probabilities(judged.logits)
    settings = report.settings
    return cross_fitted_probabilities(
        judged.logits, judged.labels, kind=kind, folds=settings.folds, seed=settings.seed, groups=judged.groups
    )
