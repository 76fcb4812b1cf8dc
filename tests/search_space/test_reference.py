"""The page of methods says what the registry says."""

from __future__ import annotations

from search_space import reference
from search_space.registry import methods


def test_the_page_is_what_the_registry_says() -> None:
    assert reference.PAGE.read_text() == reference.page(), "run `python -m search_space.reference`"


def test_every_method_has_its_section() -> None:
    page = reference.page()
    assert all(f"\n## {name}\n" in page for name in methods())
