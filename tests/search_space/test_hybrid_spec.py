"""Hybrids with parts of their own, as a study file writes them, and every mistake in one."""

from __future__ import annotations

import pytest

from tests.search_space.test_spec import problems, read

LORA = {"method": "lora", "r": [0, 4]}


def test_a_hybrid_reads_back_equal() -> None:
    hybrid = {"name": "mine", "parts": [LORA, {"method": "bitfit", "layers": ["none", "subset"]}]}
    spec = read({"hybrids": ["lora + bitfit", hybrid]})
    assert read(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("hybrid", "message"),
    [
        ({"parts": []}, "'parts' lists its parts"),
        ({"name": "mine"}, "'parts' lists its parts"),
        ({"parts": [LORA], "layer": "all"}, "did you mean 'layers'"),
        ({"name": "Mine", "parts": [LORA]}, "'Mine' is not a name of lower-case letters"),
        ({"name": "lora", "parts": [LORA]}, "'lora' is taken"),
        ({"name": "recipe", "parts": [LORA]}, "'recipe' is taken"),
        ({"parts": ["lora"]}, "'lora' is not a part; write it as"),
        ({"parts": [{"r": 4}]}, "is not a part; write it as"),
        ({"parts": [{"method": "lorra"}]}, "did you mean 'lora'"),
        ({"parts": [{"method": "full"}]}, "'full' cannot be part of a hybrid"),
        ({"parts": [{"method": "lora", "rank": 4}]}, "lora has no 'rank'"),
        ({"parts": [{"method": "lora", "r": [0]}]}, "lora.r: 0 alone leaves nothing"),
        ({"parts": [{"method": "lora", "r": [0, 2], "alpha": [0, 8]}]}, "one of them is enough"),
        ({"parts": [{"method": "lora", "use_dora": [0, 1]}]}, "space.use_dora: 0 is not one of"),
        ({"parts": [{"method": "lora", "layers": ["subset", "all"]}]}, "a subset stands alone, or beside 'none'"),
        ({"parts": [{"method": "lora", "layers": "none"}]}, "'none' alone leaves nothing"),
        ({"parts": [{"method": "lora", "layers": "subset:x"}]}, "'subset:x' is not a choice of layers"),
        ({"parts": [{"method": "lora", "layers": "subset:0"}]}, "write 'subset', or 'subset:4'"),
        ({"parts": [LORA], "layers": "none"}, "unknown layers 'none'"),
        ({"parts": [{"method": "lora", "layers": "all"}], "layers": "subset"}, "lora cannot have its own"),
        ({"parts": [{"method": "p_tuning"}], "layers": "subset"}, "p_tuning cannot have its own"),
        ({"parts": [LORA], "layers": 3}, "3 is not text"),
    ],
)
def test_a_mistake_in_a_hybrid_stands_at_the_hybrid(hybrid: object, message: str) -> None:
    found = problems({"hybrids": [hybrid, "lora + bitfit"]})
    assert list(found) == ["hybrids.0"]
    assert message in found["hybrids.0"]


@pytest.mark.parametrize("lora", [{"layers": ["none", "all"]}, {"r": [0, 4]}])
def test_a_method_alone_is_never_left_out(lora: object) -> None:
    assert list(problems({"methods": {"lora": lora}})) == ["methods.lora"]


def test_two_hybrids_need_two_names() -> None:
    assert "needs a name of its own" in problems({"hybrids": [{"parts": [LORA]}, {"parts": [LORA]}]})["hybrids"]
