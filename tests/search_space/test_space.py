"""Spaces bound to a model: everything drawn is valid there, and can be said again in a sampler's words."""

from __future__ import annotations

from itertools import product
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_space.candidate import Candidate
from search_space.errors import EmptySpaceError, PlacementError, UnsupportedError
from search_space.notation import parse
from search_space.placement import Anatomy, Block, Site, SiteKind
from search_space.registry import method, methods
from search_space.space import Space, at_defaults, bind, resolve
from search_space.spec import SpaceSpec, presets
from tests.search_space.choosers import Recorded, Replayed

EVERYTHING = SpaceSpec.model_validate(
    {
        "methods": {name: {} for name, one in methods().items() if not (one.quantised_only or one.several_tasks)},
        "hybrids": ["lora + bitfit", "lora + lora", "serial_adapter + lora + prefix_tuning"],
    }
)


def tiny_anatomy(layers: int = 3, kind: SiteKind = "linear") -> Anatomy:
    """A BERT-like model: no gate, norms in every layer, embeddings outside."""
    names = ("attention.query", "attention.key", "attention.value", "attention.output", "mlp.up", "mlp.down", "norm")
    sites = [Site("embeddings", "embedding", ("embeddings",), None, "", 64, 16, False)]
    for layer in range(layers):
        for name in names:
            one: SiteKind = "norm" if name == "norm" else kind
            sites.append(Site(f"layer.{layer}.{name}", one, (name,), layer, "", 16, 16, True))
    blocks = tuple(Block(layer, f"layer.{layer}", None, None, None, "", 16) for layer in range(layers))
    return Anatomy("tiny", 16, layers, tuple(sites), blocks, ("classifier",))


def space_of(layers: int = 3, **given: object) -> Space:
    return bind(SpaceSpec.model_validate(given), tiny_anatomy(layers))


ANATOMY = tiny_anatomy()
WHOLE = bind(EVERYTHING, ANATOMY)


@given(st.integers(0, 2**32))
@settings(max_examples=200)
def test_every_draw_is_valid_and_has_a_place_in_the_model(seed: int) -> None:
    candidate = WHOLE.draw(Recorded(Random(seed)))
    for part in candidate.parts:
        rule = method(part.method)
        rule.check(part)
        targets = resolve(part, ANATOMY)
        assert targets.layers
        assert bool(targets.sites) != rule.placement.fixed
    for part, rate in zip(candidate.parts, candidate.recipe.learning_rates, strict=True):
        assert WHOLE.parts[part.method].learning_rate.low <= rate <= WHOLE.parts[part.method].learning_rate.high


@given(st.integers(0, 2**32))
@settings(max_examples=200)
def test_what_is_encoded_draws_the_same_candidate(seed: int) -> None:
    candidate = WHOLE.draw(Recorded(Random(seed)))
    replay = Replayed(WHOLE.encode(candidate))
    assert WHOLE.draw(replay) == candidate
    assert replay.unused == []


def test_a_parameter_has_one_domain_whatever_the_composition() -> None:
    """Samplers learn by name: `Recorded` refuses a name that comes with another domain."""
    chooser = Recorded(Random(0))
    for _ in range(300):
        WHOLE.draw(chooser)
    assert "lora.r.index" in chooser.domains
    assert "lora.2.r.index" in chooser.domains


@pytest.mark.parametrize("name", list(presets()))
def test_the_usual_candidate_is_in_the_space_and_plain_lora_where_that_is(name: str) -> None:
    space = space_of(4, preset=name)
    usual, lora = space.usual(), space.plain_lora()
    assert lora == (at_defaults("lora") if "lora" in presets()[name]["methods"] else None)
    assert usual == lora or lora is None
    assert space.draw(Replayed(space.encode(usual))) == usual


def test_without_lora_the_usual_candidate_is_the_first_methods_defaults() -> None:
    space = space_of(methods={"ia3": {}, "bitfit": {"learning_rate": [1e-2, 2e-2], "layers": ["top:1", "top:2"]}})
    assert space.usual() == at_defaults("ia3")
    assert space_of(methods={"bitfit": {"layers": ["top:1", "top:2"]}}).usual() == parse("bitfit@linear,norm[top:2]")


def every_architecture(space: Space) -> set[tuple[object, ...]]:
    """Enumerate the parts of every candidate by brute force."""

    def parts(name: str) -> list[object]:
        one = space.parts[name]
        assert one.layers is not None
        knobs = product(*(knob.values for knob in one.knobs))
        return list(product([name], knobs, one.projections, one.layers.options))

    return {combined for one in space.compositions for combined in product(*map(parts, one.methods))}


