"""What can be searched, written for people: `python -m search_space.reference` writes `docs/method-reference.md`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from search_space.capability import can, why_not
from search_space.files import atomic_write
from search_space.hybrids import NAMED
from search_space.knobs import Knob
from search_space.registry import Method, methods
from search_space.unsupported import UNSUPPORTED

PAGE = Path(__file__).resolve().parent.parent / "docs" / "method-reference.md"
FAMILY_NAMES = {"bert": "BERT", "llama": "Llama", "gpt2": "GPT-2"}

_HEAD = """# Method reference

Every [method](methods.md) that a study can search, with its knobs, its learning rates and its paper. It is written by
`python -m search_space.reference` from the registry and from the table of what was tried on tiny models (`python -m
evaluators.capabilities`); a test keeps it true. `paretune methods NAME` prints one of them.

*trains on*: families of models on which it was attached, trained, counted from shapes and reloaded to equal outputs.
*merges on*: families on which the merged model's outputs were equal.
"""


def page() -> str:
    """Return the page of all methods, in Markdown."""
    known = methods().values()
    lines = [_HEAD, "| method | family | knobs | trains on | merges on |", "| --- | --- | --- | --- | --- |"]
    for one in known:
        knobs = ", ".join(f"`{knob.name}`" for knob in one.knobs) or "none"
        lines.append(f"| [{one.name}](#{one.name}) | {one.family} | {knobs} | {trains_on(one)} | {merges_on(one)} |")
    for one in known:
        lines += ["", *_section(one)]
    lines += ["", "## Hybrids that have names", "", "| name | parts |", "| --- | --- |"]
    lines += [f"| `{name}` | `{text}` |" for name, text in NAMED.items()]
    lines += ["", "## Types of peft that cannot be searched", "", "| type | why |", "| --- | --- |"]
    lines += [f"| `{name}` | {reason} |" for name, reason in UNSUPPORTED.items()]
    return "\n".join(lines) + "\n"


def trains_on(one: Method) -> str:
    """Return the families on which everything that training needs was found to work."""
    if one.route in ("head", "full"):
        return "all"
    needed = ("attaches", "trains", "counts", "reloads")
    families = [name for name in can(one.name, "attaches") if not any(why_not(one.name, c, name) for c in needed)]
    return _families(families)


def merges_on(one: Method) -> str:
    """Return the families on which a method merges."""
    return "all" if one.route in ("head", "full") else _families(can(one.name, "merges"))


def knob_values(knob: Knob) -> str:
    """Return what a knob may be, its default, and whether other sizes may be given."""
    values = ", ".join(_word(value) for value in knob.values)
    wider = f"; any whole number from {knob.low} may be given" if knob.low is not None else ""
    return f"{values} (default {_word(knob.default)}{wider})"


def _section(one: Method) -> Iterator[str]:
    yield f"## {one.name}"
    yield ""
    yield f"{one.title}. {one.summary} {one.paper}."
    yield ""
    rates = one.learning_rate
    yield f"- learning rate: {rates.low:g} to {rates.high:g}, default {rates.default:g}"
    yield f"- placement: {_placement(one)}"
    for knob in one.knobs:
        yield f"- `{knob.name}`: {knob.text}. {knob_values(knob)}"


def _placement(one: Method) -> str:
    if one.placement.fixed:
        return "its own place" + (", in chosen layers" if one.placement.layers else ", in all layers")
    options = ", ".join(f"`{text}`" for text in one.placement.projections)
    return f"{options}; default `{one.placement.default}`; wraps {', '.join(one.placement.kinds)}"


def _families(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(FAMILY_NAMES.get(name, name) for name in names) or "none"


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def main() -> None:
    """Write the page."""
    atomic_write(PAGE, page())


if __name__ == "__main__":
    main()
