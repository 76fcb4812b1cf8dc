"""Counts by adding up: equal to the exact counter's, with few questions to it."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from search_space.candidate import Candidate
from search_space.errors import PlacementError, UnsupportedError
from search_space.fitting import Fitting
from search_space.notation import parse
from search_space.placement import Anatomy
from search_space.space import bind, resolve
from search_space.spec import SpaceSpec, presets
from search_space.tally import Tally
from tests.search_space.choosers import Recorded
from tests.search_space.counted import Counted
from tests.search_space.test_space import tiny_anatomy


def uneven() -> Anatomy:
    """A model whose last two layers are wider, and have no key."""
    anatomy = tiny_anatomy(6)
    sites = tuple(
        replace(site, out_features=40) if site.layer in (4, 5) else site
        for site in anatomy.sites
        if site.layer not in (4, 5) or "attention.key" not in site.projections
    )
    return replace(anatomy, sites=sites)


@pytest.mark.parametrize("preset", list(presets()))
@pytest.mark.parametrize("sharing", ["", "lora", "prefix_tuning"])
def test_a_tally_is_the_exact_count(preset: str, sharing: str) -> None:
    anatomy = uneven()
    space, exact, chooser = bind(SpaceSpec(preset=preset), anatomy), Counted(anatomy, sharing), Recorded(Random(0))
    tally = Tally(exact, anatomy)
    for _ in range(60):
        candidate = space.draw(chooser)
        try:
            expected = exact(candidate)
        except PlacementError:  # a projection that these layers lack: no sum says that, the exact counter does
            continue
        assert tally(candidate) == expected


def test_few_questions_answer_many_candidates() -> None:
    anatomy = tiny_anatomy(12)
    space, exact, chooser = bind(SpaceSpec(preset="autopeft"), anatomy), Counted(anatomy), Recorded(Random(0))
    tally = Tally(exact, anatomy)
    for _ in range(2000):
        tally(space.draw(chooser))
    assert tally.asked == exact.asked < 50


def test_what_stands_beside_the_layers_is_counted_on_all_of_them() -> None:
    anatomy = tiny_anatomy(3)
    tally, exact = Tally(exact := Counted(anatomy), anatomy), exact
    for text in ("lora(r=3)@embeddings", "bitfit@linear,norm", "lora(r=2/4/8)@attention", "lora@attention[top:2]"):
        candidate = parse(text) if "embeddings" not in text else parse("bitfit@norm")
        assert tally(candidate) == exact(candidate)


def test_methods_that_share_are_counted_whole() -> None:
    anatomy = tiny_anatomy(4)
    tally = Tally(Counted(anatomy, sharing="lora"), anatomy)
    one, other = parse("lora(r=2)@attention[top:1]"), parse("lora(r=2)@attention[top:2]")
    assert tally(other) - 1000 == 2 * (tally(one) - 1000)


def test_a_refusal_is_passed_on() -> None:
    anatomy = tiny_anatomy(2)
    with pytest.raises(UnsupportedError, match="lora is refused"):
        Tally(Counted(anatomy, refused="lora"), anatomy)(parse("lora + bitfit"))
    assert isinstance(parse("lora"), Candidate)


class Overlapping(Counted):
    """Two parts of two methods on the same modules train a number together, as two masks of one weight would."""

    def __call__(self, candidate: Candidate) -> int:
        total = super().__call__(candidate)
        stands = {part.method: {site.name for site in resolve(part, self.anatomy).sites} for part in candidate.parts}
        return total - 7 * len(stands.get("lora", set()) & stands.get("ia3", set()))


@pytest.mark.parametrize("others", ["", " + bitfit@mlp.up", " + bitfit@mlp.up + serial_adapter@mlp.down"])
def test_what_two_of_many_parts_share_is_found(others: str) -> None:
    anatomy = tiny_anatomy(4)
    exact = Overlapping(anatomy)
    tally = Tally(exact, anatomy)
    for text in ("lora@attention.query + ia3@attention.value", "lora@attention.query + ia3@attention.query"):
        candidate = parse(text + others)
        assert tally(candidate) == exact(candidate)


@pytest.mark.parametrize("preset", ["s3delta", "bipeft"])
def test_many_parts_ask_about_pairs_and_not_about_every_set_of_them(preset: str) -> None:
    """There are 2^15 sets of parts, and four methods."""
    anatomy = tiny_anatomy(12)
    exact = Counted(anatomy)
    fitting = Fitting(bind(SpaceSpec(preset=preset), anatomy), Tally(exact, anatomy), 4000)
    drawn = {one.sha256 for _ in range(150) if (one := fitting.draw()) is not None}
    assert len(drawn) > 100
    assert exact.asked < 120
