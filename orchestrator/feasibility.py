"""Whether anything of a space can be trained within the limits that are known before its first trial."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from evaluators.device_memory import needed_bytes
from evaluators.score import METRICS, Cost
from orchestrator.screening import excesses, foreseen
from search_space.budgets import BUDGET_OF, OF_MEMORY, violations
from search_space.candidate import Candidate, Recipe
from search_space.errors import EmptySpaceError, PlacementError, UnsupportedError
from search_space.fitting import Fitting, smallest_forms
from search_space.knobs import RandomChooser
from search_space.notation import write_parts
from search_space.registry import method
from search_space.space import Space

_DRAWS = 24
_LEAST_DRAWS = 3


def commonest(reasons: Mapping[str, int], many: int) -> str:
    """Say why candidates were refused, by the reason that most of them had.

    Args:
        reasons: How often each was given; not empty.
        many: How many candidates there were.
    """
    reason, often = Counter(reasons).most_common(1)[0]
    return f"{often} of {many}: {reason}" if many > 1 else reason


def require_trainable(
    space: Space,
    fitting: Fitting,
    cost: Callable[[Candidate], Cost],
    limits: Mapping[str, float],
    *,
    factor: float = 1.0,
    device: str = "",
) -> None:
    """Refuse a space of which no candidate can be attached and is within the limits that are known beforehand.

    Some draws are looked at, and where they all fail more of them, and the smallest form of each composition on each
    choice of its layers.

    Args:
        space: What is searched.
        fitting: Draws candidates within the budget of trainable parameters, and counts them.
        cost: Tells the cost of a candidate, or raises that it cannot be attached.
        limits: By metric.
        factor: What predicted memory is multiplied with.
        device: Where it will run, as `cuda`: a budget of memory is for more than tensors there.

    Raises:
        EmptySpaceError: None was found; with the budget that admits the nearest, or the commonest refusal.
    """
    reasons: Counter[str] = Counter()
    seen: set[str] = set()
    nearest: tuple[float, Candidate, dict[str, float]] | None = None
    for candidate in _looked_at(space, fitting):
        if candidate.architecture_sha256 in seen:
            continue
        seen.add(candidate.architecture_sha256)
        try:
            values = foreseen(cost(candidate), factor)
        except (UnsupportedError, PlacementError) as error:
            reasons[str(error)] += 1
            continue
        excess = max(violations(limits, values).values(), default=0.0)
        if excess <= 0:
            return
        if nearest is None or excess < nearest[0]:
            nearest = (excess, candidate, values)
    if nearest is None:
        raise EmptySpaceError(
            f"space: the model can carry no candidate of it: {commonest(reasons, len(seen))}"
            if reasons
            else "space: the model can carry no candidate of it; see `paretune methods`"
        )
    raise EmptySpaceError(_advice(nearest[1], nearest[2], limits, device))


def _looked_at(space: Space, fitting: Fitting) -> Iterator[Candidate]:
    """Yield the first candidate, a few draws, the smallest forms, and more draws."""
    yield space.usual()
    chooser = RandomChooser(0)
    for _ in range(_LEAST_DRAWS):
        yield fitting.draw() or space.draw(chooser)
    for composition in space.compositions:
        for _, parts in smallest_forms(composition, fitting.tally):
            rates = tuple(method(part.method).learning_rate.default for part in parts)
            yield Candidate(parts, Recipe(rates))
    for _ in range(_DRAWS - _LEAST_DRAWS):
        yield fitting.draw() or space.draw(chooser)


def _advice(nearest: Candidate, values: Mapping[str, float], limits: Mapping[str, float], device: str) -> str:
    over = excesses(limits, values)
    needs = ", ".join(over.values())
    raised = ", ".join(f"budgets.{BUDGET_OF[name]} to {_enough(name, values[name], device)}" for name in over)
    return (
        f"no candidate of the space was found within the budgets; the nearest, {write_parts(nearest)}, has {needs}. "
        f"Raise {raised}, or list smaller sizes, fewer layers or fewer projections under space.methods"
    )


def _enough(name: str, value: float, device: str) -> str:
    """Return a budget, as a study file says it, that admits a value of a metric."""
    if name in OF_MEMORY:
        value = needed_bytes(value, device)
    if METRICS[name].unit != "B":
        return f"{math.ceil(value)}"
    unit, size = ("MiB", 2**20) if value > 8 * 2**20 else ("KiB", 2**10)
    return f"{math.ceil(value / size)}{unit}"
