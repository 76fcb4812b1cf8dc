"""The section of the results page: tables, sentences whose numbers are computed, pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.small_data import plan
from benchmarks.small_data.figures import NAMES

Row = Mapping[str, Any]
_HEADS = {"accuracy": "accuracy", "temperature": "T", "nll": "NLL", "nll_after": "after T", "ece": "ECE",
          "floor": "floor", "rejected": "p < 0.05", "ece_after": "after T", "floor_after": "floor",
          "rejected_after": "p < 0.05", "debiased": "debiased", "debiased_after": "after T"}  # fmt: skip


def markdown(found: Mapping[str, Any], pictures: Sequence[str]) -> str:
    """Return the findings as a section of a page."""
    lines = [
        "## Small data and shift: what calibration depends on, and what searching for it gains",
        "",
        f"{found['runs']} trainings of MiniLM-L6 ({found['failed']} failed), {found['core_hours']:.2f} core-hours. "
        f"Planned: {plan.planned()}, and what the search picks on every seed. "
        "Each run has 50 steps of 16 examples for 50 examples, 100 for 200, 150 for 1,000, 250 for 5,000 (TREC: 3,659, "
        "all that there are), the methods' default learning rates, bfloat16 autocast. T is fitted on 431 (TREC) or 403 "
        "(sentiment) rows that nothing was trained on, and never on those that it is judged by. "
        f"{_seeds(found['grid'])} Floor: the ECE of a perfectly calibrated model; p < 0.05: share of seeds "
        "with more than chance gives. Debiased: squared calibration error less what chance adds, signed.",
        "",
        *_pictures(pictures),
        *_at_home(found["grid"]),
        *_elsewhere(found["grid"]),
        *_people(found["grid"]),
        *_rows_needed(found["calibration_rows"]),
        *_searched(found["search"]),
        *_one_pass(found["one_pass"]),
        *_laplace(found["laplace"]),
    ]
    return "\n".join(lines)


def _seeds(grid: Sequence[Row]) -> str:
    counts = sorted({row["seeds"] for row in grid})
    if not counts:
        return ""
    said = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    return f"Each row is the mean over {said} seed{'s' if counts[-1] > 1 else ''}."


def _pictures(names: Sequence[str]) -> Iterator[str]:
    for name in names:
        yield f"![{name.removesuffix('.png')}](results/small_data/{name})"
        yield ""


def _at_home(grid: Sequence[Row]) -> Iterator[str]:
    for task in plan.TASKS:
        rows = [row for row in grid if (row["task"], row["role"]) == (task, "test")]
        if not rows:
            continue
        yield f"**{task}**, test of the same domain:"
        yield ""
        yield "| examples | method | " + " | ".join(_HEADS.values()) + " |"
        yield "|---:|---|" + "---:|" * len(_HEADS)
        for row in rows:
            yield f"| {row['size']:,} | {row['method']} | " + " | ".join(_cell(row[key]) for key in _HEADS) + " |"
        yield ""
        over, gain = _mean(row["ece"] for row in rows), _mean(row["nll"] - row["nll_after"] for row in rows)
        yield (
            f"Over all of these ECE is {over:.3f} before and {_mean(row['ece_after'] for row in rows):.3f} after, and "
            f"the temperature takes {gain:.3f} nats off the NLL. {_least_and_most(rows)}"
        )
        yield ""


def _least_and_most(rows: Sequence[Row]) -> str:
    sizes = sorted({row["size"] for row in rows})
    said = [f"{_mean(r['temperature'] for r in rows if r['size'] == size):.2f} at {size:,}" for size in sizes]
    return f"The mean T is {', '.join(said)}."


def _elsewhere(grid: Sequence[Row]) -> Iterator[str]:
    rows = [row for row in grid if row["task"] == "movie" and row["size"] == max(one["size"] for one in grid)]
    if not rows:
        return
    size = f"{rows[0]['size']:,}"
    yield f"**Shift**, trained on {size} film reviews, mean over methods; *own T*: cross-fitted at the domain:"
    yield ""
    yield "| judged on | accuracy | NLL | after home's T | own T | debiased | after home's T |"
    yield "|---|" + "---:|" * 6
    for role, name in NAMES.items():
        own = [row for row in rows if row["role"] == role]
        cells = [
            _cell(_mean(row[key] for row in own))
            for key in ("accuracy", "nll", "nll_after", "own_nll", "debiased", "debiased_after")
        ]
        yield f"| {name} | " + " | ".join(cells) + " |"
    yield ""


def _people(grid: Sequence[Row]) -> Iterator[str]:
    rows = [row for row in grid if "people" in row]
    if not rows:
        return
    yield (
        "**People as the truth.** The share of raters who found a text positive is a probability that labels do not "
        "show. Mean squared distance of P(positive) to it, over sizes and methods: before, with the T of labels, with "
        "a T fitted to shares on the calibration rows."
    )
    yield ""
    yield "| judged on | before | T of labels | T of shares |"
    yield "|---|---:|---:|---:|"
    for role, name in NAMES.items():
        own = [row for row in rows if row["role"] == role]
        cells = [_cell(_mean(row[key] for row in own)) for key in ("people", "people_after", "people_own")]
        yield f"| {name} | " + " | ".join(cells) + " |"
    yield ""


def _rows_needed(found: Mapping[str, Mapping[int, float]]) -> Iterator[str]:
    for task, by_rows in found.items():
        if by_rows:
            said = ", ".join(f"{value:.4f} with {count}" for count, value in by_rows.items())
            yield f"**Calibration rows**, {task}, LoRA r=8 on 1,000 examples: test NLL {said}."
            yield ""


def _searched(found: Mapping[str, Any]) -> Iterator[str]:
    for task, one in found.items():
        yield f"**Search**, {task}: {one['candidates']} random candidates on 1,000 examples, chosen on validation."
        yield ""
        yield "| chosen by | candidate | accuracy | NLL after T | less the ensemble's, 95 % | mean of smaller |"
        yield "|---|---|---:|---:|---:|---:|"
        for rule, pick in one["picks"].items():
            less = pick["less_ensemble"]
            beside = "–" if less is None else f"{less['value']:+.4f} [{less['low']:+.4f}, {less['high']:+.4f}]"
            cells = (rule, _code(pick["candidate"]), _cell(pick["accuracy"]), f"{pick['nll_after']:.4f}", beside)
            yield f"| {' | '.join(cells)} | {one['smaller'][rule]:.4f} |"
        yield ""
        gain = one["gain"]
        yield (
            f"Among 500 searches of 12 of these, choosing by calibrated NLL instead of by accuracy gains "
            f"{gain['mean']:.4f} nats on test after scaling both: better in {gain['better']:.0%}, worse in "
            f"{gain['worse']:.0%}."
        )
        if one["ensemble"]:
            yield (
                f"An ensemble of five seeds of `{plan.REFERENCE}` with T has {one['ensemble']['nll_after']:.4f} at "
                f"five forward passes, one of its members {one['one_member']:.4f}. {_goal(one)}"
            )
        yield ""


def _one_pass(found: Mapping[str, Any]) -> Iterator[str]:
    if not found:
        return
    shares = ", ".join(f"{plan.ONE_PASS_STEPS * share:.0f}" for share in plan.ONE_PASS_SHARES)
    yield (
        f"**One pass instead of five**, {plan.ONE_PASS_TASK}: the ensemble's training spent on one candidate, "
        f"{found['core_hours']:.2f} core-hours. *longer*: `{plan.REFERENCE}` for {plan.ONE_PASS_STEPS} steps, as many "
        "as the five members together; *averaged*: its weights averaged over the last fifth; *distilled*: as long, on "
        "the members' mean probabilities of the same 1,000 texts; *unlabelled*: the same on all 3,659; *searched*: the "
        f"best by calibrated NLL on validation of {found['candidates']} random candidates with {shares} steps, each "
        "of which was trained too."
    )
    yield ""
    yield "| way | candidate | seeds | accuracy | NLL after T | less the ensemble's, 95 % |"
    yield "|---|---|---:|---:|---:|---:|"
    for one in found["ways"]:
        less = one["less_ensemble"]
        quality = f"{one['seeds']} | {_cell(one['accuracy'])} | {one['nll_after']:.4f}"
        beside = f"{less['value']:+.4f} [{less['low']:+.4f}, {less['high']:+.4f}]"
        yield f"| {one['way']} | {_code(one['candidate'])} | {quality} | {beside} |"
    yield ""
    best, longer = min(found["ways"], key=lambda one: float(one["nll_after"])), found["longer_ensemble"]
    yield (
        f"The ensemble has {found['ensemble']:.4f}, one member {found['alone']:.4f}. The best way is *{best['way']}*. "
        f"{_reached(found['ways'])} An ensemble is worth its passes all the same: {longer['members']} runs of "
        f"*longer*, with as many times the training, have {longer['nll_after']:.4f} together."
    )
    yield ""


def _laplace(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not found:
        return
    head = found[0]
    yield (
        f"**Posteriors**, {plan.ONE_PASS_TASK}: `{plan.REFERENCE}` on {head['size']} examples, {head['seeds']} seeds, "
        "as it is and by Laplace of the last layer, of the adapter and head with the diagonal, and with Kronecker "
        f"factors; seconds of CPU to fit and to judge {head['texts']:,} texts."
    )
    yield ""
    yield "| predicted by | NLL | NLL after T | less as it is, 95 % | seconds |"
    yield "|---|---:|---:|---:|---:|"
    for one in found:
        less = one["less_plain"]
        beside = "–" if one["name"] == "plain" else f"{less['value']:+.4f} [{less['low']:+.4f}, {less['high']:+.4f}]"
        name = _POSTERIORS[one["name"]]
        seconds = "–" if one["name"] == "plain" else f"{one['seconds']:.0f}"
        yield f"| {name} | {one['nll']:.4f} | {one['nll_after']:.4f} | {beside} | {seconds} |"
    yield ""


_POSTERIORS = {
    "plain": "as it is",
    "last_layer": "last layer",
    "diagonal": "adapter, diagonal",
    "kronecker": "adapter, Kronecker",
}


def _reached(ways: Sequence[Mapping[str, Any]]) -> str:
    searched = next(one for one in ways if one["way"] == "searched")["less_ensemble"]
    goal = "Goal, the searched pick at one pass not worse than the ensemble of as much training: "
    if searched["high"] <= 0:
        return f"{goal}yes, with its whole interval."
    if searched["value"] <= 0:
        return f"{goal}yes, not distinguishably."
    return f"{goal}NO, by {searched['value']:.4f} nats."


def _goal(one: Mapping[str, Any]) -> str:
    less = one["picks"]["calibrated NLL"]["less_ensemble"]
    if less is None:
        return "The pick has too few seeds to be set beside it."
    if less["high"] <= 0:
        return "Goal, the searched pick at one pass not worse than that: yes, with its whole interval."
    if less["value"] <= 0:
        return "Goal, the searched pick at one pass not worse than that: yes, not distinguishably."
    return f"Goal, the searched pick at one pass not worse than that: NO, by {less['value']:.4f} nats."


def _code(candidate: str) -> str:
    """Return a notation as code in a cell of a table, where a bar would end the cell."""
    return f"`{candidate}`".replace("|", "\\|")


def _cell(value: float) -> str:
    return f"{value:.2f}" if abs(value) >= 2 else f"{value:.3f}"


def _mean(values: Iterator[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
