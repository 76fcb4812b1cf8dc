"""The semantic names of the places in a model, and the groups that stand for several of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from search_space.errors import CandidateError, did_you_mean, one_of

PROJECTIONS = (
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.output",
    "mlp.up",
    "mlp.gate",
    "mlp.down",
    "norm",
    "embeddings",
)

MODULE = "module:"
_MODULE = re.compile(r"module:[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*")
"""How one module is named: by its full dotted name, never by a pattern."""

GROUPS: dict[str, tuple[str, ...]] = {
    "linear": PROJECTIONS[:7],
    "all": PROJECTIONS[:7],
    "attention": PROJECTIONS[:4],
    "mlp": PROJECTIONS[4:7],
}


def expand_projections(words: Iterable[str]) -> tuple[str, ...]:
    """Return the projections that names and groups stand for, in the order of `PROJECTIONS`, each once.

    Single modules, such as `module:encoder.layer.0.attention.self.query`, stand behind them in alphabetical order.

    Raises:
        CandidateError: A word is neither a projection nor a group nor the full name of a module.
    """
    return _expanded(tuple(words))


@lru_cache(maxsize=1024)
def _expanded(words: tuple[str, ...]) -> tuple[str, ...]:
    chosen: set[str] = set()
    modules: set[str] = set()
    for word in words:
        if isinstance(word, str) and word.startswith(MODULE):
            modules.add(_checked(word))
            continue
        if word not in GROUPS and word not in PROJECTIONS:
            allowed = (*PROJECTIONS, *GROUPS)
            raise CandidateError(
                f"{word!r} is not a projection{did_you_mean(str(word), allowed)}; allowed: {one_of(allowed)}"
            )
        chosen.update(GROUPS.get(word, (word,)))
    return (*(name for name in PROJECTIONS if name in chosen), *sorted(modules))


def _checked(word: str) -> str:
    if not _MODULE.fullmatch(word):
        raise CandidateError(
            f"{word!r} is not the name of a module; write its full dotted name, as in "
            "'module:encoder.layer.0.attention.self.query', without patterns"
        )
    return word


def canonical_words(projections: Iterable[str]) -> tuple[str, ...]:
    """Return the fewest words that mean exactly these projections, in the order of `PROJECTIONS`.

    All seven of attention and mlp are `linear`; all four of attention are `attention`; all three of mlp are
    `mlp`; anything else keeps its own name. `all` is accepted on input only.
    """
    expanded = expand_projections(projections)
    modules = [name for name in expanded if name.startswith(MODULE)]
    rest = tuple(name for name in expanded if not name.startswith(MODULE))
    words: list[str] = []
    for group in ("linear", "attention", "mlp"):
        if set(GROUPS[group]) <= set(rest):
            words.append(group)
            rest = tuple(name for name in rest if name not in GROUPS[group])
    named = sorted([*words, *rest], key=lambda word: PROJECTIONS.index(GROUPS.get(word, (word,))[0]))
    return (*named, *modules)
