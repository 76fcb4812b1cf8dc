"""What a picture of the front shows, apart from what draws it: points, axes, colours, words."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from evaluators.score import METRICS, Metric, in_order
from orchestrator.pick import DEFAULT_COST, format_value
from search_space.notation import write_parts
from search_space.quantities import format_bytes, format_count

if TYPE_CHECKING:
    from orchestrator.trial import Trial

PALETTE = ("#332288", "#cc6677", "#117733", "#88ccee", "#aa4499", "#999933", "#44aa99", "#882255", "#ddaa33")
"""Paul Tol's muted colours, told apart by colour-blind eyes; the pale yellow is darkened to show on white."""
BOLD = ("front", "dominated")
WORDS = {
    "front": "on the front",
    "dominated": "dominated",
    "partial": "stopped early",
    "infeasible": "over budget",
    "failed": "failed",
    "paused": "paused at a rung",
    "running": "still training",
    "reference": "not searched",
    "predictor": "another predictor",
}
"""What tags are called in pictures."""
MOST_TICKS = 8
MARGIN = 0.07
LINE = 60


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        metric: What it shows.
        logarithmic: Whether ratios count on it.
        low: Its lower end.
        high: Its upper end.
        ticks: Positions and labels, where the drawing library would not choose good ones.
        zero: Where 0 stands on a logarithmic axis; None when nothing is 0.
        far: Where stands what is far above all that was searched, such as full fine-tuning; None when nothing is.
        breaks: Where the axis is broken, on the way to these two.
    """

    metric: Metric
    logarithmic: bool
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...] = ()
    zero: float | None = None
    far: float | None = None
    breaks: tuple[float, ...] = ()

    @property
    def title(self) -> str:
        """Its name, with what one must know to read it."""
        names = {"trainable_params": "trainable parameters", "peak_memory_bytes": "peak memory"}
        name = names.get(self.metric.name, self.metric.name.replace("_bytes", "").replace("_ms", "").replace("_", " "))
        split = " on validation" if self.metric.on_split else ""
        unit = {"ms": ", ms", "nat": ", nats"}.get(self.metric.unit, "")
        lower = " (lower is better)" if self.metric.on_split and self.metric.direction == "minimize" else ""
        return f"{name}{split}{unit}{lower}"

    def place(self, value: float) -> float:
        """Return where a value stands: itself, but for 0 and what is far out on a logarithmic axis."""
        if self.zero is not None and value <= 0:
            return self.zero
        return self.far if self.far is not None and value >= self.far else value


@dataclass(frozen=True)
class Dot:
    """One trial.

    Attributes:
        number: Its number.
        group: Its methods.
        tag: What it counts as; `reference` for a reference.
        x: Where it stands.
        y: Where it stands.
        lines: What is said of it, line by line.
    """

    number: int
    group: str
    tag: str
    x: float
    y: float
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Bar:
    """A mean over finalists with its interval; without one, the ends are the mean."""

    number: int
    x: float
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Chart:
    """Everything that a picture of a front shows.

    Attributes:
        title: Name of the study.
        subtitle: The result in a line.
        x: Cost, or the second objective.
        y: Quality.
        dots: Trials that have a value.
        untrained: Costs of those that were over budget before training.
        references: Head only and full fine-tuning.
        predictors: What predicts better than one candidate, by its validation.
        stairs: Corners of the front, from the cheapest on.
        bars: Finalists.
        pick: The recommended trial.
        limit: Budget on the x axis.
        groups: Kinds of candidates, in the order of the legend.
    """

    title: str
    subtitle: str
    x: Axis
    y: Axis
    dots: tuple[Dot, ...]
    untrained: tuple[float, ...]
    references: tuple[Dot, ...]
    predictors: tuple[Dot, ...]
    stairs: tuple[tuple[float, float], ...]
    bars: tuple[Bar, ...]
    pick: Dot | None
    limit: float | None
    groups: tuple[str, ...]

    def tagged(self, tag: str) -> list[Dot]:
        """Return the trials that count as one thing."""
        return [dot for dot in self.dots if dot.tag == tag]

    def style(self, group: str) -> tuple[str, bool]:
        """Return the colour of a kind of candidate, and whether it is a hybrid, which has a marker of its own."""
        return PALETTE[self.groups.index(group) % len(PALETTE)], " + " in group


def chart_of(front: Mapping[str, Any], trials: Sequence[Trial], references: Sequence[Trial] = ()) -> Chart:
    """Lay out a front.

    Args:
        front: JSON data of a `Front`.
        trials: Trials of the search.
        references: Reference rows; only complete ones are shown.
    """
    x, y = _metrics(front)
    again = {one["number"]: one for one in (*front["members"], *front["neighbours"])}
    dots = _dots(front, trials, again, x, y)
    beside = [_dot(one, "reference", x, y) for one in references if one.state == "complete" and _has(one, x, y)]
    bars = [_bar(one, x, y) for one in again.values() if y.name in one["validation"]]
    untrained = [
        _values(one)[x.name] for one in trials if one.state == "infeasible" and _has(one, x) and not one.scores
    ]
    limit = front["limits"].get(x.name)
    predictors = [dot for one in front.get("predictors", ()) for dot in _predictor(one, x, y)]
    searched = [*(dot.x for dot in dots), *untrained, *([limit] if limit else [])]
    x_axis = _x_axis(x, searched, [dot.x for dot in (*beside, *predictors)])
    chart = Chart(
        title=front["study"],
        subtitle=_subtitle(front, again),
        x=x_axis,
        y=_y_axis(y, dots, [*beside, *predictors], bars),
        dots=tuple(dots),
        untrained=tuple(map(x_axis.place, untrained)),
        references=tuple(replace(dot, x=x_axis.place(dot.x)) for dot in beside),
        predictors=tuple(replace(dot, x=x_axis.place(dot.x)) for dot in predictors),
        stairs=(),
        bars=tuple(replace(bar, x=x_axis.place(bar.x)) for bar in bars),
        pick=None,
        limit=limit,
        groups=tuple(sorted({dot.group for dot in dots if dot.tag in BOLD}, key=lambda one: (" + " in one, one))),
    )
    return _finished(chart, front)


def _finished(chart: Chart, front: Mapping[str, Any]) -> Chart:
    """Put the dots onto the axes, and add what follows from where they stand."""
    x, y = chart.x, chart.y
    dots = tuple(replace(dot, x=x.place(dot.x), y=min(max(dot.y, y.low), y.high)) for dot in chart.dots)
    number = front["pick"]["number"] if front["pick"] else None
    pick = next((dot for dot in dots if dot.number == number), None)
    stairs = _stairs([dot for dot in dots if dot.tag == "front"], x, y, chart.limit)
    return replace(chart, dots=dots, pick=pick, stairs=stairs)


def _metrics(front: Mapping[str, Any]) -> tuple[Metric, Metric]:
    """Choose what is shown: quality upwards, and cost to the right where there is an objective for it."""
    objectives = [METRICS[name] for one in front["objectives"] for name in one.values()]
    y = next(one for one in objectives if one.on_split)
    others = sorted((one for one in objectives if one is not y), key=lambda one: one.on_split)
    return (others[0] if others else METRICS[DEFAULT_COST]), y


def _values(trial: Trial) -> dict[str, float]:
    cost, score = trial.cost.values if trial.cost else {}, trial.score.values if trial.score else {}
    return {**cost, **score}


def _has(trial: Trial, *metrics: Metric) -> bool:
    return all(metric.name in _values(trial) for metric in metrics)


def _dots(
    front: Mapping[str, Any], trials: Sequence[Trial], again: Mapping[int, Mapping[str, Any]], x: Metric, y: Metric
) -> list[Dot]:
    shown = [one for one in sorted(trials, key=lambda one: one.number) if _has(one, x, y)]
    return [_dot(one, front["tags"].get(str(one.number), one.state), x, y, again.get(one.number)) for one in shown]


def _dot(trial: Trial, tag: str, x: Metric, y: Metric, again: Mapping[str, Any] | None = None) -> Dot:
    values = _values(trial)
    name = f"trial {trial.number}" if tag != "reference" else f"reference: {trial.origin}"
    lines = [
        f"{name} ({WORDS[tag]})",
        *textwrap.wrap(write_parts(trial.candidate), LINE),
        *_measured(values, True),
        *_measured(values, False),
        f"{trial.steps} training steps, seed {trial.seed}",
        *(_said(again, y) if again else ()),
    ]
    return Dot(trial.number, trial.candidate.method, tag, values[x.name], values[y.name], tuple(lines))


def _predictor(one: Mapping[str, Any], x: Metric, y: Metric) -> list[Dot]:
    """Return the dot of a predictor; none for one pass of one seed, which the finalists' bars show."""
    values = one["costs"] | one["validation"]
    if one["kind"] == "single" or x.name not in values or y.name not in values:
        return []
    passes = f"{one['passes']} forward pass{'es' if one['passes'] > 1 else ''}"
    lines = (one["title"], passes, *_measured(values, True), *_measured(values, False))
    return [Dot(one["trials"][0], one["kind"], "predictor", values[x.name], values[y.name], lines)]


