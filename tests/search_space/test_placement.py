"""Projections, layers, placements and what an anatomy resolves them to."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_space.errors import CandidateError, DataError, NotationError, PlacementError
from search_space.layers import group_sizes
from search_space.placement import (
    GROUPS,
    PROJECTIONS,
    Anatomy,
    Block,
    Layers,
    Placement,
    Site,
    canonical_words,
    expand_projections,
)

COUNTS = st.integers(1, 40)
SELECTORS = st.one_of(
    st.just(Layers()),
    st.builds(lambda kind, count: Layers(kind, (count,)), st.sampled_from(["top", "first", "every"]), COUNTS),
    st.tuples(COUNTS, COUNTS).map(lambda ends: Layers("band", (min(ends) - 1, max(ends) - 1))),
    st.tuples(COUNTS, COUNTS).map(lambda ends: Layers("group", (min(ends), max(ends)))),
    st.lists(st.integers(0, 1), min_size=1, max_size=40).map(lambda bits: Layers("bits", tuple(bits))),
)
PLACEMENTS = st.builds(Placement, st.sets(st.sampled_from(PROJECTIONS)).map(tuple), SELECTORS)


def linear(name: str, projections: tuple[str, ...] = (), layer: int | None = None) -> Site:
    return Site(name, "linear", projections, layer, "", 4, 4, True)


def two_layers() -> Anatomy:
    sites = [Site("embed", "embedding", ("embeddings",), None, "", 64, 4, False)]
    for number in range(2):
        sites += [
            linear(f"layers.{number}.attn.qkv", PROJECTIONS[:3], number),
            linear(f"layers.{number}.attn.out", ("attention.output",), number),
            linear(f"layers.{number}.ffn.fc1", ("mlp.up",), number),
            linear(f"layers.{number}.ffn.fc2", ("mlp.down",), number),
            linear(f"layers.{number}.extra", (), number),
        ]
    sites.append(Site("last_norm", "norm", ("norm",), None, "", 4, 4, True))
    blocks = tuple(
        Block(number, f"layers.{number}", f"layers.{number}.attn", f"layers.{number}.ffn", None, "", 4)
        for number in range(2)
    )
    return Anatomy("toy", 4, 2, tuple(sites), blocks, ("classifier",))


def names(sites: tuple[Site, ...]) -> list[str]:
    return [site.name for site in sites]


class TestLayers:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("all", (0, 1, 2, 3, 4, 5)),
            ("top:2", (4, 5)),
            ("first:2", (0, 1)),
            ("every:2", (1, 3, 5)),
            ("every:4", (3,)),
            ("band:2-4", (2, 3, 4)),
            ("band:0-0", (0,)),
            ("group:1/3", (0, 1)),
            ("group:3/3", (4, 5)),
            ("group:2/4", (1, 2)),
            ("bits:101100", (0, 2, 3)),
            ("top:6", (0, 1, 2, 3, 4, 5)),
        ],
    )
    def test_indices(self, text: str, expected: tuple[int, ...]) -> None:
        assert Layers.parse(text).indices(6) == expected

    @given(SELECTORS)
    def test_text_round_trip(self, layers: Layers) -> None:
        assert Layers.parse(str(layers)) == layers

    @given(SELECTORS, COUNTS)
    def test_indices_are_layers_of_the_model_or_an_error(self, layers: Layers, n_layers: int) -> None:
        try:
            chosen = layers.indices(n_layers)
        except PlacementError:
            return
        assert chosen == tuple(sorted(set(chosen)))
        assert chosen
        assert set(chosen) <= set(range(n_layers))

    @given(st.integers(1, 60), st.integers(1, 12))
    def test_groups_divide_the_layers(self, n_layers: int, groups: int) -> None:
        sizes = group_sizes(n_layers, groups)
        assert sum(sizes) == n_layers
        assert max(sizes) - min(sizes) <= 1
        if groups <= n_layers:
            parts = [Layers("group", (nth, groups)).indices(n_layers) for nth in range(1, groups + 1)]
            assert tuple(layer for part in parts for layer in part) == tuple(range(n_layers))

    def test_layers_left_over_go_to_the_middle_groups(self) -> None:
        assert group_sizes(6, 4) == (1, 2, 2, 1)
        assert group_sizes(7, 4) == (1, 2, 2, 2)

    @pytest.mark.parametrize("text", ["every:1", "group:1/1"])
    def test_other_ways_to_say_all_are_all(self, text: str) -> None:
        assert Layers.parse(text) == Layers()

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "top",
            "top:",
            "top:0",
            "top:-1",
            "top:03",
            "top: 3",
            "top:3 ",
            "top:1.5",
            "top:٣",
            "TOP:3",
            "all:3",
            "every:0",
            "band:4-2",
            "band:2",
            "group:0/4",
            "group:5/4",
            "group:2-4",
            "bits:",
            "bits:102",
            "top:1000000",
            "last:3",
        ],
    )
    def test_strange_text_is_refused(self, text: str) -> None:
        with pytest.raises(NotationError):
            Layers.parse(text)

    def test_a_near_word_is_offered(self) -> None:
        with pytest.raises(NotationError, match="did you mean 'first'"):
            Layers.parse("frist:3")

    @pytest.mark.parametrize(
        ("kind", "numbers"), [("top", (True,)), ("top", (1, 2)), ("last", (3,)), ("top", (10**6,)), ("bits", ())]
    )
    def test_impossible_values_are_refused(self, kind: Any, numbers: Any) -> None:
        with pytest.raises(CandidateError):
            Layers(kind, numbers)

    @pytest.mark.parametrize(
        "text", ["top:7", "first:7", "every:7", "band:2-6", "group:1/7", "bits:10", "bits:1000000"]
    )
    def test_beyond_the_model(self, text: str) -> None:
        with pytest.raises(PlacementError, match="the model has 6"):
            Layers.parse(text).indices(6)

    def test_no_layer_is_chosen(self) -> None:
        with pytest.raises(PlacementError, match="choose none of 3"):
            Layers.parse("bits:000").indices(3)
        with pytest.raises(PlacementError, match="choose none of 0"):
            Layers().indices(0)


class TestProjections:
    def test_groups_are_their_members(self) -> None:
        assert expand_projections(["linear"]) == expand_projections(["all"]) == PROJECTIONS[:7]
        assert expand_projections(["mlp", "attention.key"]) == ("attention.key", "mlp.up", "mlp.gate", "mlp.down")

    @pytest.mark.parametrize(
        ("given_words", "words"),
        [
            (PROJECTIONS[:7], ("linear",)),
            (("all", "norm"), ("linear", "norm")),
            (("norm", "mlp", "attention.query"), ("attention.query", "mlp", "norm")),
            (("mlp.down", "attention"), ("attention", "mlp.down")),
            ((), ()),
        ],
    )
    def test_the_canonical_form_is_the_shortest(self, given_words: tuple[str, ...], words: tuple[str, ...]) -> None:
        assert canonical_words(given_words) == words

    @given(st.sets(st.sampled_from([*PROJECTIONS, *GROUPS])))
    def test_canonical_words_mean_the_same(self, words: set[str]) -> None:
        short = canonical_words(words)
        assert expand_projections(short) == expand_projections(words)
        assert canonical_words(short) == short
        assert len(short) <= len(expand_projections(words))

    def test_an_unknown_name_gets_a_near_one(self) -> None:
        with pytest.raises(CandidateError, match=r"did you mean 'attention\.query'"):
            expand_projections(["attention.querry"])


class TestPlacement:
    @given(PLACEMENTS)
    def test_text_round_trip(self, placement: Placement) -> None:
        assert Placement.parse(str(placement)) == placement

    @given(PLACEMENTS)
    def test_json_round_trip(self, placement: Placement) -> None:
        data = json.loads(json.dumps(placement.to_json()))
        assert Placement.from_json(data) == placement
        assert Placement.from_json(data).to_json() == data

    @given(PLACEMENTS, PLACEMENTS)
    def test_placements_have_an_order(self, one: Placement, other: Placement) -> None:
        assert (one < other) + (other < one) + (one == other) == 1
        assert (hash(one) == hash(other)) or one != other

    @pytest.mark.parametrize(
        ("text", "canonical"),
        [
            ("attention.query,attention.value[top:3]", "attention.query,attention.value[top:3]"),
            ("attention.value,attention.query", "attention.query,attention.value"),
            ("all[all]", "linear"),
            ("mlp,attention", "linear"),
            ("", ""),
            ("[top:3]", "[top:3]"),
        ],
    )
    def test_text_is_made_canonical(self, text: str, canonical: str) -> None:
        assert str(Placement.parse(text)) == canonical

    @pytest.mark.parametrize(
        "text",
        [
            "query",
            "norm,norm",
            "norm,",
            ",norm",
            "norm, mlp",
            "norm[top:3",
            "norm]",
            "norm[]",
            "norm[top:3]x",
            "[",
            "NORM",
        ],
    )
    def test_strange_text_is_refused(self, text: str) -> None:
        with pytest.raises(NotationError):
            Placement.parse(text)

    @pytest.mark.parametrize(
        "data",
        [
            None,
            "norm",
            {},
            {"projections": ["norm"]},
            {"projections": ["norm"], "layers": "all", "more": 1},
            {"projections": "norm", "layers": "all"},
            {"projections": [1], "layers": "all"},
            {"projections": ["norm", "norm"], "layers": "all"},
            {"projections": ["nrom"], "layers": "all"},
            {"projections": ["norm"], "layers": 3},
            {"projections": ["norm"], "layers": "top"},
        ],
    )
    def test_strange_json_is_refused(self, data: object) -> None:
        with pytest.raises(CandidateError):
            Placement.from_json(data)

    @pytest.mark.parametrize("fields", [("norm", Layers()), (("norm",), "top:3")])
    def test_a_text_in_the_wrong_place_is_refused(self, fields: Any) -> None:
        with pytest.raises(CandidateError, match=r"Placement\.parse"):
            Placement(*fields)


class TestResolve:
    def test_a_projection_in_all_layers(self) -> None:
        assert names(two_layers().resolve(Placement.parse("mlp.up"))) == ["layers.0.ffn.fc1", "layers.1.ffn.fc1"]

    def test_a_fused_module_is_given_once_for_any_of_its_projections(self) -> None:
        sites = two_layers().resolve(Placement.parse("attention.query,attention.value[top:1]"))
        assert names(sites) == ["layers.1.attn.qkv"]

    def test_a_group_serves_a_model_without_all_of_its_members(self) -> None:
        sites = two_layers().resolve(Placement.parse("mlp[first:1]"))
        assert names(sites) == ["layers.0.ffn.fc1", "layers.0.ffn.fc2"]

    def test_no_projections_are_all_sites_of_the_layers(self) -> None:
        anatomy = two_layers()
        assert anatomy.resolve(Placement()) == anatomy.sites
        assert {site.layer for site in anatomy.resolve(Placement.parse("[top:1]"))} == {1}

    def test_a_lacking_projection_says_what_there_is(self) -> None:
        with pytest.raises(PlacementError, match=r"toy has no mlp\.gate; .*'mlp\.up'.*full names"):
            two_layers().resolve(Placement.parse("attention,mlp.gate"))

    def test_a_projection_outside_the_chosen_layers(self) -> None:
        with pytest.raises(PlacementError, match="no norm in layers 'top:1': it stands outside the layers"):
            two_layers().resolve(Placement.parse("mlp,norm[top:1]"))

    def test_layers_that_the_model_lacks(self) -> None:
        with pytest.raises(PlacementError, match="the model has 2"):
            two_layers().resolve(Placement.parse("mlp[top:3]"))

    @given(PLACEMENTS)
    def test_every_placement_resolves_or_is_refused(self, placement: Placement) -> None:
        anatomy = two_layers()
        try:
            sites = anatomy.resolve(placement)
        except PlacementError:
            return
        assert sites
        assert list(sites) == [site for site in anatomy.sites if site in sites]

    def test_blocks_of_layers(self) -> None:
        assert [block.layer for block in two_layers().blocks_in(Layers.parse("top:1"))] == [1]


class TestResolvePaths:
    def test_a_full_path(self) -> None:
        assert names(two_layers().resolve_paths(["layers.1.extra"])) == ["layers.1.extra"]

    def test_last_components_match_everywhere_in_the_models_order(self) -> None:
        sites = two_layers().resolve_paths(["extra", "attn.out"])
        assert names(sites) == ["layers.0.attn.out", "layers.0.extra", "layers.1.attn.out", "layers.1.extra"]

    def test_within_layers(self) -> None:
        assert names(two_layers().resolve_paths(["extra"], Layers.parse("top:1"))) == ["layers.1.extra"]

    @pytest.mark.parametrize("path", [".*", "layers.*.extra", "xtra", "layers.0", "layers", ".extra", "extra."])
    def test_nothing_but_whole_components_matches(self, path: str) -> None:
        with pytest.raises(PlacementError, match="matches no module of toy"):
            two_layers().resolve_paths([path])

    def test_a_near_path_is_offered(self) -> None:
        with pytest.raises(PlacementError, match="did you mean 'extra'"):
            two_layers().resolve_paths(["extar"])

    def test_the_head_is_no_place(self) -> None:
        with pytest.raises(PlacementError, match="belongs to the head"):
            two_layers().resolve_paths(["classifier"])

    def test_a_path_of_other_layers(self) -> None:
        with pytest.raises(PlacementError, match="'embed' matches no module in layers 'top:1'"):
            two_layers().resolve_paths(["embed"], Layers.parse("top:1"))

    @pytest.mark.parametrize("paths", [[], [""]])
    def test_no_path(self, paths: list[str]) -> None:
        with pytest.raises(PlacementError):
            two_layers().resolve_paths(paths)


class TestAnatomyJson:
    def test_round_trip(self) -> None:
        anatomy = two_layers()
        assert Anatomy.from_json(json.loads(json.dumps(anatomy.to_json()))) == anatomy

    @pytest.mark.parametrize(
        "change",
        [
            {"n_layers": "2"},
            {"n_layers": True},
            {"sites": [{}]},
            {"blocks": [None]},
            {"head": [1]},
            {"more": 1},
        ],
    )
    def test_strange_json_is_refused(self, change: dict[str, object]) -> None:
        with pytest.raises(DataError):
            Anatomy.from_json({**two_layers().to_json(), **change})

    @pytest.mark.parametrize("change", [{"kind": "lienar"}, {"projections": ["query"]}, {"projections": [1]}])
    def test_strange_sites_are_refused(self, change: dict[str, object]) -> None:
        data = two_layers().to_json()
        data["sites"][0].update(change)
        with pytest.raises(DataError):
            Anatomy.from_json(data)


def test_importing_takes_no_heavy_package() -> None:
    code = "import sys, search_space.placement; print(sorted({'torch', 'numpy', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
