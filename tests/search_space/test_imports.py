"""The pure folders import fast, and without the engines."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROBE = """
import importlib, json, pkgutil, sys, time
started = time.process_time()
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(package.__path__, f"{sys.argv[1]}."):
    importlib.import_module(module.name)
print(json.dumps({"seconds": time.process_time() - started, "modules": sorted(sys.modules)}))
"""
ENGINES = {
    "torch",
    "transformers",
    "peft",
    "datasets",
    "ray",
    "optuna",
    "mlflow",
    "fastapi",
    "sqlalchemy",
    "matplotlib",
    "plotly",
}


def imported(package: str) -> tuple[float, set[str]]:
    """Return the seconds that every module of a package takes in a fresh process, and what came with it."""
    runs = []
    for _ in range(2):  # the first may have to read everything from disk
        told = subprocess.run([sys.executable, "-c", PROBE, package], capture_output=True, text=True, check=True)
        runs.append(json.loads(told.stdout))
    return min(run["seconds"] for run in runs), set(runs[0]["modules"])


@pytest.mark.parametrize(
    ("package", "others"), [("search_space", {"numpy", "scipy", "calibration"}), ("calibration", {"search_space"})]
)
def test_a_pure_package_imports_without_engines_within_a_second(package: str, others: set[str]) -> None:
    seconds, modules = imported(package)
    assert not modules & (ENGINES | others | {"evaluators", "orchestrator", "dashboards"})
    assert seconds < 1.0
