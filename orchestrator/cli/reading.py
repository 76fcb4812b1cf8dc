"""`paretune ls`, `show` and `pareto`: reading what the storage holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Annotated, Any

import typer
from rich.text import Text

from evaluators.score import BINNED
from orchestrator.cli.output import Json, StudyName, cell, command, console, known, print_json, short, table
from orchestrator.front import Front, front_of_study
from orchestrator.home import Home
from orchestrator.member import FIRM
from orchestrator.storage import Storage, StudyStore
from orchestrator.trial import Trial
from search_space.notation import write, write_parts

_WIDTH, _BINNED_WIDTH, _OTHERS_WIDTH = 9, 17, 44
"""Characters of a metric's column, of one with its floor, and least of the columns beside them."""
_EXTRA = ("ece", "calibrated_ece", "peak_memory_bytes", "calibrated_nll", "latency_ms")


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("ls")(list_studies)
    app.command()(show)
    app.command()(pareto)


def list_studies(json: Json = False) -> None:
    """List the studies in the storage."""
    home = Home().create()
    storage = Storage(home.storage_url)
    stores = [storage.open(name) for name in storage.names()]
    data = [_summary(store, home) for store in stores]
    if json:
        print_json(data)
        return
    if not data:
        console.print(Text.assemble("No studies yet. Start one with: ", (f"{command()} run STUDY_FILE", "bold")))
        return
    states = [state for state in _STATES if any(one["trials"][state] for one in data)]
    rows = [
        [one["name"], one["status"], *(str(one["trials"][state]) for state in states), one["objectives"]]
        for one in data
    ]
    console.print(table(["study", "status", *states, "objectives"], rows, right=range(2, 2 + len(states))))


_STATES = ("complete", "partial", "infeasible", "failed", "paused", "running")


def _summary(store: StudyStore, home: Home) -> dict[str, Any]:
    states: list[str] = [one.state for one in store.trials()]
    status = store.noted("status") or "created"
    if status == "running" and not home.is_driven(store.name):
        status = "interrupted"
    objectives = ", ".join(f"{one.direction} {one.metric}" for one in store.spec.objectives)
    counts = {state: states.count(state) for state in _STATES}
    return {"name": store.name, "status": status, "trials": counts, "objectives": objectives}


def show(
    study: StudyName,
    trial: Annotated[int | None, typer.Option(help="Show one trial of the search.")] = None,
    json: Json = False,
) -> None:
    """Show a study's trials, or everything about one of them."""
    home = Home().create()
    store = Storage(home.storage_url).open(study)
    if trial is not None:
        one = store.trial("search", trial)
        if json:
            print_json(_trial_data(one))
        else:
            _show_trial(one)
        return
    trials = [*store.trials("references"), *store.trials(), *store.trials("finalists")]
    if json:
        print_json(
            {**_summary(store, home), "spec": store.spec.to_json(), "rows": [_trial_data(one) for one in trials]}
        )
        return
    metrics = _measured(store, trials)
    heads = ["trial", "candidate", "steps", *(_head(metric) for metric in metrics), "state"]
    rows = [_trial_row(one, metrics) for one in trials if one.state != "infeasible"]
    console.print(table(heads, rows, right=range(2, len(heads) - 1)))
    rejected = sum(one.state == "infeasible" for one in trials)
    console.print(
        f"{rejected} candidates were rejected untrained; `{command()} show {study} --trial N` tells all about one."
    )


def pareto(study: StudyName, json: Json = False) -> None:
    """Print the Pareto front of a study, its finalists and the recommended pick."""
    home = Home().create()
    store = Storage(home.storage_url).open(study)
    front = front_of_study(store)
    if json:
        print_json(front_data(store, front, home))
    else:
        show_front(store, front, home)
        for line in _trust(front):
            console.print(line)


def front_data(store: StudyStore, front: Front, home: Home) -> dict[str, Any]:
    """Return the front and where its files are."""
    return {**front.to_json(), "status": store.noted("status"), "files": str(home.study(store.name) / "front")}


def show_front(store: StudyStore, front: Front, home: Home) -> None:
    """Print the front as a table, below it what was trained again beside it, the references, the pick, what is next."""
    members = [one.trial for one in front.members]
    if not members:
        console.print("No candidate has been trained to the end within the budgets yet.")
        return
    again = [one.trial for one in front.neighbours]
    metrics = _measured(store, [*members, *again])
    console.print(
        table(*_front_rows(front, metrics), title=f"Pareto front of {store.name}", right=range(2, 4 + len(metrics)))
    )
    if again:
        console.print("* dominated by what the search measured; trained again, as the front was")
    _show_references(store, metrics)
    if front.pick is not None:
        pick = (f"Pick: trial {front.pick.number}", "bold green")
        console.print(Text.assemble("\n", pick, f" — {front.pick.reason}"))
    folder = home.study(store.name) / "front"
    if folder.exists():
        console.print(f"Picture: {folder / 'pareto.png'}  (interactive: {folder / 'pareto.html'})", soft_wrap=True)
    export = f"{command()} export {store.name} --to ./{store.name}-pick"
    console.print(Text.assemble("Next:    ", (export, "bold")))
    console.print(Text.assemble("Browse:  ", (f"{command()} serve", "bold"), "  then http://127.0.0.1:5000/paretune/"))


