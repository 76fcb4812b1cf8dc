"""The studies that the tables' candidates are drawn for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evaluators.anatomy import anatomy_of
from evaluators.backbone import build_on_meta, load_config
from evaluators.tabulated import Header
from orchestrator.spec import StudySpec, parse
from search_space.space import Space, bind

FOLDER = Path(__file__).parent
RUNGS = (21, 63, 189)
"""Training steps: at batch 16 the last is one pass over 3,024 examples; each is three times the one before."""

COUNTS = {"trec": 400, "movie": 150}
"""Candidates of the wide space, by task."""

OWN_COUNTS = {"trec": {"autopeft": 100}, "movie": {}}
"""Candidates of published spaces, by task and preset."""

_SPLITS: dict[str, dict[str, float]] = {
    "trec": {"train": 0.62, "validation": 0.13, "calibration": 0.1, "test": 0.15},
    "movie": {"train": 0.6, "validation": 0.12, "calibration": 0.08, "test": 0.2},
}


def spec_of(task: str, preset: str = "everything") -> StudySpec:
    """Return the study of a task: a preset, up to five per cent of the backbone.

    Args:
        task: `trec` or `movie`.
        preset: `everything` is the wide space: every method and every named hybrid.
    """
    return parse({**_spec(task), "space": {"preset": preset}}, f"table {task}")


def space_of(header: Header, origin: str = "wide") -> Space:
    """Return the space that a table's candidates of an origin were drawn from, bound to its model.

    The wide space is the one that the header tells, whatever methods came later.
    """
    given = dict(header.spec) if origin == "wide" else {**header.spec, "space": {"preset": origin}}
    spec = parse(given, "table")
    model = build_on_meta(load_config(spec.model, classes=2))
    return bind(spec.space, anatomy_of(model))


def table_path(task: str) -> Path:
    """Return the file of a task's table."""
    return FOLDER / f"{task}.jsonl"


def candidates_path(task: str) -> Path:
    """Return the file of the candidates that were drawn for a task."""
    return FOLDER / f"{task}.candidates.jsonl"


def _spec(task: str) -> dict[str, Any]:
    return {
        "name": f"table-{task}",
        "model": {"name": "builtin:minilm-l6", "dtype": "bfloat16", "attention": "eager"},
        "task": {"dataset": f"builtin:{task}", "splits": _SPLITS[task], "max_train": 3024, "max_evaluation": 1000},
        "budgets": {"trainable_params": "5%"},
        "training": {"steps": RUNGS[-1], "batch_size": 16},
    }
