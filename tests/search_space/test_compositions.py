"""Hybrids with parts of their own: shared layers, parts that may be left out, and how many there are."""

from __future__ import annotations

from itertools import product
from random import Random

import pytest

from search_space.candidate import Candidate
from search_space.notation import parse, write_parts
from search_space.space import Space
from tests.search_space.choosers import Recorded, Replayed
from tests.search_space.test_space import space_of


def autopeft(layers: int, sizes: list[int]) -> Space:
    """AutoPEFT with fewer sizes."""
    parts = [
        {
            "method": "serial_adapter",
            "r": sizes,
            "activation": "relu",
            "projections": "mlp.down",
            "learning_rate": 1e-3,
        },
        {"method": "prefix_tuning", "num_virtual_tokens": sizes, "learning_rate": 1e-2},
    ]
    return space_of(layers, methods={}, hybrids=[{"name": "both", "parts": parts, "layers": "subset"}])


def drawn_from(space: Space, draws: int = 2000) -> list[Candidate]:
    chooser = Recorded(Random(0))
    return [space.draw(chooser) for _ in range(draws)]


def every_candidate(space: Space) -> set[str]:
    """Draw with everything that a sampler may say."""
    chooser = Recorded(Random(0))
    for _ in range(300):
        space.draw(chooser)
    domains = {name: range(low, high + 1) for name, (low, high) in chooser.domains.items()}  # type: ignore[misc]
    said = (dict(zip(domains, values, strict=True)) for values in product(*domains.values()))
    return {space.draw(Lenient(one)).canonical_json for one in said}


class Lenient(Replayed):
    """Replays, and does not mind what it is asked first."""


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_size_is_what_enumeration_counts(layers: int) -> None:
    space = autopeft(layers, [0, 2, 4])
    assert space.size == len(every_candidate(space)) == (3**2 - 1) * (2**layers - 1)


def test_parts_share_their_layers_and_one_is_always_there() -> None:
    for candidate in drawn_from(autopeft(4, [0, 2, 4, 8])):
        assert candidate.parts
        assert len({part.placement.layers for part in candidate.parts}) == 1
        assert len(candidate.recipe.learning_rates) == len(candidate.parts)


def test_every_kind_of_hybrid_is_drawn() -> None:
    methods = {candidate.method for candidate in drawn_from(autopeft(2, [0, 2]))}
    assert methods == {"serial_adapter", "prefix_tuning", "serial_adapter + prefix_tuning"}


@pytest.mark.parametrize("seed", range(20))
def test_what_is_encoded_draws_the_same_candidate(seed: int) -> None:
    space = autopeft(4, [0, 2, 4])
    candidate = space.draw(Recorded(Random(seed)))
    replay = Replayed(space.encode(candidate))
    assert space.draw(replay) == candidate
    assert replay.unused == []


def test_samplers_see_the_same_parameters_every_time() -> None:
    """With fixed learning rates nothing is conditional: what a Gaussian process can model is the whole space."""
    space, names = autopeft(3, [0, 2, 4]), set()
    for seed in range(50):
        chooser = Recorded(Random(seed))
        space.draw(chooser)
        names.add(tuple(chooser.asked))
    assert names == {
        (*(f"both.layers.{layer}" for layer in range(3)), "both.serial_adapter.r.index",
         "both.prefix_tuning.num_virtual_tokens.index")
    }  # fmt: skip


def test_layers_of_their_own_may_be_none() -> None:
    """Each part has a bit for each layer, and is left out where no bit is set."""
    parts = [
        {"method": "lora", "r": 1, "alpha": 8, "use_rslora": False, "use_dora": False, "projections": one,
         "layers": ["none", "subset"]}
        for one in ("attention.query", "attention.value")
    ]  # fmt: skip
    space = space_of(3, methods={}, hybrids=[{"name": "gates", "parts": parts}])
    assert space.size == 2 ** (2 * 3) - 1
    candidates = drawn_from(space)
    assert len({candidate.architecture_sha256 for candidate in candidates}) == space.size
    for candidate in candidates[:100]:
        assert space.draw(Replayed(space.encode(candidate))) == candidate
    assert "gates.lora.2.layers.1" in space.encode(parse("lora(r=1,alpha=8)@attention.value[bits:010]"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("serial_adapter(r=2)@mlp.down[bits:10] + prefix_tuning(num_virtual_tokens=2)@[bits:11]", "on the same layers"),
        ("serial_adapter(r=2)@mlp.down", "is not in the space"),
        ("serial_adapter(r=2)@mlp.down[bits:11] + prefix_tuning(num_virtual_tokens=3)@[bits:11]", "not in"),
        ("ia3", "'ia3' is not in the space"),
        (
            "prefix_tuning(num_virtual_tokens=2)@[bits:11] + serial_adapter(r=2)@mlp.down[bits:11]",
            "is not in the space",
        ),
    ],
)
def test_what_is_not_in_the_hybrid_cannot_be_encoded(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        autopeft(2, [0, 2]).encode(parse(text + " | lr=" + "/".join(["0.001"] * len(text.split(" + ")))))


def test_a_hybrid_stands_beside_methods_of_its_own_names() -> None:
    parts = [{"method": "lora", "r": [0, 3]}, {"method": "bitfit"}]
    space = space_of(methods={"lora": {"r": [4, 8]}}, hybrids=[{"name": "mixed", "parts": parts}])
    assert [one.name for one in space.compositions] == ["lora", "mixed"]
    assert space.parts["lora"].knobs[0].values == (4, 8)
    assert space.parts["mixed.lora"].knobs[0].values == (3,)
    assert {write_parts(one).split("(")[0] for one in drawn_from(space, 200)} >= {"lora", "bitfit"}
