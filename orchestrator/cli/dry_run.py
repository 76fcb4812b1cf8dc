"""`paretune run --dry-run`: the size of the space, sampled candidates with their costs, and what the budgets reject."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from rich.text import Text

from orchestrator.cli.output import cell, console, print_json, table
from orchestrator.home import Home
from orchestrator.preparation import Prepared, prepare
from orchestrator.screening import foreseen
from orchestrator.spec import StudySpec
from search_space.budgets import violations
from search_space.errors import PlacementError, UnsupportedError
from search_space.knobs import RandomChooser
from search_space.notation import write, write_parts
from search_space.quantities import format_bytes, format_count

_SAMPLES = 40
_SHOWN = 12


def show_estimate(spec: StudySpec, json: bool) -> None:
    """Print what a study would search and what it would cost, without training anything."""
    with tempfile.TemporaryDirectory() as folder:
        data = estimate(spec, prepare(spec, Path(folder), tables=Home().tables()))
    if json:
        print_json(data)
        return
    about = (
        f": {data['space_size']:,} architectures in {data['compositions']} compositions, "
        f"learning rates apart; {data['steps']} steps of full training; "
        f"backbone {format_count(data['backbone_parameters'])} parameters"
    )
    console.print(Text.assemble((spec.name, "bold"), about))
    rows = [_row(one) for one in data["candidates"][:_SHOWN]]
    console.print(table(["candidate", "params", "share", "head", "memory", "budgets"], rows, right=(1, 2, 3, 4)))
    rejected = sum(bool(one["rejected"]) for one in data["candidates"])
    limits = ", ".join(f"{name} ≤ {cell(name, value)}" for name, value in data["limits"].items()) or "none"
    console.print(
        f"limits: {limits}. Of {len(data['candidates'])} random candidates {rejected} would be rejected untrained."
    )


def estimate(spec: StudySpec, prepared: Prepared) -> dict[str, Any]:
    """Return the size of the space and sampled candidates with exact counts and predicted memory."""
    chooser = RandomChooser(spec.search.seed)
    drawn = [prepared.space.usual(), *(prepared.space.draw(chooser) for _ in range(_SAMPLES - 1))]
    return {
        "study": spec.name,
        "space_size": prepared.space.size,
        "compositions": len(prepared.space.compositions),
        "steps": prepared.evaluator.steps,
        "backbone_parameters": prepared.coster.parameters,
        "limits": prepared.limits,
        "candidates": [_costed(spec, prepared, one) for one in drawn],
    }


def _costed(spec: StudySpec, prepared: Prepared, candidate: Any) -> dict[str, Any]:
    about = {"notation": write(candidate), "parts": write_parts(candidate)}
    try:
        cost = prepared.cost(candidate, spec.budgets.memory_factor)
    except (UnsupportedError, PlacementError) as error:
        return {**about, "cost": {}, "share": None, "rejected": [str(error)]}
    excess = violations(prepared.limits, foreseen(cost, spec.budgets.memory_factor))
    over = [name for name, one in excess.items() if one > 0]
    share = cost.trainable_params / prepared.coster.parameters
    return {**about, "cost": cost.to_json(), "share": share, "rejected": over}


def _row(one: dict[str, Any]) -> list[str | Text]:
    cost = one["cost"]
    if not cost:
        return [one["parts"], "", "", "", "", Text(one["rejected"][0], "red")]
    memory = format_bytes(cost["peak_memory_bytes"]) if "peak_memory_bytes" in cost else "–"
    over = ", ".join(one["rejected"])
    verdict = Text(f"over {over}", "red") if over else Text("within", "green")
    counts = [format_count(cost["trainable_params"]), f"{one['share']:.3%}", format_count(cost["head_params"])]
    return [one["parts"], *counts, memory, verdict]