def _measured(values: Mapping[str, float], on_split: bool) -> list[str]:
    """Write quality, or cost; no line breaks inside a name or a value."""
    known = [METRICS[name] for name in in_order(values) if METRICS[name].on_split == on_split]
    words = (f"{metric.short} {format_value(values[metric.name], metric)}".replace(" ", "\u00a0") for metric in known)
    return textwrap.wrap(", ".join(words), LINE)


def _said(again: Mapping[str, Any], metric: Metric) -> list[str]:
    """Say what the finalists say of one metric, and how firm the candidate is."""
    lines = []
    for split in ("validation", "test"):
        if one := again[split].get(metric.name):
            reach = f" ± {format_value(one['high'] - one['mean'], metric)}" if one["high"] is not None else ""
            mean = format_value(one["mean"], metric)
            lines.append(f"{metric.short} on {split}: {mean}{reach} over {one['seeds']} seeds")
    if again["firm"] is not None:
        lines.append(f"non-dominated with probability {again['firm']:.2f}")
    return lines


def _bar(member: Mapping[str, Any], x: Metric, y: Metric) -> Bar:
    one = member["validation"][y.name]
    ends = (one["mean"], one["mean"]) if one["low"] is None else (one["low"], one["high"])
    return Bar(member["number"], member["values"][x.name], one["mean"], *ends)


