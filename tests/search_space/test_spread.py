"""Sizes that differ between layers: read, drawn, counted, and brought down to parts of one size."""

from __future__ import annotations

from random import Random

import pytest

from search_space.candidate import Part
from search_space.errors import CandidateError, PlacementError
from search_space.layers import Layers
from search_space.notation import parse, write
from search_space.registry import method
from search_space.space import Space, resolve
from search_space.spread import SHAPES, Spread, SpreadKnob, in_one_size, levels_of
from tests.search_space.choosers import Recorded, Replayed
from tests.search_space.test_space import space_of, tiny_anatomy
from tests.search_space.test_spec import problems, read

LORA = {"alpha": 16, "use_rslora": False, "use_dora": False, "projections": "attention.query"}
RANK = method("lora").knob("r")


def knob(n_layers: int, **data: object) -> SpreadKnob:
    spread = Spread.read("r", data)
    return SpreadKnob(RANK.narrowed(spread.values), spread, n_layers)


def lora(layers: int, r: object, chosen: object) -> Space:
    return space_of(layers, methods={"lora": {**LORA, "r": r, "layers": chosen}}, hybrids=[])


SPACES = [
    ({"of": [1, 4], "per": "layer"}, "all", 2**4),
    ({"of": [1, 4], "per": "layer"}, ["top:1", "all"], 2 + 2**4),
    ({"of": [1, 4], "per": "layer"}, "subset", 3**4 - 1),
    ({"of": [1, 4, 8], "per": "group:2"}, "all", 3**2),
    ({"of": [1, 4, 8], "per": "group:2"}, "subset:2", 3 + 3 + 3**2),
    ({"of": [1, 4, 8], "per": "group:2"}, "subset", 3 * 3 + 3 * 3 + 3 * 3 * 3**2),
    ({"of": [1, 4, 8], "per": "shape:4"}, "all", 3 + 4),
    ({"of": [1, 4], "per": "shape:2", "shapes": ["increasing"]}, ["top:1", "all"], 2),
    ({"of": [1, 4], "per": "shape:2", "shapes": ["uniform", "increasing"]}, "subset:2", 2 + 2 + 3),
]


@pytest.mark.parametrize(("r", "chosen", "size"), SPACES)
def test_the_size_is_what_draws_reach(r: dict[str, object], chosen: object, size: int) -> None:
    space, chooser = lora(4, r, chosen), Recorded(Random(0))
    assert space.size == size
    seen = {space.draw(chooser).architecture_sha256 for _ in range(60 * size)}
    assert len(seen) == size


@pytest.mark.parametrize(("r", "chosen", "size"), SPACES)
def test_what_is_encoded_draws_the_same_candidate(r: dict[str, object], chosen: object, size: int) -> None:
    space = lora(4, r, chosen)
    for seed in range(30):
        candidate = space.draw(Recorded(Random(seed)))
        replay = Replayed(space.encode(candidate))
        assert space.draw(replay) == candidate
        assert replay.unused == []
        assert parse(write(candidate)) == candidate


def test_a_layer_without_the_part_is_not_asked_for() -> None:
    space = lora(4, {"of": [1, 4], "per": "layer"}, "subset")
    chooser = Recorded(Random(3))
    candidate = space.draw(chooser)
    chosen = candidate.parts[0].placement.layers.indices(4)
    assert sorted(name for name in chooser.asked if name.startswith("lora.r.")) == [f"lora.r.{i}.index" for i in chosen]


@pytest.mark.parametrize(
    ("shape", "levels"),
    [
        ("increasing", (0, 1, 1, 2)),
        ("decreasing", (2, 1, 1, 0)),
        ("spindle", (0, 2, 2, 0)),
        ("bottleneck", (2, 0, 0, 2)),
    ],
)
def test_shapes_are_those_of_s4(shape: str, levels: tuple[int, ...]) -> None:
    assert levels_of(shape, 4, 3) == levels  # type: ignore[arg-type]


@pytest.mark.parametrize("groups", range(2, 9))
@pytest.mark.parametrize("shape", SHAPES[1:])
def test_every_shape_reaches_both_ends(groups: int, shape: str) -> None:
    levels = levels_of(shape, groups, 5)  # type: ignore[arg-type]
    assert {0, 4} <= set(levels) or (groups == 2 and shape in ("spindle", "bottleneck"))


def test_shapes_follow_the_groups_of_layers() -> None:
    spindle = knob(6, of=[2, 4, 8], per="shape:4", shapes="spindle")
    assert spindle.draw("x", Replayed({}), Layers()) == (2, 8, 8, 8, 8, 2)
    assert spindle.draw("x", Replayed({}), Layers.parse("top:2")) == (8, 2)
    assert spindle.first(Layers()) == (2, 8, 8, 8, 8, 2)


def test_equal_sizes_are_one_number() -> None:
    assert parse("lora(r=4/4/4)") == parse("lora(r=4)")
    assert Part("lora", (("r", (4, 4)),)) == Part("lora", (("r", 4),))
    candidate = lora(2, {"of": [3], "per": "layer"}, "all").draw(Recorded(Random(0)))
    assert candidate.parts[0]["r"] == 3


