"""The forest: the volume that a point adds, and what it proposes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.score import Cost
from evaluators.synthetic import SyntheticCoster
from evaluators.tabulated import Table
from orchestrator.dominance import hypervolume, non_dominated
from orchestrator.ends import by_mean_gains
from orchestrator.expected_volume import Box, Option, added_volume, least_known
from orchestrator.history import History, Told
from orchestrator.preparation import Prepared
from orchestrator.proposals import Proposals
from orchestrator.samplers.forest import Calibrated, Described
from orchestrator.simulation import simulate, tabulated
from orchestrator.spec import Objective, StudySpec
from orchestrator.trees import Numbers
from orchestrator.trial import Trial
from search_space.candidate import Candidate
from search_space.knobs import RandomChooser
from search_space.points import Points
from search_space.space import Space
from tests.orchestrator.made_up import make_score, make_trial
from tests.orchestrator.tables import space_of, spec_of, table_of

unit = st.floats(0.0, 1.0)


@given(st.integers(1, 2), st.data())
def test_what_a_point_adds_is_the_difference_of_two_hypervolumes(objectives: int, data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.lists(unit, min_size=objectives, max_size=objectives), max_size=8))
    point = data.draw(st.lists(unit, min_size=objectives, max_size=objectives))
    down, corner = ["minimize"] * objectives, np.ones(objectives)
    values = np.array(rows).reshape(-1, objectives)
    front = values[non_dominated(values, down)] if rows else values
    before = hypervolume(values, corner, down) if rows else 0.0
    after = hypervolume(np.vstack([values, point]), corner, down)
    assert added_volume(np.array([point]), front)[0] == pytest.approx(after - before, abs=1e-9)


def test_with_three_objectives_it_is_near() -> None:
    rng = np.random.default_rng(0)
    values, points = rng.random((12, 3)), rng.random((20, 3))
    down = ["minimize"] * 3
    front = values[non_dominated(values, down)]
    exact = [
        hypervolume(np.vstack([front, one]), np.ones(3), down) - hypervolume(front, np.ones(3), down) for one in points
    ]
    assert added_volume(points, front) == pytest.approx(np.array(exact), abs=0.02)


def test_it_finds_more_than_chance_on_the_same_steps() -> None:
    table = table_of(200)

    def found(sampler: str, seed: int) -> float:
        search = {"sampler": sampler, "seed": seed, "early_stopping": {"rungs": 1}}
        spec = spec_of(search=search, budgets={"trials": 25})
        done = [one for one in simulate(spec, space_of(spec), table).trials() if one.state == "complete" and one.cost]
        values = [[one.scores[-1]["accuracy"], np.log10(one.cost.trainable_params)] for one in done if one.cost]
        return hypervolume(np.array(values), [0.5, 5.5], ["maximize", "minimize"])

    assert np.mean([found("forest", seed) for seed in range(3)]) > np.mean([found("random", s) for s in range(3)])


def test_what_was_stopped_counts_as_what_it_would_have_come_to() -> None:
    def trial(number: int, *accuracies: float, steps: tuple[int, ...] = (10, 30, 90)) -> Trial:
        scores = [make_score({"accuracy": one}, step) for one, step in zip(accuracies, steps, strict=False)]
        return replace(make_trial(number), scores=tuple(scores))

    done = [trial(0, 0.5, 0.7, 0.9), trial(1, 0.6, 0.8, 0.9)]
    stopped, late, elsewhere = trial(2, 0.4), trial(3, 0.4, 0.6), trial(4, 0.4, steps=(20,))
    assert _came_to([*done, stopped, late, elsewhere]) == pytest.approx([0.9, 0.9, 0.75, 0.75, None])
    assert _came_to([stopped, late]) == [None, None]
    assert by_mean_gains([stopped, late], "accuracy", _told([*done, stopped]).means("accuracy")) == pytest.approx(
        [0.75, 0.75]
    )
    assert _came_to(done, "latency_ms") == [None, None]


def test_candidates_of_one_architecture_have_in_common_what_trees_do_not_explain() -> None:
    """Numbers say nothing here; of one architecture several were bad, of another one was good."""
    draw = np.random.RandomState(0)
    names = np.array([f"other {at}" for at in range(20)] + ["bad"] * 4 + ["good"])
    values = np.concatenate([draw.normal(0.6, 0.1, 20), draw.normal(0.2, 0.02, 4), [0.9]])
    known = Described(draw.uniform(size=(25, 3)).astype(np.float32), names)
    asked = Described(draw.uniform(size=(3, 3)).astype(np.float32), np.array(["bad", "good", "new"]))
    means, deviations = Calibrated(known, values, seed=0).moments(asked)
    assert means[0] < 0.35 < 0.5 < means[2] < means[1]
    assert deviations[0] < deviations[1] < deviations[2]


def test_a_shorter_training_that_ended_counts_as_it_is() -> None:
    done = replace(make_trial(0), scores=(make_score({"accuracy": 0.5}, 10), make_score({"accuracy": 0.8}, 90)))
    half = replace(make_trial(1), scores=(make_score({"accuracy": 0.6}, 45, full=45),))
    assert _came_to([done, half]) == pytest.approx([0.8, 0.6])


def _told(trials: list[Trial], metric: str = "accuracy") -> Told:
    known = [replace(one, cost=Cost(1, 1)) for one in trials]
    return History((metric,), (metric,), lambda _: metric in known[0].scores[-1].values).of(known)


def _came_to(trials: list[Trial], metric: str = "accuracy") -> list[float | None]:
    return by_mean_gains(trials, metric, _told(trials, metric).means(metric))


def test_what_it_proposes_follows_from_the_history_alone() -> None:
    table, spec = table_of(80), spec_of(search={"sampler": "forest"})
    space = space_of(spec)
    trials = simulate(spec, space, table).trials()
    again = [_fresh(spec, space, table).propose(20, trials, set()) for _ in range(2)]
    assert again[0] == again[1] is not None


def _fresh(spec: StudySpec, space: Space, table: Table) -> Proposals:
    return Proposals(spec, tabulated(spec, space, table))


def test_with_one_objective_it_is_sooner_than_chance_and_stops_what_it_promised() -> None:
    table = table_of(200)
    good = sorted(one.validation[-1][0] for one in table.main() if not one.cause)[-4]

    def steps_to_good(sampler: str, seed: int) -> int:
        spent = 0
        for one in _for_accuracy(table, sampler, seed):
            spent += one.steps
            if one.state == "complete" and one.scores[-1]["accuracy"] >= good:
                break
        return spent

    means = [np.mean([steps_to_good(sampler, seed) for seed in range(4)]) for sampler in ("forest", "random")]
    assert means[0] < means[1]
    promised = [one for one in _for_accuracy(table, "forest", 0) if one.origin == "forest"]
    assert {"partial", "complete"} <= {one.state for one in promised}


def test_with_one_objective_seeds_do_not_promise_the_same_in_the_same_order() -> None:
    """So it was while only the trees' own means counted: none is above the best seen, so all options were equal."""
    table = table_of(200)
    promised = [
        [one.candidate.sha256 for one in _for_accuracy(table, "forest", seed) if one.origin == "forest"][:10]
        for seed in range(2)
    ]
    assert len(set(promised[0]) & set(promised[1])) < 8


