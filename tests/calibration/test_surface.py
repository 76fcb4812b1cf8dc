"""The package's surface: what is public, what it imports, how its files look."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
import types
from pathlib import Path

import pytest

import calibration
from calibration import errors

FOLDER = Path(calibration.__file__).parent
FOREIGN = ("torch", "sklearn", "pydantic", "matplotlib", "plotly", "scipy", "pandas", "search_space", "evaluators")


def test_all_is_what_is_public_and_imported() -> None:
    submodules = {path.stem for path in FOLDER.glob("*.py")}
    public = {
        name
        for name, value in vars(calibration).items()
        if not name.startswith("_") and not (isinstance(value, types.ModuleType) and name in submodules)
    }
    exported_modules = {
        name for name in calibration.__all__ if isinstance(getattr(calibration, name), types.ModuleType)
    }
    assert public | exported_modules == set(calibration.__all__)
    assert calibration.__all__ == sorted(calibration.__all__)


def test_modules_are_not_hidden_by_functions_of_their_name() -> None:
    for name in ("ece", "floor", "report", "temperature", "bootstrap", "conformal"):
        assert isinstance(getattr(calibration, name), types.ModuleType)


def test_importing_needs_numpy_alone() -> None:
    code = f"import sys, calibration; print([name for name in {FOREIGN!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=FOLDER.parent)
    assert found.stdout.strip() == "[]"


def test_every_error_is_in_the_tree_drawn_on_top() -> None:
    classes = [value for _, value in inspect.getmembers(errors, inspect.isclass)]
    assert all(issubclass(one, calibration.CalibrationError) for one in classes)
    assert issubclass(calibration.CalibrationError, ValueError)
    assert all(one.__name__ in (errors.__doc__ or "") for one in classes)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_files_are_short_and_assert_nothing_of_users(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") < 400
    assert not any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(text)))
