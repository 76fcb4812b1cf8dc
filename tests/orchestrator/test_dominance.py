"""Dominance against brute force and against moocore (Fonseca's algorithms in C)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import stdtrit

from orchestrator import dominance
from orchestrator.dominance import (
    LEAST_BULGE,
    hypervolume,
    hypervolume_interval,
    is_among_first,
    knee,
    non_dominated,
    normalized_hypervolume,
    order,
    probability_non_dominated,
    ranks,
)

MIN2 = ["minimize", "minimize"]
SMALL = st.integers(-3, 3).map(float)
BROKEN = st.sampled_from([float("nan"), float("inf"), float("-inf")])


@st.composite
def tables(draw, elements=SMALL, most=12):
    """Values with many ties, and a direction for each column."""
    columns = draw(st.integers(1, 3))
    rows = draw(st.integers(0, most))
    values = draw(hnp.arrays(np.float64, (rows, columns), elements=elements))
    return values, draw(st.lists(st.sampled_from(["maximize", "minimize"]), min_size=columns, max_size=columns))


def dominates(one, other, directions):
    signs = [-1 if word == "maximize" else 1 for word in directions]
    pairs = [(sign * a, sign * b) for sign, a, b in zip(signs, one, other, strict=True)]
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


@given(tables())
def test_the_mask_is_what_the_definition_says(table):
    values, directions = table
    expected = [not any(dominates(other, row, directions) for other in values) for row in values]
    assert non_dominated(values, directions).tolist() == expected


@given(tables())
def test_ranks_peel_the_fronts_off(table):
    values, directions = table
    found = ranks(values, directions)
    for rank in range(found.max(initial=-1) + 1):
        left = np.flatnonzero(found >= rank)
        assert (found[left] == rank).tolist() == non_dominated(values[left], directions).tolist()


@given(tables(elements=st.floats(-1e6, 1e6), most=60))
@settings(max_examples=60)
def test_mask_and_ranks_agree_with_moocore(table):
    moocore = pytest.importorskip("moocore")
    values, directions = table
    if not len(values):
        return
    maximise = [word == "maximize" for word in directions]
    expected = moocore.is_nondominated(values, maximise=maximise, keep_weakly=True)
    assert non_dominated(values, directions).tolist() == expected.tolist()
    costs = np.unique(dominance.oriented(values, directions), axis=0)
    assert ranks(costs, ["minimize"] * costs.shape[1]).tolist() == moocore.pareto_rank(costs).tolist()


@given(tables(elements=SMALL | BROKEN))
def test_broken_rows_change_nothing_for_the_others(table):
    values, directions = table
    sound = np.isfinite(values).all(axis=1)
    assert not non_dominated(values, directions)[~sound].any()
    assert non_dominated(values, directions)[sound].tolist() == non_dominated(values[sound], directions).tolist()
    assert ranks(values, directions)[sound].tolist() == ranks(values[sound], directions).tolist()
    assert np.flatnonzero(~sound).tolist() == order(values, directions)[sound.sum() :].tolist()
    reference = -4.0 * np.array([1 if word == "maximize" else -1 for word in directions])
    assert hypervolume(values, reference, directions) == hypervolume(values[sound], reference, directions)


@given(tables(elements=SMALL | BROKEN))
def test_the_order_is_a_permutation_that_never_goes_back_a_rank(table):
    values, directions = table
    found = order(values, directions)
    assert sorted(found.tolist()) == list(range(len(values)))
    assert (np.diff(ranks(values, directions)[found]) >= 0).all()


@given(tables(elements=SMALL | BROKEN))
def test_who_is_among_the_first_is_what_the_order_says(table):
    values, directions = table
    found = [one for one in order(values, directions) if np.isfinite(values[one]).all()]
    for count in range(len(values) + 1):
        first = [is_among_first(row, count, values, directions) for row in found]
        assert first == [place < count for place in range(len(found))]


def test_within_a_rank_the_order_spreads_out():
    front = [[position, 8 - position] for position in range(9)]
    assert order(front, MIN2)[:5].tolist() == [0, 8, 4, 2, 6]


def test_the_order_starts_with_the_best_of_the_first_objective():
    values = [[0.7, 10.0], [0.9, 500.0], [0.8, 20.0], [0.6, 30.0]]
    assert order(values, ["maximize", "minimize"]).tolist() == [1, 0, 2, 3]


def test_the_order_does_not_depend_on_units():
    generator = np.random.default_rng(0)
    values = generator.random((40, 3))
    scaled = values * [1.0, 1e6, 1e-3] + [5.0, 0.0, 1.0]
    directions = ["maximize", "minimize", "minimize"]
    assert order(values, directions).tolist() == order(scaled, directions).tolist()


@given(tables(elements=st.integers(-30, 30).map(lambda n: n / 10), most=40))
@settings(max_examples=150)
def test_hypervolume_agrees_with_moocore(table):
    moocore = pytest.importorskip("moocore")
    values, directions = table
    reference = np.array([-2.0 if word == "maximize" else 2.0 for word in directions])
    expected = 0.0
    if len(values):
        costs, corner = dominance.oriented(values, directions), np.full(len(directions), 2.0)
        # moocore takes two objectives and more: a constant column of depth one changes no volume.
        padded = np.column_stack([costs, np.zeros(len(costs))]), np.append(corner, 1.0)
        expected = moocore.hypervolume(padded[0], ref=padded[1])
    assert hypervolume(values, reference, directions) == pytest.approx(expected, abs=1e-9)


def test_hypervolume_of_plain_cases():
    assert hypervolume([[0.8]], [0.5], ["maximize"]) == pytest.approx(0.3)
    assert hypervolume([[0.8, 20.0], [0.6, 10.0]], [0.5, 100.0], ["maximize", "minimize"]) == pytest.approx(25.0)
    assert hypervolume(np.zeros((0, 2)), [1.0, 1.0], MIN2) == 0.0
    assert hypervolume([[1.0, 0.0], [0.0, 1.0]], [1.0, 1.0], MIN2) == 0.0, "on the reference's edge"


@given(tables())
def test_the_normalized_hypervolume_is_a_share(table):
    values, directions = table
    signs = np.array([1.0 if word == "maximize" else -1.0 for word in directions])
    share = dominance.normalized_hypervolume(values, -2 * signs, 2 * signs, directions)
    assert 0.0 <= share <= 1.0
    inside = hypervolume(values.clip(-2, 2), -2 * signs, directions) / 4.0 ** len(directions)
    assert share == pytest.approx(inside)


def test_what_the_hypervolume_refuses():
    with pytest.raises(ValueError, match="one to three objectives, not 4"):
        hypervolume(np.zeros((2, 4)), np.ones(4), ["minimize"] * 4)
    with pytest.raises(ValueError, match="finite point"):
        hypervolume(np.zeros((2, 2)), [1.0, np.nan], MIN2)
    with pytest.raises(ValueError, match="ideal point must be better"):
        dominance.normalized_hypervolume(np.zeros((2, 2)), [1.0, 1.0], [0.0, 1.0], MIN2)


def test_the_knee_is_where_the_front_bends():
    values = [[0.60, 1.0], [0.88, 2.0], [0.90, 9.0], [0.70, 8.0], [0.89, 4.0]]
    assert knee(values, ["maximize", "minimize"]) == 1


@pytest.mark.parametrize(
    "values",
    [
        [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]],
        [[0.0, 1.0], [1.0, 0.0]],
        [[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]],
        [[0.0, 1.0], [0.7, 0.7], [1.0, 0.0]],
        np.zeros((0, 2)),
        [[1.0, 2.0]],
    ],
    ids=["straight", "two points", "two different points", "bent away from the ideal", "empty", "one point"],
)
def test_no_knee(values):
    assert knee(values, MIN2) is None


def test_a_bulge_counts_from_the_least_one():
    for bulge, expected in ((LEAST_BULGE * 1.01, 1), (LEAST_BULGE * 0.99, None)):
        middle = 0.5 - bulge / np.sqrt(2)
        assert knee([[0.0, 1.0], [middle, middle], [1.0, 0.0]], MIN2) == expected


def test_three_objectives_have_no_knee():
    assert knee(np.eye(3), ["minimize"] * 3) is None


def test_well_separated_candidates_are_certain():
    samples = [[[0.9, 5.0], [0.91, 5.0]], [[0.7, 6.0], [0.71, 6.0]], [[0.5, 1.0], [0.51, 1.0]]]
    found = probability_non_dominated(samples, ["maximize", "minimize"])
    assert found.tolist() == [1.0, 0.0, 1.0]


def test_equals_share_the_probability():
    generator = np.random.default_rng(1)
    samples = [np.column_stack([generator.normal(0.9, 0.01, 5), [7.0] * 5]) for _ in range(2)]
    samples[1][:, 0] += samples[0][:, 0].mean() - samples[1][:, 0].mean()
    found = probability_non_dominated(samples, ["maximize", "minimize"])
    assert found == pytest.approx([0.5, 0.5], abs=0.06)
    assert found.sum() >= 1.0


def test_drawn_means_are_students_t_with_the_variance_pooled():
    generator = np.random.default_rng(2)
    samples = [generator.normal(0.0, 1.0, (seeds, 2)) for seeds in (3, 2, 1)]
    samples.append(np.array([[np.nan, 1.0], [2.0, 1.0]]))
    drawn = dominance._drawn_means(samples, 200_000, generator)
    freedom = 2 + 1
    variance = (samples[0].var(axis=0, ddof=1) * 2 + samples[1].var(axis=0, ddof=1)) / freedom
    for at, seeds in enumerate((3, 2, 1)):
        reach = stdtrit(freedom, 0.975) * np.sqrt(variance / seeds)
        low, high = np.quantile(drawn[:, at], [0.025, 0.975], axis=0)
        assert (high - low) / 2 == pytest.approx(reach, rel=0.02)
        assert (high + low) / 2 == pytest.approx(samples[at].mean(axis=0), abs=0.02 * reach.max())
    assert np.isnan(drawn[:, 3]).all()


def test_without_a_second_seed_means_stay_where_they_are():
    drawn = dominance._drawn_means([np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]])], 5, np.random.default_rng(0))
    assert (drawn == [[1.0, 2.0], [3.0, 4.0]]).all()


CLOSE = [(0.90, 0.2), (0.905, 0.25), (0.91, 0.3), (0.912, 0.35)]
EQUAL = [(0.9, 0.2), (0.9, 0.21), (0.9, 0.22), (0.9, 0.23)]


@pytest.mark.parametrize("truth", [CLOSE, EQUAL], ids=["close", "equal"])
def test_the_interval_of_the_hypervolume_holds_the_truth(truth):
    """Four candidates on three seeds that deviate by 0.01, 250 times: the interval is one of 95 %."""
    generator, directions = np.random.default_rng(0), ["maximize", "minimize"]
    box = [0.5, 1.0], [1.0, 0.0], directions
    true, held = normalized_hypervolume(truth, *box), []
    for seed in range(250):
        samples = [[[generator.normal(quality, 0.01), cost] for _ in range(3)] for quality, cost in truth]
        value, low, high = hypervolume_interval(samples, *box, draws=200, seed=seed)
        assert low <= value <= high
        held.append(low <= true <= high)
    assert np.mean(held) >= 0.92


def test_a_firm_candidate_is_truly_non_dominated():
    """Of those called non-dominated with a probability of 0.9 or more, nine in ten are, whatever the spread."""
    generator, right = np.random.default_rng(5), []
    for seed in range(200):
        truth = generator.normal(0.9, 0.01, 4)
        samples = [[[generator.normal(one, 0.01), 1.0] for _ in range(3)] for one in truth]
        chances = probability_non_dominated(samples, ["maximize", "minimize"], draws=500, seed=seed)
        right += [truth[at] == truth.max() for at in np.flatnonzero(chances >= 0.9)]
    assert len(right) > 20
    assert np.mean(right) >= 0.9


def test_one_seed_has_no_probability_but_takes_part():
    samples = [[[0.95, 1.0]], [[0.9, 1.0], [0.9, 1.0]], [[np.nan, 1.0], [0.99, 1.0]]]
    found = probability_non_dominated(samples, ["maximize", "minimize"])
    assert np.isnan(found).tolist() == [True, False, True]
    assert found[1] == 0.0


def test_probabilities_are_reproducible_and_may_be_empty():
    samples = np.random.default_rng(3).random((4, 3, 2))
    first, second = (probability_non_dominated(list(samples), MIN2, draws=500) for _ in range(2))
    assert first.tolist() == second.tolist()
    assert probability_non_dominated([], MIN2).shape == (0,)


@pytest.mark.parametrize("function", [non_dominated, ranks, order, knee])
def test_bad_shapes_and_directions_are_refused(function):
    with pytest.raises(ValueError, match=r"shape \(n, 2\)"):
        function(np.zeros(3), MIN2)
    with pytest.raises(ValueError, match=r"shape \(n, 1\)"):
        function(np.zeros((3, 2)), ["minimize"])
    with pytest.raises(ValueError, match="'maximize' or 'minimize'"):
        function(np.zeros((3, 1)), ["up"])


def test_values_are_not_changed():
    values = np.random.default_rng(4).random((9, 2))
    before = values.copy()
    for function in (non_dominated, ranks, order, knee):
        function(values, ["maximize", "minimize"])
    assert (values == before).all()
