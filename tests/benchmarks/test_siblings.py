"""The benchmark of siblings: what was measured on one device stays when another is measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import siblings

ROW = {"dtype": "float32", "batch": 2, "speed": {"value": 1.5, "low": 1.4, "high": 1.6}, "gains": [1.25, 2.0]}
GPU = {"name": "a GPU", "turns": 2, "rows": [ROW], "environment": {}}


def test_devices_stand_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: dict[str, Any] = {}
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "siblings.json").write_text(json.dumps({"devices": {"cuda": GPU}}))
    monkeypatch.setattr(siblings, "FOLDER", tmp_path)
    monkeypatch.setattr(siblings, "measure", lambda *_: ROW)
    monkeypatch.setattr(siblings, "write", lambda _name, result, text: written.update(result, text=text))
    monkeypatch.setattr("sys.argv", ["siblings"])
    siblings.main()
    assert written["devices"]["cuda"] == GPU
    assert "| a GPU | 2 | float32 | 2 | 1.5 [1.4, 1.6] | 1.25 to 2.00 |" in written["text"]
    assert written["text"].count("| CPU, one thread | 3 |") == len(siblings.SETTINGS["cpu"])