def test_a_value_that_no_draw_gives_cannot_be_encoded() -> None:
    grouped = knob(4, of=[2, 4], per="group:2")
    with pytest.raises(ValueError, match="differs inside a group"):
        grouped.encode("x", (2, 4, 4, 4), Layers())
    with pytest.raises(ValueError, match="has none of the shapes 'spindle'"):
        knob(4, of=[2, 4], per="shape:4", shapes=["spindle"]).encode("x", (4, 2, 2, 4), Layers())


def test_a_part_of_several_sizes_is_parts_of_one_size() -> None:
    anatomy = tiny_anatomy(4)
    part = parse("lora(r=2/4/2,alpha=8/8/32)@attention[bits:1101]").parts[0]
    pieces = in_one_size(part, anatomy)
    assert [(one["r"], one["alpha"], str(one.placement.layers)) for one in pieces] == [
        (2, 8, "bits:1000"),
        (4, 8, "bits:0100"),
        (2, 32, "bits:0001"),
    ]
    assert in_one_size(pieces[0], anatomy) == (pieces[0],)


def test_too_few_sizes_are_refused_before_training() -> None:
    with pytest.raises(PlacementError, match=r"lora\.r has 2 sizes, one for each layer, and is put on 3 layers"):
        resolve(parse("lora(r=2/4)").parts[0], tiny_anatomy(3))


def test_more_groups_than_layers_are_refused() -> None:
    with pytest.raises(PlacementError, match="r: 4 groups need at least as many layers; the model has 3"):
        lora(3, {"of": [1, 2], "per": "group:4"}, "all")


def test_sizes_per_group_on_any_subset_of_many_layers_are_refused() -> None:
    with pytest.raises(CandidateError, match="sizes per group go with listed layers, or with 'subset:4'"):
        lora(13, {"of": [1, 2], "per": "group:4"}, "subset").size  # noqa: B018


@pytest.mark.parametrize("r", [{"of": [1, 4], "per": "layer"}, {"of": [1, 4], "per": "shape:4", "shapes": ["spindle"]}])
def test_a_spread_reads_back_equal(r: object) -> None:
    spec = read({"methods": {"lora": {"r": r}}})
    assert read(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("r", "message"),
    [
        ({"of": [1, 4]}, "'per' is 'layer', or 'group:4' or 'shape:4'"),
        ({"of": [1, 4], "per": "group"}, "'per' is 'layer'"),
        ({"of": [1, 4], "per": "group:1"}, "for 2 to 16 groups"),
        ({"of": [1, 4], "per": "group:17"}, "for 2 to 16 groups"),
        ({"of": [1, 4], "per": "layers"}, "not 'layers'"),
        ({"of": [], "per": "layer"}, "'of' lists whole numbers"),
        ({"of": [4, 1], "per": "layer"}, "in rising order"),
        ({"of": [1, 1], "per": "layer"}, "in rising order"),
        ({"of": [True], "per": "layer"}, "'of' lists whole numbers"),
        ({"of": [0, 4], "per": "layer"}, "0 is not one of"),
        ({"per": "layer"}, "'of' lists whole numbers"),
        ({"of": [1, 4], "per": "layer", "shape": "spindle"}, "did you mean 'shapes'"),
        ({"of": [1, 4], "per": "layer", "shapes": ["spindle"]}, "shapes go with per: 'shape:4'"),
        ({"of": [1, 4], "per": "shape:4", "shapes": ["spindel"]}, "did you mean 'spindle'"),
        ({"of": [1, 4], "per": "shape:4", "shapes": []}, "lists at least one"),
        ({"of": [4], "per": "shape:4"}, "needs at least two sizes"),
    ],
)
def test_a_mistake_in_a_spread_stands_at_its_method(r: object, message: str) -> None:
    assert message in problems({"methods": {"lora": {"r": r}}})["methods.lora"]


@pytest.mark.parametrize(
    ("name", "knob"), [("adalora", "target_r"), ("lora_plus", "ratio"), ("unilora", "theta_d_length")]
)
def test_a_size_of_what_all_layers_share_does_not_differ_between_them(name: str, knob: str) -> None:
    given = {"of": [64, 128], "per": "layer"}
    assert "one size for all layers" in problems({"methods": {name: {knob: given}}})[f"methods.{name}"]
    with pytest.raises(CandidateError, match=f"{name}.{knob} is one size for all layers"):
        parse(f"{name}({knob}=64/128)")


def test_only_sizes_differ_between_layers() -> None:
    given = {"of": [1, 4], "per": "layer"}
    assert "is not a size" in problems({"methods": {"lora": {"use_dora": given}}})["methods.lora"]
    assert "takes no sizes" in problems({"methods": {"lora": {"layers": given}}})["methods.lora"]
    with pytest.raises(CandidateError, match="one size, not one for each"):
        parse("p_tuning(num_virtual_tokens=4/8)")
