"""The registry: one file a method, each with the same names in it, none twice."""

from __future__ import annotations

import importlib
import pkgutil
from types import SimpleNamespace
from typing import get_args

import pytest

from search_space import methods as package
from search_space import registry
from search_space.candidate import Part
from search_space.errors import CandidateError
from search_space.placement import SITE_KINDS, Layers, Placement
from search_space.registry import Family, Method, Route, method, methods

MODULES = [module.name for module in pkgutil.iter_modules(package.__path__)]


@pytest.mark.parametrize("name", MODULES)
class TestEveryFile:
    def test_gives_a_method_of_its_own_name(self, name: str) -> None:
        module = importlib.import_module(f"search_space.methods.{name}")
        public = {word for word, one in vars(module).items() if getattr(one, "__module__", "") == module.__name__}
        assert isinstance(module.METHOD, Method)
        assert module.METHOD.name == name
        assert public == {"config"}
        assert module.METHOD.config is module.config

    def test_describes_itself(self, name: str) -> None:
        one = method(name)
        assert one.title
        assert one.summary.endswith(".")
        assert "arXiv:" in one.paper or "https://" in one.paper
        assert one.family in get_args(Family)
        assert one.route in get_args(Route)
        assert bool(one.peft_type) == (one.route in ("inject", "prompt"))

    def test_has_defaults_that_it_allows(self, name: str) -> None:
        one = method(name)
        one.check(one.default_part())
        for knob in one.knobs:
            assert knob.default in knob.values
            assert knob.text
            for value in knob.values:
                knob.check(name, value)
        assert one.learning_rate.low <= one.learning_rate.default <= one.learning_rate.high

    def test_can_be_put_where_it_says(self, name: str) -> None:
        rule = method(name).placement
        assert set(rule.kinds) <= set(SITE_KINDS)
        assert rule.fixed == (not rule.projections)
        assert rule.fixed == (not rule.kinds)
        for text in rule.projections:
            assert str(Placement.parse(text)) == text

    def test_refuses_another_methods_knob(self, name: str) -> None:
        part = method(name).default_part()
        with pytest.raises(CandidateError, match=f"{name} has no knob 'temperature'; allowed: "):
            method(name).check(Part(name, (*part.knobs, ("temperature", 1)), part.placement))


def test_methods_are_sorted_by_name() -> None:
    assert list(methods()) == sorted(MODULES)


def test_an_unknown_method_is_answered_with_the_nearest() -> None:
    with pytest.raises(KeyError, match=r"there is no method 'bitfitt'; allowed: .* \(did you mean 'bitfit'\?\)"):
        method("bitfitt")


def test_a_missing_knob_is_named() -> None:
    with pytest.raises(CandidateError, match="lora: 'alpha', 'use_rslora', 'use_dora', 'per_task' not set"):
        method("lora").check(Part("lora", (("r", 4),), method("lora").placement.default))


@pytest.mark.parametrize(
    ("name", "placement", "message"),
    [
        ("lora", Placement(), "lora needs projections to be put on, such as attention.query,attention.value"),
        ("head", Placement(("mlp",)), "head has its own place and takes no projections"),
        ("p_tuning", Placement((), Layers("top", (2,))), "goes into all layers and takes no choice of them"),
    ],
)
def test_a_placement_that_the_method_cannot_take_is_refused(name: str, placement: Placement, message: str) -> None:
    part = method(name).default_part()
    with pytest.raises(CandidateError, match=message):
        method(name).check(Part(name, part.knobs, placement))


@pytest.fixture
def fresh_registry():
    registry.methods.cache_clear()
    yield
    registry.methods.cache_clear()


@pytest.mark.usefixtures("fresh_registry")
def test_two_methods_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lora = method("lora")
    registry.methods.cache_clear()
    real = importlib.import_module

    def twice(name: str) -> object:
        return SimpleNamespace(METHOD=lora) if name == "search_space.methods.bitfit" else real(name)

    monkeypatch.setattr(registry.importlib, "import_module", twice)
    with pytest.raises(ValueError, match="two methods are called 'lora'"):
        registry.methods()
