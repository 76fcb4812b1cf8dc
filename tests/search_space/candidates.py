"""Candidates drawn from every method and knob, as hypothesis strategies."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from search_space.candidate import Candidate, KnobValue, Part, Recipe
from search_space.knobs import Knob
from search_space.placement import PROJECTIONS, Layers, Placement
from search_space.registry import Method, methods

LAYERS = st.one_of(
    st.just(Layers()),
    st.builds(lambda kind, count: Layers(kind, (count,)), st.sampled_from(["top", "first"]), st.integers(1, 9)),
    st.lists(st.integers(0, 1), min_size=1, max_size=12).map(lambda bits: Layers("bits", tuple(bits))),
)
RATES = st.floats(min_value=1e-8, max_value=1e3)
RECIPES = {
    "head_learning_rate": RATES,
    "weight_decay": st.floats(min_value=0, max_value=10),
    "label_smoothing": st.floats(min_value=0, max_value=1, exclude_max=True),
    "dropout": st.floats(min_value=0, max_value=1, exclude_max=True),
}


def _knob_values(knob: Knob, layers: bool) -> SearchStrategy[KnobValue]:
    known = st.sampled_from(knob.values)
    if knob.low is None:
        return known
    wide = st.integers(knob.low, 1_000_000)
    if not layers or not knob.per_layer:
        return known | wide
    return known | wide | st.lists(wide, min_size=2, max_size=6).map(tuple)


def _placements(rule: Method) -> SearchStrategy[Placement]:
    layers = LAYERS if rule.placement.layers else st.just(Layers())
    if rule.placement.fixed:
        return st.builds(Placement, st.just(()), layers)
    return st.builds(Placement, st.sets(st.sampled_from(PROJECTIONS), min_size=1).map(tuple), layers)


def parts_of(rule: Method) -> SearchStrategy[Part]:
    """Parts of one method: every knob at any value that it admits, anywhere that it may be put."""
    knobs = st.tuples(
        *(st.tuples(st.just(knob.name), _knob_values(knob, rule.placement.layers)) for knob in rule.knobs)
    )
    return st.builds(Part, st.just(rule.name), knobs, _placements(rule))


@st.composite
def candidates(draw: st.DrawFn) -> Candidate:
    """Candidates of one to three parts, of any methods."""
    rules = draw(st.lists(st.sampled_from(list(methods().values())), min_size=1, max_size=3))
    parts = tuple(draw(parts_of(rule)) for rule in rules)
    rates = tuple(draw(RATES) for _ in parts)
    settings = draw(st.fixed_dictionaries({}, optional=RECIPES))
    return Candidate(parts, Recipe(rates, **settings))
