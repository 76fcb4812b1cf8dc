"""What a search begins with, beside plain LoRA: published architectures, another study's front, what gradients say.

They are chosen once, before the first trial, and kept with the study, so that a resumed study goes on with the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.allocations import Allocations
from orchestrator.dominance import non_dominated
from orchestrator.front import front_of_study, is_feasible
from orchestrator.preparation import Prepared
from orchestrator.spec import Objective, Proposal
from orchestrator.storage import StudyStore
from orchestrator.trial import Trial
from search_space.candidate import Candidate
from search_space.published import lora, published

_MOST_OF_A_STUDY = 5
_LEAST_TO_JUDGE = 2


@dataclass(frozen=True)
class Beginning:
    """A candidate that is tried before the sampler draws.

    Attributes:
        candidate: What is tried.
        origin: Where it comes from: a source of `search.proposals` or `study NAME`, and its name there.
    """

    candidate: Candidate
    origin: str

    @property
    def source(self) -> str:
        """Where it comes from, without its name there."""
        return _source(self.origin)


def beginnings(store: StudyStore, prepared: Prepared) -> list[Beginning]:
    """Return what a study begins with, chosen when it is asked for first.

    Candidates that are not in the study's space, that its model cannot carry, or that are over budget are left out.

    Raises:
        StudyNotFoundError: The study to start from is not there.
    """
    kept = store.noted("beginnings")
    if kept is None:
        kept = list(_kept(store, prepared))
        store.note("beginnings", kept)
    return [Beginning(Candidate.from_json(one["candidate"]), one["origin"]) for one in kept]


def mistrusted(
    source: str, trials: Sequence[Trial], objectives: Sequence[Objective], limits: Mapping[str, float]
) -> bool:
    """Whether what a source gave did no good here: a guard against negative transfer.

    So it is once two of its candidates have ended or pause and none of them is among the non-dominated that were
    trained to the end and keep the limits: they were stopped early, failed, broke a limit, or are dominated. Where one
    that paused gets there later, the source is trusted again.
    """
    ended = [one for one in trials if _source(one.origin) == source and one.state != "running"]
    ended_whole = [one for one in trials if one.state == "complete" and one.score is not None]
    whole = [one for one in ended_whole if is_feasible(one, limits)]
    if len(ended) < _LEAST_TO_JUDGE or not whole:
        return len(ended) >= _LEAST_TO_JUDGE
    values = [[one.scores[-1][objective.metric] for objective in objectives] for one in whole]
    kept = non_dominated(values, [objective.direction for objective in objectives])
    return not any(_source(one.origin) == source for one, on_front in zip(whole, kept, strict=True) if on_front)


def _kept(store: StudyStore, prepared: Prepared) -> Iterator[dict[str, Any]]:
    taken: set[str] = set()
    for one in _chosen(store, prepared):
        placed = _placed(one.candidate, prepared, taken)
        if placed is not None and placed.sha256 not in taken:
            taken.add(placed.sha256)
            yield {"candidate": placed.to_json(), "origin": one.origin}


def _chosen(store: StudyStore, prepared: Prepared) -> Iterator[Beginning]:
    search = store.spec.search
    if search.warm_start is not None:
        yield from _from_study(store, search.warm_start)
    allocations = Allocations(prepared, search.seed)
    for source in search.proposals:
        for name, candidate in _proposed(source, allocations):
            yield Beginning(candidate, f"{source}: {name}")


def _proposed(source: Proposal, allocations: Allocations) -> Iterable[tuple[str, Candidate]]:
    if source == "lora":
        return lora().items()
    return published().items() if source == "published" else allocations.of(source)


def _from_study(store: StudyStore, name: str) -> Iterator[Beginning]:
    """Yield the front of another study of the same storage: its pick, then the others, the best first."""
    other = store.storage.open(name)
    front = front_of_study(other)
    members = sorted(front.members, key=lambda one: one.trial.number != (front.pick.number if front.pick else None))
    for member in members[:_MOST_OF_A_STUDY]:
        yield Beginning(member.trial.candidate, f"study {name}: trial {member.trial.number}")


def _placed(candidate: Candidate, prepared: Prepared, taken: Collection[str]) -> Candidate | None:
    """Return the candidate, or the point near it where a table is searched; None where the study cannot try it."""
    try:
        prepared.space.encode(candidate)
    except ValueError:
        return None
    placed = candidate if prepared.points is None else prepared.points.nearest(candidate, taken)
    return placed if placed is not None and prepared.affordable(placed) is not None else None


def _source(origin: str) -> str:
    return origin.partition(":")[0]
