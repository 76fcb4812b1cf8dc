"""Sampling: new candidates within a budget of parameters a second, beside drawing and rejecting; and their costing.

    python -m benchmarks.space [--quick]

The model is BERT-base on the `meta` device. Each preset is drawn from under budgets that are shares of it. Paretune's
way draws, and where little fits draws the sizes again from those that fit. The other way draws until something fits.
Both look at the same counts, added up from what was counted once, and take no candidate twice. They draw in turns, in
one process, and the time of a round is processor time. A round of the other way ends after as many draws as `MOST`, and
what it found until then counts.

Costing counts what a thousand candidates train and keep, after a hundred of the same preset. As in the process of a
study, the collector of circles leaves alone what was imported.

A part of this file is one function that returns JSON data, and one that writes its table, in `PARTS`.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from statistics import median
from typing import Any

import torch
import transformers

from benchmarks.report import ratio_interval, write
from evaluators.anatomy import anatomy_of
from evaluators.costing import count_backbone
from evaluators.counting import Counter
from search_space.candidate import Candidate
from search_space.errors import EmptySpaceError, PlacementError, UnsupportedError
from search_space.fitting import Fitting, require_fitting
from search_space.knobs import RandomChooser
from search_space.notation import write_parts
from search_space.space import Space, bind
from search_space.spec import SpaceSpec
from search_space.tally import Tally

GOAL = 1000.0
PRESETS = ("default", "everything", "autopeft", "noah", "s3delta", "s4", "bipeft", "lonas")
SHARES = (0.01, 0.001)
COSTED = ("lora", "default", "everything", "s3delta", "bipeft")
COSTING_GOAL = 2.0
FIRST = 100
MOST = 2000
"""Plain draws of a round at most."""


class Rejecting:
    """Draws until a candidate fits: the way without any thought."""

    def __init__(self, space: Space, tally: Tally, limit: float, seed: int) -> None:
        self._fitting = Fitting(space, tally, limit, seed)
        self._chooser = RandomChooser(seed)
        self.drawn = 0

    def some(self, wanted: int, taken: set[str]) -> int:
        """Draw new candidates that fit; return how many were found."""
        found, until = 0, self.drawn + MOST
        while found < wanted and self.drawn < until:
            candidate = self._fitting.space.draw(self._chooser)
            self.drawn += 1
            if self._fitting.fits(candidate) and candidate.sha256 not in taken:
                taken.add(candidate.sha256)
                found += 1
        return found


def sampling(rounds: int, each: int) -> dict[str, Any]:
    """Draw from every preset under every budget."""
    with torch.device("meta"):
        model = transformers.BertForSequenceClassification(transformers.BertConfig()).requires_grad_(False)
    anatomy, backbone = anatomy_of(model), count_backbone(model)
    counter = Counter(model, anatomy)
    rows = []
    for preset in PRESETS:
        space = bind(SpaceSpec(preset=preset), anatomy)
        tally = Tally(counter.trainable_params, anatomy)
        for share in SHARES:
            row = {"preset": preset, "share": share, "space_size": str(space.size)}
            rows.append(row | _drawn(space, tally, share * backbone, rounds, each))
    return {"backbone_parameters": backbone, "rounds": rounds, "each": each, "rows": rows}


def _drawn(space: Space, tally: Tally, limit: float, rounds: int, each: int) -> dict[str, Any]:
    try:
        require_fitting(space, tally, limit)
    except EmptySpaceError as error:
        return {"refused": str(error)}
    ours, theirs = Fitting(space, tally, limit, seed=1), Rejecting(space, tally, limit, seed=2)
    taken: tuple[set[str], set[str]] = (set(), set())
    _ours(ours, each, taken[0])  # what is counted for the first time is not what is measured
    theirs.some(each, taken[1])
    theirs.drawn, found, rates = 0, 0, ([], [])  # type: ignore[var-annotated]
    for _ in range(rounds):
        many, seconds = _timed(lambda: _ours(ours, each, taken[0]))
        rates[0].append(many / seconds)
        many, seconds = _timed(lambda: theirs.some(each, taken[1]))
        rates[1].append(many / seconds)
        found += many
    result: dict[str, Any] = {"per_second": median(rates[0]), "rejecting_per_second": median(rates[1])}
    result |= {"fits": found / theirs.drawn, "questions_to_the_exact_counter": tally.asked}
    if median(rates[1]) > 0:
        result["ratio"] = ratio_interval(*rates).to_json()
    example = ours.draw()
    return result | {"example": write_parts(example) if example is not None else ""}


def _ours(fitting: Fitting, wanted: int, taken: set[str]) -> int:
    found = 0
    while found < wanted and (candidate := fitting.draw(taken)) is not None:
        assert fitting.fits(candidate)
        assert candidate.sha256 not in taken
        taken.add(candidate.sha256)
        found += 1
    return found


def _timed(work: Callable[[], int]) -> tuple[int, float]:
    started = time.process_time()
    found = work()
    return found, max(time.process_time() - started, 1e-9)


def sampling_markdown(result: Mapping[str, Any]) -> str:
    """Return the section on sampling."""
    lines = [
        "New candidates a second of processor time on one core, within a budget of trainable parameters of BERT-base, "
        f"{result['rounds']} rounds of {result['each']} in turns; the goal is {GOAL:,.0f}. `fits` is the share of "
        "plain draws that fit. The ratio is Paretune's rate to that of drawing and rejecting, with its 95 % interval.",
        "",
        "| preset | budget | fits | Paretune /s | rejecting /s | ratio | goal |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        head = f"| `{row['preset']}` | {row['share']:.1%}"
        if "refused" in row:
            lines.append(f"{head} | 0 | refused before the first draw | | | |")
            continue
        ratio = row.get("ratio")
        shown = f"{ratio['value']:.3g} [{ratio['low']:.3g}, {ratio['high']:.3g}]" if ratio else "no draw fitted"
        met = "met" if row["per_second"] >= GOAL else "missed"
        rates = f"{row['per_second']:,.0f} | {row['rejecting_per_second']:,.0f}"
        lines.append(f"{head} | {row['fits']:.2%} | {rates} | {shown} | {met} |")
    return "\n".join(lines)


def costing(rounds: int, each: int) -> dict[str, Any]:
    """Count the parameters of a thousand candidates of each preset, after a hundred."""
    with torch.device("meta"):
        model = transformers.BertForSequenceClassification(transformers.BertConfig()).requires_grad_(False)
    anatomy = anatomy_of(model)
    rows = []
    for preset in COSTED:
        space, counter, chooser = bind(SpaceSpec(preset=preset), anatomy), Counter(model, anatomy), RandomChooser(0)
        seconds = [_counted(counter, [space.draw(chooser) for _ in range(many)]) for many in (FIRST, 5 * each)]
        rows.append({"preset": preset, "first": seconds[0], "then": seconds[1], "built": counter.built})
    return {"first": FIRST, "then": 5 * each, "rows": rows}


def _counted(counter: Counter, candidates: Sequence[Candidate]) -> float:
    """Count some candidates; returns the seconds of processor time."""
    started = time.process_time()
    for candidate in candidates:
        with suppress(PlacementError, UnsupportedError):
            counter.count(candidate)
    return time.process_time() - started


def costing_markdown(result: Mapping[str, Any]) -> str:
    """Return the section on costing."""
    lines = [
        f"Seconds of processor time to count what {result['then']:,} random candidates train and keep on BERT-base, "
        f"after {result['first']} others, one run in one process; the goal is {COSTING_GOAL:g} for 1,000. `built` is "
        "how many of all were built "
        "whole on `meta`. Memory is not predicted here: a layer that is new to it is traced, which takes longer.",
        "",
        "| preset | first | then | built | goal |",
        "|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        met = "met" if row["then"] * 1000 / result["then"] < COSTING_GOAL else "missed"
        lines.append(f"| `{row['preset']}` | {row['first']:.2f} | {row['then']:.2f} | {row['built']} | {met} |")
    return "\n".join(lines)


PARTS: dict[str, tuple[Callable[[int, int], dict[str, Any]], Callable[[Mapping[str, Any]], str]]] = {
    "sampling": (sampling, sampling_markdown),
    "costing": (costing, costing_markdown),
}
"""Each part of the benchmark: what measures it, and what writes its table."""


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few draws, within a minute")
    quick = parser.parse_args().quick
    gc.freeze()
    result = {name: measure(2 if quick else 7, 20 if quick else 200) for name, (measure, _) in PARTS.items()}
    sections = [f"### {name.capitalize()}\n\n{PARTS[name][1](found)}" for name, found in result.items()]
    text = "\n\n".join(["## Space: drawing candidates", *sections])
    write("space", {"quick": quick, **result}, text)
    print(text)


if __name__ == "__main__":
    main()
