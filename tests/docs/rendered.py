"""The parts of the pages that come from the registry: `python -m tests.docs.rendered` writes them anew.

A rendered part stands between `<!-- rendered: NAME -->` and `<!-- /rendered -->`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

from search_space.forms import FORMS
from search_space.reference import converts, own_knobs, quantised
from search_space.registry import Family, Method, methods

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "ARCHITECTURE.md", "docs/methods.md")
_PART = re.compile(r"(<!-- rendered: ([\w ]+) -->\n).*?(<!-- /rendered -->)", re.DOTALL)


def families() -> str:
    """Return the methods of each family."""
    rows = [[family, ", ".join(f"`{one.name}`" for one in _of(family))] for family in get_args(Family) if _of(family)]
    return _table(["family", "methods"], rows)


def files() -> str:
    """Return the file of each method."""
    rows = [[f"`{one.config.__module__.rpartition('.')[2]}.py`", one.title] for one in methods().values()]
    return _table(["file", "what it is"], rows)


def knobs() -> str:
    """Return what can be set on each method."""
    heads = ["method", "family", "knobs", "placed by", "learning rate", "merges", "to LoRA", "quantised", "title"]
    heads.append("paper")
    return _table(heads, [_knob_row(one) for one in methods().values()])


def forms() -> str:
    """Return the names that people know for one setting of a method."""
    return _table(["form", "what it is"], [[f"`{name}`", f"`{text}`"] for name, text in FORMS.items()])


RENDERERS: dict[str, Callable[[], str]] = {"families": families, "files": files, "forms": forms, "knobs": knobs}


def rendered(page: str) -> str:
    """Return a page's text with its rendered parts made anew."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return _PART.sub(lambda part: f"{part[1]}{RENDERERS[part[2]]()}{part[3]}", text)


def _of(family: str) -> list[Method]:
    return [one for one in methods().values() if one.family == family and one.route not in ("head", "full")]


def _knob_row(one: Method) -> list[str]:
    chosen = ["projections"] * (not one.placement.fixed) + ["layers"] * one.placement.layers
    rates = f"{_number(one.learning_rate.low)} to {_number(one.learning_rate.high)}"
    merges = "yes" if one.merges else "no"
    where = " and ".join(chosen) or "its own place"
    works = [merges, converts(one), quantised(one)]
    return [f"`{one.name}`", one.family, own_knobs(one), where, rates, *works, one.title, one.paper]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return (
        "".join(f"| {' | '.join(cells)} |\n" for cells in lines).replace("| --- |", "|---|").replace(" --- |", "---|")
    )


def _number(value: float) -> str:
    mantissa, exponent = f"{value:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def main() -> None:
    for page in PAGES:
        text = rendered(page)
        (ROOT / page).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