@pytest.mark.parametrize(
    "given",
    [
        {"methods": ["bitfit"]},
        {"preset": "lora"},
        {
            "methods": {"lora": {"r": [2, 4]}, "bitfit": {}, "prefix_tuning": {}},
            "hybrids": ["lora + bitfit", "lora + lora"],
        },
        {"methods": {"full": {"layers": ["all", "top:1"]}, "head": {}}},
    ],
)
def test_the_size_is_what_enumeration_counts(given: dict[str, object]) -> None:
    space = space_of(**given)
    assert space.size == len(every_architecture(space))


def test_draws_reach_every_architecture_of_a_small_space() -> None:
    space = space_of(layers=2, methods={"lora": {"r": [2, 4], "alpha": 8, "use_rslora": False}, "ia3": {}})
    chooser = Recorded(Random(0))
    seen = {space.draw(chooser).architecture_sha256 for _ in range(1000)}
    assert len(seen) == space.size


def test_a_narrowed_space_draws_nothing_else() -> None:
    lora = {"r": [4], "projections": ["mlp.down"], "layers": ["top:2"], "learning_rate": [1e-3, 1e-3]}
    space = space_of(methods={"lora": lora}, hybrids=[])
    chooser = Recorded(Random(0))
    drawn = [space.draw(chooser) for _ in range(50)]
    assert {part["r"] for one in drawn for part in one.parts} == {4}
    assert {str(part.placement) for one in drawn for part in one.parts} == {"mlp.down[top:2]"}
    assert {one.recipe.learning_rates for one in drawn} == {(1e-3,)}


def names_in(space: Space) -> list[str]:
    return [one.name for one in space.compositions]


def test_hybrids_of_the_preset_go_with_their_methods() -> None:
    assert names_in(space_of(methods=["lora", "bitfit"])) == ["lora", "bitfit", "lora + bitfit"]
    assert names_in(space_of(methods=["ia3"])) == ["ia3"]


def test_a_hybrid_can_be_searched_without_its_methods_alone() -> None:
    space = space_of(methods={}, hybrids=["lora + bitfit"])
    assert names_in(space) == ["lora + bitfit"]
    assert space.draw(Recorded(Random(0))).method == "lora + bitfit"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("full", "'full' is not in the space"),
        ("lora(r=7)", "not in"),
        ("lora@mlp.up", "not in"),
        ("lora@mlp[first:2]", "not in"),
        ("lora | lr=0.5", "lora.learning_rate 0.5 is outside the space"),
    ],
)
def test_a_candidate_from_outside_cannot_be_encoded(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        space_of(preset="lora").encode(parse(text))


def test_nothing_left_is_an_empty_space() -> None:
    with pytest.raises(EmptySpaceError, match=r"no method is left; list at least one under space\.methods"):
        space_of(methods={}, hybrids=[])


def test_projections_that_the_model_lacks_are_left_out_of_the_methods_own() -> None:
    anatomy = tiny_anatomy()
    bare = Anatomy("bare", 16, 3, tuple(s for s in anatomy.sites if s.kind != "norm"), anatomy.blocks, ("classifier",))
    assert bind(SpaceSpec(methods={"bitfit": {}}), bare).parts["bitfit"].projections == (
        "linear",
        "attention.query,mlp.up",
    )  # type: ignore[dict-item]
    with pytest.raises(PlacementError, match=r"space\.methods\.ln_tuning: none of norm is in bare"):
        bind(SpaceSpec.model_validate({"methods": ["ln_tuning"]}), bare)


@pytest.mark.parametrize(
    "lora", [{"projections": "mlp.gate"}, {"layers": "top:4"}, {"layers": ["all", "bits:10"]}, {"layers": "band:2-3"}]
)
def test_what_the_user_wrote_must_match_the_model(lora: dict[str, object]) -> None:
    with pytest.raises(PlacementError):
        space_of(methods={"lora": lora})


def test_modules_that_a_method_cannot_wrap_are_refused() -> None:
    part = parse("vera").parts[0]
    with pytest.raises(
        UnsupportedError, match=r"vera cannot wrap layer\.0\.attention\.query \(a conv1d module\); it wraps linear"
    ):
        resolve(part, tiny_anatomy(kind="conv1d"))


def test_targets_name_modules_and_what_they_carry() -> None:
    targets = resolve(parse("ia3@mlp.down,attention.key[top:1]").parts[0], ANATOMY)
    assert targets.names == ["layer.2.attention.key", "layer.2.mlp.down"]
    assert targets.names_of("mlp.down") == ["layer.2.mlp.down"]
    assert targets.layers == (2,)


def test_a_fixed_row_beside_the_search_is_the_method_at_its_defaults() -> None:
    assert at_defaults("full") == parse("full")
    assert isinstance(at_defaults("head"), Candidate)
