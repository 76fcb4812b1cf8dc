"""Budgets of energy: refused without a meter and where trials share one; otherwise a limit like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evaluators import energy
from orchestrator.preparation import prepare
from orchestrator.spec import StudySpec, parse
from search_space.errors import SpecError, UnsupportedError

ONE = {"concurrency": 1}


def spec(**given: Any) -> StudySpec:
    data = {"name": "joules", "model": "builtin:minilm-l6", "task": "builtin:trec", "resources": ONE, **given}
    return parse({**data, "model": {"name": "builtin:minilm-l6", "device": "cpu"}})


@pytest.mark.parametrize("given", [{"budgets": {"energy": "20kJ"}}, {"objectives": [{"minimize": "training_joules"}]}])
def test_without_a_meter_a_study_about_energy_is_refused(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "objectives" in given:
        given["objectives"] = [{"maximize": "accuracy"}, *given["objectives"]]
    monkeypatch.setattr(energy.RaplMeter.__init__, "__defaults__", (tmp_path,))
    monkeypatch.setattr(energy.open_meter, "__defaults__", (tmp_path,))
    with pytest.raises(UnsupportedError, match=r"no energy counter .*; take budgets.energy and training_joules out"):
        prepare(spec(**given), tmp_path)


def test_a_meter_is_not_shared() -> None:
    with pytest.raises(SpecError, match="counts the whole device: a study about energy needs `concurrency: 1`"):
        spec(budgets={"energy": 500}, resources={})


def test_the_limit_is_in_joules() -> None:
    assert spec(budgets={"energy": "2Wh"}).budgets.limits(1) == {"training_joules": 7200.0}
    with pytest.raises(SpecError, match="expected an energy such as 500J, 20kJ or 2Wh"):
        spec(budgets={"energy": "5 apples"})
