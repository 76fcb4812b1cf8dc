"""The front as a table and as data."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.figures.interactive import pareto_html
from orchestrator.figures.picture import pareto_png
from orchestrator.front import Front

if TYPE_CHECKING:
    from orchestrator.trial import Trial

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def pareto_json(front: Front) -> str:
    """Return the front as JSON text."""
    return json.dumps(front.to_json(), indent=2, allow_nan=False) + "\n"


def pareto_csv(front: Front) -> str:
    """Return the members of the front and its neighbours as CSV (RFC 4180), one a row.

    Text that a spreadsheet would run as a formula is put behind an apostrophe.
    """
    return _csv(front.rows(), "number")


def predictors_csv(front: Front) -> str:
    """Return what predicts better than one candidate, as CSV, one a row."""
    rows = []
    for one in front.predictors:
        row = {"name": one["name"], "kind": one["kind"], "passes": one["passes"], **one["costs"]}
        for split in ("validation", "test"):
            row |= {f"{split}_{name}": value for name, value in one[split].items()}
        for method, found in one["conformal"].items():
            row |= {f"{method}_{name}": found and found[name] for name in ("coverage", "promised", "mean_size")}
        rows.append(row)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return _csv([{name: row.get(name) for name in names} for row in rows], "name")


def subgroups_csv(front: Front) -> str:
    """Return how each predictor is calibrated on each subgroup of test, as CSV, one subgroup of one predictor a row."""
    rows = [
        {"predictor": one["name"], "subgroup": score["name"], "temperature": found["temperatures"].get(score["name"])}
        | {name: value for name, value in score.items() if name != "name"}
        | {"worst": score["name"] == found["worst"]}
        for one in front.predictors
        if (found := one.get("subgroups"))
        for score in found["scores"]
    ]
    return _csv(rows, "predictor")


def _csv(rows: Sequence[Mapping[str, Any]], least: str) -> str:
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(rows[0] if rows else [least])
    table.writerows([_cell(value) for value in row.values()] for row in rows)
    return text.getvalue()


def pareto_files(front: Front, trials: Sequence[Trial], references: Sequence[Trial] = ()) -> dict[str, bytes]:
    """Return everything that shows a front, by file name."""
    data = front.to_json()
    of_subgroups = {"subgroups.csv": subgroups_csv(front).encode()} if _has_subgroups(front) else {}
    return {
        **of_subgroups,
        "pareto.json": pareto_json(front).encode(),
        "pareto.csv": pareto_csv(front).encode(),
        "predictors.csv": predictors_csv(front).encode(),
        "pareto.html": pareto_html(data, trials, references).encode(),
        "pareto.png": pareto_png(data, trials, references),
    }


def _has_subgroups(front: Front) -> bool:
    return any(one.get("subgroups") for one in front.predictors)


def _cell(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value
