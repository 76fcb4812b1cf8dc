"""`paretune methods`: what can be searched, and one method explained."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from orchestrator.cli.output import Json, console, print_json, table
from search_space import registry
from search_space.capability import quantisations, tried_on, why_not, why_not_quantised
from search_space.errors import CandidateError
from search_space.hybrids import NAMED
from search_space.reference import converts, knob_values, merges_on, quantised, trains_on
from search_space.registry import Method
from search_space.unsupported import UNSUPPORTED

_TASK = "text classification"


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(methods)


def methods(
    name: Annotated[str | None, typer.Argument(help="A method to explain; all in a table without it.")] = None,
    json: Json = False,
) -> None:
    """List the methods that can be searched, or explain one."""
    if name is None:
        _list_all(json)
        return
    try:
        one = registry.method(name)
    except KeyError as error:
        raise CandidateError(error.args[0]) from None
    if json:
        print_json(_as_json(one))
    else:
        _explain(one)


def _list_all(json: bool) -> None:
    known = registry.methods().values()
    if json:
        hybrids, unsupported = dict(NAMED), dict(UNSUPPORTED)
        print_json({"methods": [_as_json(one) for one in known], "hybrids": hybrids, "unsupported": unsupported})
        return
    rows = [
        [
            *(one.name, one.family, ", ".join(knob.name for knob in one.knobs) or "–", one.paper),
            *(merges_on(one), converts(one), quantised(one), _TASK),
        ]
        for one in known
    ]
    heads = ["method", "family", "knobs", "paper", "merges on", "to LoRA", "quantised", "tasks"]
    console.print(table(heads, rows))
    console.print()
    console.print(table(["hybrid", "parts"], [list(pair) for pair in NAMED.items()]))
    console.print()
    console.print(table(["not searched", "why"], [list(pair) for pair in UNSUPPORTED.items()]))
    console.print("\nNext: paretune methods lora")


def _explain(one: Method) -> None:
    console.print(Text.assemble((one.name, "bold"), f": {one.title}. {one.summary}"), soft_wrap=True)
    rates = one.learning_rate
    places = ", ".join(one.placement.projections) or "its own place"
    rows = [
        ["family", one.family],
        ["paper", one.paper],
        ["learning rate", f"{rates.low:g} to {rates.high:g}, default {rates.default:g}"],
        ["placement", places if one.placement.fixed else f"{places}; default {one.placement.default}"],
        ["tasks", _TASK],
        ["trains on", trains_on(one)],
        ["merges on", merges_on(one)],
        ["to LoRA", converts(one)],
        ["quantised", quantised(one)],
    ]
    rows += [[f"knob {knob.name}", f"{knob.text}: {knob_values(knob)}"] for knob in one.knobs]
    plain = () if one.quantised_only else tried_on()
    rows += [[f"not on {name}", reason] for name in plain if (reason := why_not(one.name, "trains", name))]
    rows += [
        [f"not on {kind}", reason]
        for kind in quantisations()
        if (reason := why_not_quantised(one.name, "trains", kind))
    ]
    console.print(table(["", ""], rows))


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
