"""`paretune methods`: what can be searched, and one method explained."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from orchestrator.cli.output import Json, command, console, print_json, table
from search_space import registry
from search_space.candidate import Part
from search_space.capability import (
    quantisations,
    trains_quantised,
    tried_on,
    why_not,
    why_not_per_task,
    why_not_quantised,
)
from search_space.errors import CandidateError, NotationError, did_you_mean
from search_space.forms import FORMS
from search_space.hybrids import NAMED, spelled_out
from search_space.knobs import Knob
from search_space.notation import parse, write_part
from search_space.reference import converts, knob_values, merges_on, quantised, tasks, trains_on
from search_space.registry import Method
from search_space.unsupported import UNSUPPORTED

_TASK = "text classification"
_LEGEND = (
    "merges: into the weights, on every architecture that was tried, on all but a few, or on some. "
    "to LoRA: what turning a trained one into a plain LoRA gets wrong. "
    "quantised: of int8, nf4 and torchao's int8 and int4 weights. "
    "tasks: one; with several, one adapter for all or for each; or made for several. "
    "Papers and knobs come with a name."
)


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(methods)


def methods(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A method, a form, a named hybrid, or notation; all in a table without it.", metavar="[NAME]"
        ),
    ] = None,
    json: Json = False,
) -> None:
    """List the methods that can be searched, or explain one: by its name, its form's, a hybrid's, or in notation."""
    if name is None:
        _list_all(json)
    elif name in registry.methods():
        print_json(_as_json(registry.method(name))) if json else _explain(registry.method(name))
    else:
        _explain_notation(name, json)


def _list_all(json: bool) -> None:
    known = registry.methods().values()
    if json:
        lists = {"forms": dict(FORMS), "hybrids": dict(NAMED), "unsupported": dict(UNSUPPORTED)}
        print_json({"methods": [_as_json(one) for one in known], **lists})
        return
    heads = ("method", "family", "merges", "to LoRA", "quantised", "tasks")
    rows = [[one.name, one.family, _merging(one), converts(one), _quantising(one), _sharing(one)] for one in known]
    console.print(table(heads, rows))
    console.print(f"\n{_LEGEND}")
    for what, said, pairs in ("form", "is", FORMS), ("hybrid", "parts", NAMED), ("not searched", "why", UNSUPPORTED):
        console.print()
        console.print(table((what, said), [list(pair) for pair in pairs.items()]))
    console.print(
        f"\nNext: {command()} methods lora, or a form, a hybrid or notation such as 'lora(use_dora=true) + ia3'"
    )


def _merging(one: Method) -> str:
    """Return whether a method merges, in a word."""
    where = merges_on(one)
    return {"all": "yes", "none": "no"}.get(where, "mostly" if where.startswith("all but") else "some")


def _quantising(one: Method) -> str:
    """Return on how many kinds of quantised weights a method can be trained."""
    found, known = len(trains_quantised(one.name)), len(quantisations())
    return {0: "no", known: "yes"}.get(found, f"{found} of {known}")


def _sharing(one: Method) -> str:
    """Return what a method is to several tasks, in a word."""
    if one.several_tasks:
        return "several"
    return "1, each" if registry.PER_TASK in one.knobs and not why_not_per_task(one.name) else "1"


def _explain_notation(text: str, json: bool) -> None:
    """Explain a form, a hybrid or notation, part by part."""
    if text in UNSUPPORTED:
        raise CandidateError(f"{text} cannot be searched: {UNSUPPORTED[text]}")
    parts = _parsed(text)
    meant = " + ".join(map(write_part, parts))
    if json:
        each = [{**_as_json(registry.method(one.method)), "set": dict(one.knobs)} for one in parts]
        print_json({"name": text, "notation": meant, "parts": each})
        return
    what = "a form of a method" if text in FORMS else "a hybrid" if len(parts) > 1 else "a method"
    console.print(Text.assemble((text, "bold"), f": {what}, {meant}" if text != meant else f": {what}"), soft_wrap=True)
    for one in parts:
        console.print()
        _explain(registry.method(one.method), one)


def _parsed(text: str) -> tuple[Part, ...]:
    """Read the parts of a form, a named hybrid or notation. Raises CandidateError with the nearest name."""
    try:
        return parse(spelled_out(text)).parts
    except NotationError as error:
        known = (*registry.methods(), *FORMS, *NAMED)
        if text.isidentifier():
            near = did_you_mean(text, known)
            raise CandidateError(f"there is no method {text!r}{near}; `{command()} methods` lists them") from None
        raise CandidateError(f"{text!r} is no method, form, hybrid or notation: {error}") from None


def _explain(one: Method, given: Part | None = None) -> None:
    console.print(Text.assemble((one.name, "bold"), f": {one.title}. {one.summary}"), soft_wrap=True)
    rates = one.learning_rate
    places = ", ".join(one.placement.projections) or "its own place"
    rows = [
        ["family", one.family],
        ["paper", one.paper],
        ["learning rate", f"{rates.low:g} to {rates.high:g}, default {rates.default:g}"],
        ["placement", places if one.placement.fixed else f"{places}; default {one.placement.default}"],
        ["tasks", f"{_TASK}; {tasks(one)}"],
        ["trains on", trains_on(one)],
        ["merges on", merges_on(one)],
        ["to LoRA", converts(one)],
        ["quantised", quantised(one)],
    ]
    if given is not None:
        rows[3][1] += f"; here {given.placement}" if given.placement != one.placement.default else ""
    rows += [[f"knob {knob.name}", f"{knob.text}: {knob_values(knob)}{_here(knob, given)}"] for knob in one.knobs]
    rows += [["form", f"{name} is {text}"] for name, text in FORMS.items() if parse(text).parts[0].method == one.name]
    plain = () if one.quantised_only else tried_on()
    rows += [[f"not on {name}", reason] for name in plain if (reason := why_not(one.name, "trains", name))]
    rows += [
        [f"not on {kind}", reason]
        for kind in quantisations()
        if (reason := why_not_quantised(one.name, "trains", kind))
    ]
    console.print(table(["", ""], rows))


def _here(knob: Knob, given: Part | None) -> str:
    """Say what a knob is in a part where that is not its default."""
    if given is None or given[knob.name] == knob.default:
        return ""
    return f"; here {str(given[knob.name]).lower()}"


def _as_json(one: Method) -> dict[str, Any]:
    rates = one.learning_rate
    return {
        "name": one.name,
        "title": one.title,
        "family": one.family,
        "paper": one.paper,
        "summary": one.summary,
        "knobs": [
            {"name": knob.name, "values": list(knob.values), "default": knob.default, "text": knob.text}
            for knob in one.knobs
        ],
        "projections": list(one.placement.projections),
        "learning_rate": {"low": rates.low, "high": rates.high, "default": rates.default},
        "trains_on": trains_on(one),
        "merges_on": merges_on(one),
        "to_lora": converts(one),
        "quantised": quantised(one),
        "tasks": [_TASK],
    }