def _front_rows(front: Front, metrics: list[str]) -> tuple[list[str], list[list[str]]]:
    heads = ["trial", "candidate", *(_head(metric) for metric in metrics), "test", "firm"]
    rows = []
    beside = {one.number for one in front.neighbours}
    for one in (*front.members, *front.neighbours):
        values = one.trial.score.values if one.trial.score else None
        test = one.test.get("accuracy")
        shown = (
            "–"
            if test is None
            else f"{test.mean:.3f}" + (f" ± {test.high - test.mean:.3f}" if test.high is not None else "")
        )
        mark = "➤" if front.pick is not None and front.pick.number == one.number else ""
        firm = "–" if one.firm is None else f"{one.firm:.2f}"
        cells = [_beside_floor(metric, values) for metric in metrics]
        star = "*" if one.number in beside else ""
        rows.append([f"{mark}{one.number}{star}", write_parts(one.trial.candidate), *cells, shown, firm])
    return heads, rows


def _trust(front: Front) -> Iterator[str]:
    """Yield what else could be picked, and how far what the search says can be trusted."""
    for name, choice in front.pick.alternatives.items() if front.pick else ():
        where = "none" if choice.number is None else f"trial {choice.number}"
        yield f"{name.replace('_', ' ').capitalize()}: {where} — {choice.reason}"
    if front.confirmed_hypervolume is not None:
        value, low, high = front.confirmed_hypervolume
        whole = "" if front.hypervolume is None else f"{front.hypervolume:.4f} in the search; "
        searched = "" if front.searched_hypervolume is None else f"{front.searched_hypervolume:.4f} there and "
        means = f"{value:.4f} [{low:.4f}, {high:.4f}] at its means"
        yield f"Hypervolume: {whole}of what was trained again {searched}{means}"
    again = [one for one in (*front.members, *front.neighbours) if one.firm is not None]
    if again:
        firm = ", ".join(str(one.number) for one in again if one.is_firm) or "none"
        yield f"Firm (non-dominated with a probability of at least {FIRM:g}): {firm} of {len(again)} trained again"
    flattered = [one.optimism for one in (*front.members, *front.neighbours) if one.optimism]
    for objective in front.objectives:
        found = [one[objective.metric] for one in flattered if objective.metric in one]
        if found:
            mean = sum(found) / len(found)
            yield f"Optimism: {objective.metric} {mean:+.4f} (search less test, mean of {len(found)} trained again)"


def _show_references(store: StudyStore, metrics: list[str]) -> None:
    trials = list({one.origin: one for one in store.trials("references")}.values())  # of each row its last try
    if trials:
        heads = ["reference", "", *(_head(metric) for metric in metrics), "state"]
        rows = [[one.origin, *_trial_row(one, metrics)[1:2], *_trial_row(one, metrics)[3:]] for one in trials]
        console.print()
        console.print(table(heads, rows, right=range(2, 2 + len(metrics))))


def _metrics(store: StudyStore) -> list[str]:
    return list(dict.fromkeys([*(one.metric for one in store.spec.objectives), *_EXTRA]))


def _measured(store: StudyStore, trials: list[Trial]) -> list[str]:
    """Return the metrics that have a value for some trial, as many as the terminal has room for."""
    found = [name for name in _metrics(store) if any(one.score and name in one.score.values for one in trials)]
    taken = list(accumulate(_BINNED_WIDTH if name in BINNED else _WIDTH for name in found))
    return [name for at, name in enumerate(found) if at < 2 or taken[at] <= console.width - _OTHERS_WIDTH]


def _head(metric: str) -> str:
    return f"{short(metric)} (floor)" if metric in BINNED else short(metric)


def _beside_floor(metric: str, values: Mapping[str, float] | None) -> str:
    """Write a metric's value, with the floor of a calibration error where it was measured."""
    floor = known(values, f"{metric}_floor") if metric in BINNED else None
    return cell(metric, known(values, metric)) + ("" if floor is None else f" ({floor:.3f})")


def _trial_row(one: Trial, metrics: list[str]) -> list[str]:
    values = one.score.values if one.score else None
    label = str(one.number) if one.phase == "search" else f"{one.phase[:-1]} {one.origin}"
    state = f"{one.state} ({one.cause})" if one.cause else one.state
    return [label, write_parts(one.candidate), str(one.steps), *(_beside_floor(m, values) for m in metrics), state]


def _show_trial(one: Trial) -> None:
    cause = f" ({one.cause})" if one.cause else ""
    console.print(Text.assemble((f"trial {one.number}", "bold"), f" {one.state}{cause}"))
    console.print(write(one.candidate), soft_wrap=True)
    if one.message:
        console.print(one.message, soft_wrap=True)
    names = list(dict.fromkeys(name for score in one.scores for name in score.values))
    rows = [[name, *(cell(name, known(score.values, name)) for score in one.scores)] for name in names]
    if rows:
        heads = ["metric", *(f"step {score.step}" for score in one.scores)]
        console.print(table(heads, rows, right=range(1, len(heads))))


def _trial_data(one: Trial) -> dict[str, Any]:
    return {
        "trial": one.key,
        "number": one.number,
        "notation": write(one.candidate),
        "candidate": one.candidate.to_json(),
        "sha256": one.candidate.sha256,
        "seed": one.seed,
        "state": one.state,
        "cause": one.cause,
        "message": one.message,
        "origin": one.origin,
        "cost": one.cost.to_json() if one.cost else None,
        "scores": [score.to_json() for score in one.scores],
        "test": one.test.to_json() if one.test else None,
    }
