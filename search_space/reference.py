"""What can be searched, written for people: `python -m search_space.reference` writes `docs/method-reference.md`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from search_space.capability import (
    can,
    conversion_error,
    refused_settings,
    trains_quantised,
    tried_on,
    why_not,
    why_not_per_task,
)
from search_space.files import atomic_write
from search_space.hybrids import NAMED
from search_space.knobs import Knob
from search_space.registry import PER_TASK, Method, methods
from search_space.unsupported import UNSUPPORTED

PAGE = Path(__file__).resolve().parent.parent / "docs" / "method-reference.md"
_EXACT, _USABLE = 1e-3, 0.5
_FEW = 6

_HEAD = """# Method reference

Every [method](methods.md) that a study can search, with its knobs, its learning rates and its paper. It is written by
`python -m search_space.reference` from the registry and from the table of what was tried on tiny models (`python -m
evaluators.capabilities`); a test keeps it true. `paretune methods NAME` prints one of them.

*trains on*: architectures on which it was attached, trained, counted from shapes and reloaded to equal outputs.
*merges on*: architectures on which the merged model's outputs were equal. *to LoRA*: whether a trained one can be made
a plain LoRA of rank 32, and what share of its effect on a tiny model's logits that got wrong; servers that know LoRA
alone can then serve it. *quantised*: the kinds of `model.quantization` on which it was trained and reloaded. *tasks*:
what it does where a study has several tasks.
"""


def page() -> str:
    """Return the page of all methods, in Markdown."""
    known = methods().values()
    heads = ["method", "family", "knobs", "trains on", "merges on", "to LoRA", "quantised"]
    lines = [_HEAD, f"| {' | '.join(heads)} |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for one in known:
        cells = [f"[{one.name}](#{one.name})", one.family, own_knobs(one)]
        cells += [trains_on(one), merges_on(one), converts(one), quantised(one)]
        lines.append(f"| {' | '.join(cells)} |")
    for one in known:
        lines += ["", *_section(one)]
    lines += ["", "## Hybrids that have names", "", "| name | parts |", "| --- | --- |"]
    lines += [f"| `{name}` | `{text}` |" for name, text in NAMED.items()]
    lines += ["", "## Types of peft that cannot be searched", "", "| type | why |", "| --- | --- |"]
    lines += [f"| `{name}` | {reason} |" for name, reason in UNSUPPORTED.items()]
    return "\n".join(lines) + "\n"


def own_knobs(one: Method) -> str:
    """Return the names of a method's knobs, without the one that most methods have."""
    return ", ".join(f"`{knob.name}`" for knob in one.knobs if knob is not PER_TASK) or "none"


def trains_on(one: Method) -> str:
    """Return the architectures on which everything that training needs was found to work."""
    if one.route in ("head", "full"):
        return "all"
    needed = ("attaches", "trains", "counts", "reloads")
    if one.quantised_only:
        return "quantised weights"
    return _among([name for name in can(one.name, "attaches") if not any(why_not(one.name, c, name) for c in needed)])


def merges_on(one: Method) -> str:
    """Return the architectures on which a method merges."""
    return "all" if one.route in ("head", "full") else _among(can(one.name, "merges"))


def converts(one: Method) -> str:
    """Return whether a trained method can be turned into a plain LoRA, and what is lost."""
    error = conversion_error(one.name)
    if one.quantised_only:
        return "it is one"
    if error is None or error > _USABLE:
        return "no"
    return "exactly" if error < _EXACT else f"{error:.1%} off"


def quantised(one: Method) -> str:
    """Return the kinds of quantised weights on which a method can be trained, where, and with what it cannot."""
    on_cpu, on_cuda = (trains_quantised(one.name, device) for device in ("cpu", "cuda"))
    both = [_kind_of_weights(one, kind) for kind in on_cpu if kind in on_cuda]
    alone = [f"{_kind_of_weights(one, kind)} (CPU)" for kind in on_cpu if kind not in on_cuda]
    return ", ".join([*both, *alone, *(f"{kind} (CUDA)" for kind in on_cuda if kind not in on_cpu)]) or "no"


def _kind_of_weights(one: Method, kind: str) -> str:
    refused = refused_settings(one.name, kind)
    return f"{kind} (not with {' or '.join(refused)})" if refused else kind


def tasks(one: Method) -> str:
    """Return what a method can do with several tasks."""
    if one.several_tasks:
        return "for studies of several, which it tells apart itself"
    if PER_TASK not in one.knobs:
        return "one for all"
    reason = why_not_per_task(one.name)
    return f"one for all ({reason})" if reason else "one for all, or with `per_task=true` one for each"


def knob_values(knob: Knob) -> str:
    """Return what a knob may be, its default, and which sizes may be given beside."""
    values = ", ".join(_word(value) for value in knob.values)
    wider = f"; {knob.wider} may be given" if knob.wider else ""
    shared = "" if knob.per_layer else "; one for all layers"
    return f"{values} (default {_word(knob.default)}{wider}{shared})"


def _section(one: Method) -> Iterator[str]:
    yield f"## {one.name}"
    yield ""
    yield f"{one.title}. {one.summary} {one.paper}."
    yield ""
    rates = one.learning_rate
    yield f"- learning rate: {rates.low:g} to {rates.high:g}, default {rates.default:g}"
    yield f"- placement: {_placement(one)}"
    for knob in one.knobs:
        if knob is not PER_TASK:
            yield f"- `{knob.name}`: {knob.text}. {knob_values(knob)}"
    if one.route not in ("head", "full"):
        yield f"- tasks: {tasks(one)}"


def _placement(one: Method) -> str:
    if one.placement.fixed:
        return "its own place" + (", in chosen layers" if one.placement.layers else ", in all layers")
    options = ", ".join(f"`{text}`" for text in one.placement.projections)
    return f"{options}; default `{one.placement.default}`; wraps {', '.join(one.placement.kinds)}"


def _among(names: Sequence[str]) -> str:
    """Return architectures as text: by those that are missing where these are fewer."""
    missing = [name for name in tried_on() if name not in names]
    if not missing:
        return "all"
    if len(missing) <= _FEW:
        return f"all but {', '.join(missing)}"
    return ", ".join(sorted(names)) or "none"


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def main() -> None:
    """Write the page."""
    atomic_write(PAGE, page())


if __name__ == "__main__":
    main()
