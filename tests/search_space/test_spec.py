"""The `space` section: presets narrowed and widened, and every mistake at its own path."""

from __future__ import annotations

import json
import re

import pytest
from pydantic import ValidationError

from search_space.spec import SpaceSpec, presets


def read(data: object) -> SpaceSpec:
    return SpaceSpec.model_validate_json(json.dumps(data))


def problems(data: object) -> dict[str, str]:
    """Return what is wrong, by path below the section."""
    with pytest.raises(ValidationError) as refused:
        read(data)
    found: dict[str, str] = {}
    for one in refused.value.errors():
        where = ".".join(map(str, one["loc"]))
        if one["type"] == "problems":
            found |= {f"{where}.{key}": text for key, text in one["ctx"]["problems"]}
        else:
            found[where] = one["msg"]
    return found


@pytest.mark.parametrize("name", list(presets()))
def test_every_preset_reads(name: str) -> None:
    spec = read({"preset": name, **presets()[name]})
    assert spec.methods or spec.hybrids
    assert read(spec.to_json()) == spec


def test_a_word_is_a_preset() -> None:
    assert read("lora") == read({"preset": "lora"}) == SpaceSpec(preset="lora")


def test_a_list_of_methods_takes_them_as_they_are() -> None:
    assert read({"methods": ["lora", "bitfit"]}) == read({"methods": {"lora": {}, "bitfit": None}})


def test_one_value_stands_for_a_list_of_one() -> None:
    one, other = read({"methods": {"lora": {"r": 4}}}), read({"methods": {"lora": {"r": [4]}}})
    assert one == other
    assert one.methods is not None
    assert one.methods["lora"].knobs == {"r": (4,)}


def test_knobs_can_be_widened_beyond_the_methods_own_values() -> None:
    spec = read({"methods": {"lora": {"r": [3, 96]}}})
    assert spec.methods is not None
    assert spec.methods["lora"].knobs["r"] == (3, 96)


def test_sizes_can_be_given_per_layer() -> None:
    spec = read({"methods": {"lora": {"r": [[2, 4, 8], 8]}}})
    assert spec.methods is not None
    assert spec.methods["lora"].knobs["r"] == ((2, 4, 8), 8)
    assert read(spec.to_json()) == spec


def test_placements_are_kept_in_their_shortest_form() -> None:
    spec = read({"methods": {"lora": {"projections": "attention.value,attention.query", "layers": ["all", "top:2"]}}})
    assert spec.methods is not None
    assert spec.methods["lora"].projections == ("attention.query,attention.value",)


def test_one_learning_rate_is_a_range_of_one() -> None:
    spec = read({"methods": {"lora": {"learning_rate": 1e-3}, "bitfit": {"learning_rate": [1e-3, 1e-2]}}})
    assert spec.methods is not None
    assert spec.methods["lora"].learning_rate == (1e-3, 1e-3)
    assert spec.methods["bitfit"].learning_rate == (1e-3, 1e-2)


def test_hybrids_are_lists_or_texts() -> None:
    assert read({"hybrids": [["lora", "bitfit"], "ia3+bitfit"]}).hybrids == ("lora + bitfit", "ia3 + bitfit")


