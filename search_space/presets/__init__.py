"""Ready-made spaces, one file each: `PRESET` is what a user would write under `space:` in a study file."""

from __future__ import annotations

from typing import Any

from search_space.registry import method as method_of


def part(method: str, **settings: Any) -> dict[str, Any]:
    """Return a part of a hybrid with its method's default learning rate: the published spaces do not search it."""
    return {"method": method, "learning_rate": method_of(method).learning_rate.default, **settings}
