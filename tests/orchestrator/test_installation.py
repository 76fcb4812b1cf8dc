"""The start-up guard: another distribution's files in our packages are refused, by name."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from orchestrator.installation import PACKAGES, guard
from search_space.errors import InstallationError


def installed(
    folder: Path, name: str, files: list[str], top_level: str | None = None
) -> importlib.metadata.Distribution:
    """Write the metadata of a distribution as pip leaves it."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    if top_level is not None:
        (info / "top_level.txt").write_text(top_level)
    return importlib.metadata.Distribution.at(info)


def test_this_installation_is_its_own() -> None:
    guard()


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("top_level", [None, "{package}\nother\n"])
def test_another_distributions_file_is_refused(tmp_path: Path, package: str, top_level: str | None) -> None:
    said = top_level and top_level.format(package=package)
    other = installed(tmp_path, "squatter", ["squatter/__init__.py", f"{package}/extra.py"], said)
    with pytest.raises(
        InstallationError, match=rf"squatter 1\.0 has put {package}/extra\.py into a package of Paretune's"
    ) as refused:
        guard([other])
    assert "pip uninstall squatter" in str(refused.value)


def test_distributions_beside_it_are_none_of_its_business(tmp_path: Path) -> None:
    guard(
        [
            installed(tmp_path, "paretune", ["search_space/__init__.py"]),
            installed(tmp_path, "neighbour", ["neighbour/__init__.py", "neighbour/calibration/__init__.py"]),
            installed(tmp_path, "packaged", ["packaged/x.py"], "packaged\n"),
        ]
    )


def test_a_file_without_metadata_is_no_distribution(tmp_path: Path) -> None:
    (tmp_path / "broken-1.0.dist-info").mkdir()
    guard([importlib.metadata.Distribution.at(tmp_path / "broken-1.0.dist-info")])