def _subtitle(front: Mapping[str, Any], again: Mapping[int, Mapping[str, Any]]) -> str:
    found = f"{len(front['members'])} on the front of {len(front['tags'])} trials"
    if not front["pick"]:
        return found
    chosen = again[front["pick"]["number"]]
    return f"{found}; pick: trial {chosen['number']}, {textwrap.shorten(chosen['parts'], LINE, placeholder=' ...')}"


def _x_axis(metric: Metric, searched: Sequence[float], beside: Sequence[float]) -> Axis:
    """Sizes go on a logarithmic axis, the rest on a plain one."""
    values = [*searched, *beside]
    if metric.unit in ("parameters", "B") and any(value > 0 for value in values):
        return _log_axis(metric, [one for one in searched if one > 0] or [one for one in beside if one > 0], values)
    low, high = min(values, default=0.0), max(values, default=1.0)
    pad = MARGIN * ((high - low) or abs(high) or 1.0)
    return Axis(metric, False, low - pad, high + pad)


def _log_axis(metric: Metric, core: Sequence[float], values: Sequence[float]) -> Axis:
    """Spend the width on what was searched: 0, and what is far above, get a place behind a break."""
    least, most = min(core), max(core)
    gap = max(2.5, (most / least) ** 0.16)
    zero = least / gap if min(values) <= 0 else None
    far = most * gap if max(values) > most * gap else None
    pad = max(1.25, (most / least) ** MARGIN)
    write = format_bytes if metric.unit == "B" else format_count
    marks = [(mark, write(mark)) for mark in _powers(2.0 if metric.unit == "B" else 10.0, least / 1.2, most * 1.2)]
    ends = [*([(zero, "0")] if zero else []), *([(far, write(max(values)))] if far else [])]
    breaks = [*([zero * gap**0.5] if zero else []), *([far / gap**0.5] if far else [])]
    low, high = (zero or min(least, *values)) / pad, (far or max(most, *values)) * pad
    return Axis(metric, True, low, high, (*marks, *ends), zero, far, tuple(breaks))


def _powers(base: float, low: float, high: float) -> list[float]:
    """Return powers of the base in [low, high], thinned out evenly; a few between them where there are too few."""
    first, last = math.ceil(math.log(low, base)), math.floor(math.log(high, base))
    powers = [base**power for power in range(first, last + 1)]
    if len(powers) > MOST_TICKS // 2:
        return powers[:: math.ceil(len(powers) / MOST_TICKS)]
    shares = (1, 3) if len(powers) > 1 else (1, 2, 5)
    between = [share * base**power for power in range(first - 1, last + 1) for share in shares]
    return [mark for mark in between if low <= mark <= high]


def _y_axis(metric: Metric, dots: Sequence[Dot], beside: Sequence[Dot], bars: Sequence[Bar]) -> Axis:
    """Show what counts whole; early scores and wide intervals at most as far again to each side."""
    counted = (*BOLD, "reference", "predictor")
    whole = [dot.y for dot in (*dots, *beside) if dot.tag in counted] + [bar.mean for bar in bars]
    early = [dot.y for dot in dots] + [end for bar in bars for end in (bar.low, bar.high)]
    low, high = min(whole or early, default=0.0), max(whole or early, default=1.0)
    span = (high - low) or 0.1 * abs(high) or 1.0
    low, high = (
        min([low, *(max(one, low - span) for one in early)]),
        max([high, *(min(one, high + span) for one in early)]),
    )
    pad = MARGIN * ((high - low) or span)
    most = 1.0 if metric.unit == "1" and high <= 1.0 else math.inf
    return Axis(metric, False, low - pad, min(high + pad, max(most, high + 0.01 * span)))


def _stairs(members: Sequence[Dot], x: Axis, y: Axis, limit: float | None) -> tuple[tuple[float, float], ...]:
    """Return the corners of what the front reaches: the best quality at each cost."""
    cheaper = 1 if x.metric.direction == "minimize" else -1
    better = 1 if y.metric.direction == "maximize" else -1
    corners: list[tuple[float, float]] = []
    for dot in sorted(members, key=lambda dot: (cheaper * dot.x, -better * dot.y)):
        if corners and better * dot.y <= better * corners[-1][1]:
            continue
        corners += [(dot.x, corners[-1][1])] if corners else []
        corners.append((dot.x, dot.y))
    end = min(limit or x.high, x.breaks[-1] if x.far else x.high) if cheaper > 0 else x.low
    return (*corners, (end, corners[-1][1])) if corners else ()
