"""The start-up guard: the five import packages must be Paretune's own, and nobody else's."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable

from search_space.errors import InstallationError

PACKAGES = ("search_space", "evaluators", "calibration", "orchestrator", "dashboards")


def guard(distributions: Iterable[importlib.metadata.Distribution] | None = None) -> None:
    """Refuse to run when another distribution has put files into one of Paretune's packages.

    Raises:
        InstallationError: Names the distribution, the file and what to do.
    """
    for one in importlib.metadata.distributions() if distributions is None else distributions:
        if (one.name or "").lower() == "paretune" or not _top_level(one):
            continue
        for file in one.files or ():
            if file.parts and file.parts[0] in PACKAGES:
                raise InstallationError(
                    f"{one.name} {one.version} has put {file} into a package of Paretune's; the two cannot share an "
                    f"environment. Uninstall it (`pip uninstall {one.name}`) or install Paretune into one of its own"
                )


def _top_level(one: importlib.metadata.Distribution) -> bool:
    """Whether a distribution names one of our packages, or does not say what it holds: then its files are looked at."""
    text = one.read_text("top_level.txt")
    return text is None or bool(set(text.split()) & set(PACKAGES))