def _for_accuracy(table: Table, sampler: str, seed: int) -> list[Trial]:
    spec = spec_of(
        search={"sampler": sampler, "seed": seed, "early_stopping": {"rungs": 3}},
        objectives=[{"maximize": "accuracy"}],
        budgets={"trials": 200, "steps": 25 * 90},
    )
    return simulate(spec, space_of(spec), table).trials()


class _Asked(SyntheticCoster):
    """Notes which candidates' whole costs were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.candidates: list[Candidate] = []

    def cost(self, candidate: Candidate, within: float | None = None) -> Cost:
        self.candidates.append(candidate)
        return super().cost(candidate, within)


def test_memory_is_predicted_of_what_is_promising_only_and_what_is_over_the_budget_is_passed_over() -> None:
    spec = spec_of(search={"sampler": "forest", "early_stopping": {"rungs": 1}})
    prepared = tabulated(spec, space_of(spec), table_of(80))
    trials = simulate(spec, space_of(spec), table_of(80)).trials()

    def proposed(limit: float) -> tuple[Candidate | None, list[Candidate]]:
        coster = _Asked()
        free = replace(prepared, coster=coster, points=None, limits={"peak_memory_bytes": limit})
        beginning = Proposals(spec, free).propose(20, trials, set())
        return beginning.candidate if beginning else None, coster.candidates

    first, asked = proposed(1e12)
    assert asked == [first]
    assert first is not None
    peak = SyntheticCoster().cost(first).peak_memory_bytes
    assert peak is not None
    second, asked = proposed(peak - 1)
    assert asked[0] == first
    assert asked[-1] == second != first


def test_what_was_found_to_be_over_the_budget_does_not_change_what_a_resumed_study_proposes() -> None:
    spec = spec_of(search={"sampler": "forest"})
    prepared = tabulated(spec, space_of(spec), table_of(80))
    trials = simulate(spec, space_of(spec), table_of(80)).trials()
    peaks = [SyntheticCoster().cost(one.candidate).peak_memory_bytes or 0 for one in trials]
    free = replace(prepared, coster=SyntheticCoster(), points=None, limits={"peak_memory_bytes": float(min(peaks))})
    proposals = Proposals(spec, free)
    uninterrupted = [proposals.propose(number, trials, set()) for number in range(20, 26)]
    assert uninterrupted == [Proposals(spec, free).propose(number, trials, set()) for number in range(20, 26)]


def _without_lora(**given: Any) -> tuple[StudySpec, Prepared]:
    """A study whose space has no plain LoRA, and what it drew from is the space itself."""
    space = {"methods": {"serial_adapter": {}, "parallel_adapter": {}}, "hybrids": []}
    spec = spec_of(**{"search": {"sampler": "forest"}, "space": space, **given})
    prepared = tabulated(spec_of(), space_of(spec_of()), table_of())
    return spec, replace(prepared, space=space_of(spec), coster=SyntheticCoster(), points=None)


def test_without_plain_lora_a_front_over_costs_begins_with_the_cheapest() -> None:
    """The defaults of what is listed first may be the largest candidate of the space, next to the limit."""
    spec, prepared = _without_lora()
    chooser = RandomChooser(0)
    drawn = [prepared.space.draw(chooser) for _ in range(60)]
    sizes = sorted({prepared.count(one) for one in drawn})
    first = Proposals(spec, replace(prepared, points=Points(prepared.space, drawn))).propose(0, [], set())
    assert first is not None
    assert prepared.count(first.candidate) == sizes[0]
    free = Proposals(spec, prepared).propose(0, [], set())
    assert free is not None
    assert prepared.count(free.candidate) <= sizes[1]
    other = Proposals(spec, prepared).propose(0, [], {free.candidate.sha256})
    assert other is not None
    assert other.candidate != free.candidate


def test_what_is_begun_with_is_within_all_budgets() -> None:
    spec, prepared = _without_lora()
    cheapest = Proposals(spec, prepared).propose(0, [], set())
    assert cheapest is not None
    peak = SyntheticCoster().cost(cheapest.candidate).peak_memory_bytes
    assert peak is not None
    limited = replace(prepared, limits={"peak_memory_bytes": peak - 1.0})
    another = Proposals(spec, limited).propose(0, [], set())
    assert another is None or another.candidate != cheapest.candidate


@pytest.mark.parametrize("given", [{"objectives": [{"maximize": "accuracy"}]}, {"search": {"sampler": "tpe"}}])
def test_the_sampler_draws_the_first_without_a_cost_to_search_for_or_a_forest(given: dict[str, Any]) -> None:
    spec, prepared = _without_lora(**given)
    assert Proposals(spec, prepared).propose(0, [], set()) is None


@pytest.mark.parametrize(("metric", "scale", "worst"), [("latency_ms", 0.1, 3.0), ("latency_ms", 1e3, 1e4)])
def test_costs_are_told_apart_whatever_their_unit(metric: str, scale: float, worst: float) -> None:
    """Latencies below a millisecond were all alike while the axis of each cost began at 1."""
    objective = Objective(metric=metric, direction="minimize")
    trials = [make_trial(number, {metric: scale * value}) for number, value in enumerate((1.0, 5.0, 9.0))]
    least = least_known([objective], {metric: worst}, _told(trials, metric).least, [Option(Numbers({}), {}, "")])
    box = Box([objective], {metric: worst}, least)
    values = box.of(np.array([[0.0], [scale], [5 * scale], [9 * scale], [worst]]))[:, 0]
    assert values[0] == 0.0
    assert values[-1] == pytest.approx(1.0)
    assert np.diff(values).min() > 0.02


def test_parameters_count_from_one() -> None:
    size = Objective(metric="trainable_params", direction="minimize")
    box = Box([size], {size.metric: 1e4}, least_known([size], {size.metric: 1e4}, {}, [Option(Numbers({}), {}, "")]))
    assert box.of(np.array([[0.0], [1.0], [100.0], [1e4]]))[:, 0] == pytest.approx([0.0, 0.0, 0.5, 1.0])
