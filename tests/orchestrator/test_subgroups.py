"""Subgroups in a study: an objective about them is refused where none has enough examples."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.preparation import prepare
from orchestrator.spec import parse
from search_space.errors import DataError
from tests.evaluators.tiny import questions_file, tiny_folder


def test_an_objective_that_could_never_be_measured_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    given = {
        "name": "tiny",
        "model": {"name": str(tiny_folder(tmp_path / "model", num_labels=3)), "device": "cpu", "dtype": "float32"},
        "task": {"dataset": questions_file(tmp_path), "length_bands": 2},
        "space": {"methods": {"lora": {"r": [2]}}},
        "objectives": [{"minimize": "worst_subgroup_nll"}],
        "training": {"steps": 4, "batch_size": 8, "max_length": 16},
    }
    with pytest.raises(DataError, match="needs 50 examples of validation in a subgroup, and there are"):
        prepare(parse(given), tmp_path / "home")
    prepare(parse(given | {"calibration": {"least_subgroup": 3}}), tmp_path / "home")
