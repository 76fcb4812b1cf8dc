"""What the page of a study shows beside its chart and table: the pick, the finalists, numbers as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from dashboards.reports import Report
from evaluators.score import BINNED, METRICS
from orchestrator.member import Estimate, Member
from orchestrator.pick import format_value
from search_space.notation import write_parts

PICK_NUMBERS = ("accuracy", "trainable_params", "peak_memory_bytes", "latency_ms", "ece", "calibrated_ece")
_NOTHING = "–"


@dataclass(frozen=True)
class PickView:
    """The recommended candidate.

    Attributes:
        number: Its trial.
        parts: Its notation without the recipe.
        numbers: Metrics, their values, and what stands beside them.
        reason: Why it is recommended.
    """

    number: int
    parts: str
    numbers: tuple[tuple[str, float, str], ...]
    reason: str

    @classmethod
    def of(cls, report: Report) -> PickView | None:
        """Describe the pick of a report, where there is one."""
        front = report.front
        if front is None or front.pick is None:
            return None
        number = front.pick.number
        member = next(one for one in (*front.members, *front.neighbours) if one.number == number)
        wanted = dict.fromkeys([*(one.metric for one in report.spec.objectives), *PICK_NUMBERS])
        known = {name: member.value(name) for name in member.known}
        numbers = tuple((name, known[name], _beside(known, name)) for name in wanted if name in known)
        return cls(number, write_parts(member.trial.candidate), numbers, front.pick.reason)


@dataclass(frozen=True)
class Cell:
    """A number as text, and what stands beside it."""

    text: str
    beside: str = ""


@dataclass(frozen=True)
class FinalistRow:
    """A candidate that was trained again; cells are its validation and its test estimate for each metric."""

    number: int
    parts: str
    pick: bool
    cells: tuple[tuple[Cell, Cell], ...]
    seeds: int
    firm: float | None


@dataclass(frozen=True)
class FinalistsView:
    """The finalists.

    Attributes:
        columns: Metrics.
        rows: Candidates that were trained again, the cheapest first.
        has_test: Whether the test split was read.
    """

    columns: tuple[str, ...]
    rows: tuple[FinalistRow, ...]
    has_test: bool

    @classmethod
    def of(cls, report: Report) -> FinalistsView:
        """Describe the finalists of a report; there may be none."""
        front = report.front
        members = [one for one in (*front.members, *front.neighbours) if one.finalists] if front else []
        quality = [one.metric for one in report.spec.objectives if METRICS[one.metric].on_split]
        columns = tuple(dict.fromkeys([*quality, *BINNED]))
        columns = tuple(name for name in columns if any(name in one.validation for one in members))
        pick = front.pick.number if front and front.pick else None
        rows = tuple(_row(one, columns, one.number == pick) for one in members)
        return cls(columns, rows, any(one.test for one in members))


@dataclass(frozen=True)
class PredictorRow:
    """One way to predict: what it is, what it costs, how good it is on test, and what its sets cover there."""

    title: str
    passes: int
    cells: tuple[Cell, ...]

    @classmethod
    def all_of(cls, report: Report) -> list[PredictorRow]:
        """Describe what predicts better than one candidate, where there is anything."""
        return [_predictor(one) for one in report.front.predictors] if report.front else []


def _predictor(one: Mapping[str, Any]) -> PredictorRow:
    costs = [(name, one["costs"].get(name)) for name in ("checkpoint_bytes", "latency_ms")]
    tested = [(name, one["test"].get(name)) for name in ("accuracy", "nll", "calibrated_nll", "calibrated_ece")]
    cells = [
        Cell(_NOTHING if value is None else format_value(value, METRICS[name]), _beside(one["test"], name))
        for name, value in (*costs, *tested)
    ]
    sets = [one["conformal"].get(method) for method in ("lac", "aps")]
    covered = [Cell(f"{found['coverage']:.3f} ({found['mean_size']:.2f})" if found else _NOTHING) for found in sets]
    return PredictorRow(one["title"], one["passes"], (*cells, *covered))


def ago(moment: datetime, now: datetime | None = None) -> str:
    """Write how long ago something was: `just now`, `5 min ago`, `3 h ago`, `2 days ago`, or the date."""
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    if seconds < 45:
        return "just now"
    for size, most, unit in ((60, 3600, "min"), (3600, 86400, "h"), (86400, 30 * 86400, "days")):
        if seconds < most:
            count = max(1, round(seconds / size))
            return f"{count} {'day' if unit == 'days' and count == 1 else unit} ago"
    return moment.strftime("%Y-%m-%d")


def metric(value: float, name: str) -> str:
    """Write a metric's value with its unit."""
    return format_value(value, METRICS[name])


def short(name: str) -> str:
    """Return a metric's column head."""
    return METRICS[name].short


def _row(member: Member, columns: tuple[str, ...], pick: bool) -> FinalistRow:
    cells = tuple((_cell(member.validation, name), _cell(member.test, name)) for name in columns)
    parts = write_parts(member.trial.candidate)
    return FinalistRow(member.number, parts, pick, cells, len(member.finalists), member.firm)


def _cell(estimates: Mapping[str, Estimate], name: str) -> Cell:
    one = estimates.get(name)
    if one is None:
        return Cell(_NOTHING)
    beside = _beside({known: estimate.mean for known, estimate in estimates.items()}, name)
    if one.low is None or one.high is None:
        return Cell(f"{one.mean:.3f}", beside)
    return Cell(f"{one.mean:.3f} ± {(one.high - one.low) / 2:.3f}", beside)


def _beside(values: Mapping[str, float], name: str) -> str:
    """Return the floor and the p-value of a calibration error as text; empty for other metrics."""
    floor, p_value = values.get(f"{name}_floor"), values.get(f"{name}_p_value")
    if name not in BINNED or floor is None:
        return ""
    return f"floor {floor:.3f}" + ("" if p_value is None else f", p {p_value:.3f}")
