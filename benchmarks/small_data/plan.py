"""What is trained: each run a candidate on so many examples with a seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

from evaluators.anatomy import anatomy_of
from evaluators.backbone import load
from evaluators.spec import ModelSpec
from search_space.notation import parse, write
from search_space.space import Space, bind
from search_space.spec import SpaceSpec

MODEL = ModelSpec(name="builtin:minilm-l6", device="cpu", dtype="float32")
TASKS = ("trec", "movie")
SIZES = (50, 200, 1000, 5000)
STEPS = {50: 50, 200: 100, 1000: 150, 5000: 250}
METHODS = {
    "head": "head",
    "LoRA r=2": "lora(r=2,alpha=8)",
    "LoRA r=8": "lora(r=8,alpha=16)",
    "LoRA r=32": "lora(r=32,alpha=64)",
    "serial adapter": "serial_adapter(r=16)",
    "full": "full",
}
SEEDS = 5
POOL, POOL_SIZE = 24, 1000
"""Candidates of the random search, and examples that each is trained on."""
REFERENCE = METHODS["LoRA r=8"]
ONE_PASS_TASK, ONE_PASS_SEEDS = "trec", 3
ONE_PASS_WAYS = ("longer", "averaged", "distilled", "unlabelled", "searched")
ONE_PASS_STEPS = SEEDS * STEPS[POOL_SIZE]
"""Steps of one candidate that may train for as long as the members of the ensemble together."""
ONE_PASS_CANDIDATES, ONE_PASS_SHARES = 12, (0.2, 0.5, 1.0)
"""Candidates of the search for one pass, and lengths of training that it may choose from."""
SPREADS = ("last_layer", "diagonal", "kronecker")
LAPLACE_SIZES, LAPLACE_SEEDS = (200,), 3
"""Runs that are judged by posteriors of their weights too."""
_SPACE: dict[str, Any] = {
    "methods": {
        "lora": {"r": [2, 4, 8, 16, 32], "alpha": [16, 32], "use_rslora": [False], "use_dora": [False]},
        "serial_adapter": {"activation": ["relu"]},
        "bitfit": {},
        "prefix_tuning": {},
    },
    "hybrids": ["lora + bitfit", "serial_adapter + bitfit", "lora + serial_adapter"],
    "recipe": {"label_smoothing": [0.0, 0.05, 0.1], "dropout": [0.0, 0.1], "weight_decay": [0.01, 0.1]},
}


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        task: One of `TASKS`.
        size: Training examples; all that there are where there are fewer.
        subset: Seed of which examples.
        candidate: In the short notation.
        seed: Of initial values and order.
    """

    task: str
    size: int
    subset: int
    candidate: str
    seed: int

    def to_json(self) -> dict[str, Any]:
        """Return this run as JSON data."""
        return asdict(self)

    @classmethod
    def of(cls, row: dict[str, Any]) -> Run:
        """Return the run that a row of the results is about."""
        return cls(row["task"], row["size"], row["subset"], row["candidate"], row["seed"])


def grid(task: str, seeds: Sequence[int]) -> Iterator[Run]:
    """Yield every size and method: a seed decides examples, initial values and order."""
    for seed in seeds:
        for size in SIZES:
            for candidate in METHODS.values():
                yield Run(task, size, seed, candidate, seed)


def ensembles(task: str) -> Iterator[Run]:
    """Yield the members of the reference ensemble: one candidate, one set of examples, five seeds."""
    for seed in range(SEEDS):
        yield Run(task, POOL_SIZE, 0, REFERENCE, seed)


def pool(task: str) -> Iterator[Run]:
    """Yield the random search: the first candidate is the reference, the others are drawn."""
    for candidate in (REFERENCE, *drawn(POOL - 1)):
        yield Run(task, POOL_SIZE, 0, candidate, 0)


def planned() -> int:
    """Return how many runs there are, what the search picks on further seeds aside."""
    of_task = SEEDS * len(SIZES) * len(METHODS) + (SEEDS - 1) + (POOL - 1)  # the reference's first run is in all three
    return len(TASKS) * of_task


def drawn(count: int, seed: int = 0, recipe: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """Return candidates drawn at random from the space, in the short notation.

    Args:
        count: How many different ones.
        seed: Of the drawing.
        recipe: Further knobs of the recipe.
    """
    space, random = _space(recipe or {}), UniformDraws(Random(seed))
    found: dict[str, None] = {}
    while len(found) < count:
        found[write(space.draw(random))] = None
    return tuple(found)


def same(candidate: str) -> str:
    """Return the canonical form of a notation."""
    return write(parse(candidate))


def _space(recipe: Mapping[str, Any]) -> Space:
    spec = SpaceSpec.model_validate(_SPACE | {"recipe": {**_SPACE["recipe"], **recipe}})
    return bind(spec, anatomy_of(load(MODEL, 2).model))


@dataclass(frozen=True)
class UniformDraws:
    """Draws independently and uniformly, as the space asks."""

    random: Random

    def choice(self, name: str, options: Sequence[str]) -> str:
        """Return one of the options."""
        return self.random.choice(options)

    def integer(self, name: str, low: int, high: int) -> int:
        """Return a whole number in [low, high]."""
        return self.random.randint(low, high)

    def real(self, name: str, low: float, high: float) -> float:
        """Return a number in [low, high], uniform in its logarithm."""
        return float(low * (high / low) ** self.random.random())