@pytest.mark.parametrize(
    "data",
    [
        {
            "methods": {
                "lora": {"r": [4, 8], "use_dora": True, "layers": ["all", "top:2"], "learning_rate": [1e-4, 1e-2]}
            }
        },
        {"methods": {"full": {"layers": ["top:2"]}, "prefix_tuning": {}}, "hybrids": []},
        {"methods": {"lora": {"learning_rate": 1e-3}}},
        {"preset": "lora", "hybrids": ["lora + lora"]},
    ],
)
def test_what_is_written_reads_back_equal(data: object) -> None:
    assert read(read(data).to_json()) == read(data)


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"rank": 4}, "lora has no 'rank'; allowed: 'r', 'alpha', .* 'layers'"),
        ({"learning_rat": 4}, "did you mean 'learning_rate'"),
        ({"r": 0}, "space.r: 0 is not one of '1', .* or any whole number from 1"),
        ({"r": []}, "lora.r: expected 1 to 200 values, not 0"),
        ({"r": [[]]}, "is not one of"),
        ({"r": list(range(1, 202))}, "expected 1 to 200 values, not 201"),
        ({"r": [4, 4]}, "lora.r: a value is listed twice"),
        ({"r": "8"}, "space.r: '8' is not one of"),
        ({"r": True}, "space.r: True is not one of"),
        ({"use_dora": 1}, "space.use_dora: 1 is not one of"),
        ({"learning_rate": [1e-2, 1e-3]}, "a range needs 0 < low <= high"),
        ({"learning_rate": 0}, "a range needs 0 < low <= high"),
        ({"learning_rate": "fast"}, "lora.learning_rate: expected \\[low, high\\] or one number"),
        ({"learning_rate": True}, "expected \\[low, high\\] or one number"),
        ({"learning_rate": [1, 2, 3]}, "expected \\[low, high\\] or one number"),
        ({"projections": "attention.qery"}, "did you mean 'attention.query'"),
        ({"projections": [4]}, "lora.projections: 4 is not text"),
        ({"projections": "mlp[top:2]"}, "lora.projections: 'mlp\\[top:2\\]' names layers; they stand under `layers`"),
        ({"projections": ""}, "lora.projections: an empty text names no projection"),
        ({"projections": ["mlp", "mlp.up,mlp.gate,mlp.down"]}, "lora.projections: a value is listed twice"),
        ({"layers": "upper:3"}, "unknown layers 'upper:3'"),
        ({"layers": 3}, "lora.layers: 3 is not text"),
        ({"layers": ["all", "every:1"]}, "lora.layers: a value is listed twice"),
        ("r=4", "lora: expected knobs as a mapping, not 'r=4'"),
    ],
)
def test_a_mistake_in_a_method_stands_at_the_method(lora: object, message: str) -> None:
    found = problems({"methods": {"lora": lora, "bitfit": {}}})
    assert list(found) == ["methods.lora"]
    assert re.search(message, found["methods.lora"])


def test_every_mistake_is_told_at_once() -> None:
    found = problems(
        {
            "preset": "defualt",
            "methods": {
                "lorra": {},
                "lora": {"rank": 4},
                "head": {"projections": "mlp"},
                "p_tuning": {"layers": "top:2"},
            },
            "hybrids": ["lora", "lora + head", "lora + bitfti", 3],
            "method": [],
        }
    )
    assert set(found) == {
        *("preset", "method", "methods.lorra", "methods.lora", "methods.head", "methods.p_tuning"),
        *("hybrids.0", "hybrids.1", "hybrids.2", "hybrids.3"),
    }
    assert "did you mean 'default'" in found["preset"]
    assert "did you mean 'lora'" in found["methods.lorra"]
    assert "takes no projections" in found["methods.head"]
    assert "takes no choice of them" in found["methods.p_tuning"]
    assert "write it as 'lora + bitfit'" in found["hybrids.0"]
    assert "'head' cannot be part of a hybrid" in found["hybrids.1"]
    assert "did you mean 'bitfit'" in found["hybrids.2"]


@pytest.mark.parametrize(
    ("data", "path"),
    [
        ({"methods": "lora"}, "methods"),
        ({"hybrids": "lora + bitfit"}, "hybrids"),
        ({"preset": 3}, "preset"),
        ({"hybrids": ["lora + bitfit", "lora+bitfit"]}, "hybrids"),
        ({"methods": ["lora", "lora"]}, "methods"),
        ({"methods": [{"lora": {}}]}, "methods"),
        ({"hybrids": [f"lora + {'bitfit + ' * n}ia3" for n in range(201)]}, "hybrids"),
    ],
)
def test_the_wrong_kind_of_value_is_refused(data: object, path: str) -> None:
    assert list(problems(data)) == [path]
