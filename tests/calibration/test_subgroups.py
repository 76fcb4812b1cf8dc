"""Subgroups: each scored as if alone, few rows pooled, the worst told from chance; temperatures drawn together."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.stats import kstest

from calibration import (
    SubgroupTemperatures,
    ece_floor,
    fit_subgroup_temperatures,
    fit_temperature,
    nll,
    subgroup_scores,
)
from calibration.ece import debiased_squared_error, ece
from calibration.errors import CalibrationError, DocumentError, OptionError, SeenRowsError
from calibration.report import report
from calibration.scorecard import Settings
from calibration.subgroups import OTHERS

TEMPERATURES = {"a": 1.0, "b": 4.0}
QUICK = Settings(draws=100, resamples=100)


def in_two_tempers(draw, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of two subgroups: one calibrated as it is, one four times too sure."""
    parts = [draw(n, temperature=one, seed=2 * seed + at) for at, one in enumerate(TEMPERATURES.values())]
    return (*(np.concatenate(one) for one in zip(*parts, strict=True)), np.repeat(list(TEMPERATURES), n))


def test_each_is_scored_as_if_it_were_alone(probabilities) -> None:
    p, labels = probabilities(300, seed=1)
    names = np.array(["x", "y", "z"])[np.arange(300) % 3]
    found = subgroup_scores(p, labels, names, draws=200)
    assert [one.name for one in found.scores] == ["x", "y", "z"]
    for one in found.scores:
        rows = names == one.name
        floor = ece_floor(p[rows], labels[rows], draws=200)
        assert (one.n, one.ece, one.floor) == (100, ece(p[rows], labels[rows]), floor.floor_mean)
        assert one.nll == pytest.approx(nll(p[rows], labels[rows]))
        assert one.gap == pytest.approx(p[rows].max(axis=1).mean() - one.accuracy)
        assert one.debiased_squared_error == debiased_squared_error(p[rows], labels[rows])
    assert found.worst is not None
    assert found.worst.debiased_squared_error == max(one.debiased_squared_error for one in found.scores)
    assert (found.pooled, found.left_out) == ((), 0)


def test_the_small_are_scored_together_or_not_at_all(probabilities) -> None:
    p, labels = probabilities(200)
    names = np.array(["big"] * 120 + ["one"] * 30 + ["two"] * 30 + ["three"] * 20)
    found = subgroup_scores(p, labels, names, draws=50)
    assert [(one.name, one.n) for one in found.scores] == [("big", 120), (OTHERS, 80)]
    assert (found.pooled, found.left_out) == (("one", "three", "two"), 0)
    found = subgroup_scores(p, labels, names, least=100, draws=50)
    assert ([one.name for one in found.scores], found.left_out) == (["big"], 80)
    none = subgroup_scores(p, labels, names, least=500, draws=50)
    assert (none.scores, none.left_out, none.worst) == ((), 200, None)
    assert "200 rows of small subgroups are not scored" in none.text()[-1]


def test_the_one_that_is_not_calibrated_is_found_and_chance_is_not(draw, probabilities) -> None:
    logits, labels, names = in_two_tempers(draw, 500)
    common = fit_temperature(logits, labels).probabilities(logits)
    found = subgroup_scores(common, labels, names)
    assert found.worst is not None
    assert found.worst.p_value < 0.01
    p, truth = probabilities(600, seed=3)
    fair = subgroup_scores(p, truth, np.arange(600) % 6)
    assert fair.worst is not None
    assert fair.worst.p_value > 0.05
    assert "not distinguishable from a perfect model" in fair.text()[-1]


def test_p_values_hold_their_level_over_all_subgroups_together(probabilities) -> None:
    """On perfect models the least adjusted p of five is below 0.2 in no more than a fifth of them."""
    least = []
    for seed in range(150):
        p, labels = probabilities(300, seed=seed)
        found = subgroup_scores(p, labels, np.arange(300) % 5, bins=5, draws=99, seed=seed)
        least.append(min(one.p_value for one in found.scores))
    assert np.mean(np.array(least) <= 0.2) <= 0.2 + 2.6 * math.sqrt(0.2 * 0.8 / 150)
    alone = []
    for seed in range(100):
        p, labels = probabilities(60, seed=seed)
        alone.append(subgroup_scores(p, labels, ["only"] * 60, bins=5, draws=99, seed=seed).scores[0].p_value)
    assert kstest(alone, "uniform").pvalue > 0.01


def test_temperatures_find_what_differs(draw) -> None:
    logits, labels, names = in_two_tempers(draw, 2000)
    fit = fit_subgroup_temperatures(logits, labels, names)
    for name, truth in TEMPERATURES.items():
        alone = fit_temperature(logits[names == name], labels[names == name]).temperature
        assert fit.temperatures[name] == pytest.approx(truth, rel=0.1)
        assert abs(math.log(fit.temperatures[name] / alone)) < 0.02, "with many rows hardly drawn"
        assert 1.0 < fit.common.temperature < 4.0
    fresh, truths, kinds = in_two_tempers(draw, 500, seed=5)
    after = fit.held_out_log_probabilities(fresh, kinds)
    mine = -after[np.arange(1000), truths].mean()
    assert mine < nll(fit.common.probabilities(fresh), truths) - 0.01


def test_where_nothing_differs_nobody_is_moved(draw) -> None:
    logits, labels = draw(400, temperature=3.0)
    fits = [fit_subgroup_temperatures(logits, labels, np.random.default_rng(s).integers(0, 4, 400)) for s in range(20)]
    still = [one for one in fits if one.spread == 0.0]
    assert len(still) >= 8, "about half the time the estimate is exactly zero"
    for one in still:
        assert list(one.temperatures.values()) == pytest.approx([one.common.temperature] * 4)
    assert max(one.spread for one in fits) < 0.25


def test_the_shrinkage_is_the_published_formula(draw) -> None:
    logits, labels, names = in_two_tempers(draw, 100)
    fit = fit_subgroup_temperatures(logits, labels, names)
    own = {name: fit_temperature(logits[names == name], labels[names == name]) for name in TEMPERATURES}
    x = np.array([math.log(one.temperature) for one in own.values()])
    s = np.array([one.standard_error / one.temperature for one in own.values() if one.standard_error])
    w = 1 / s**2
    q = w @ (x - w @ x / w.sum()) ** 2
    variance = max(0.0, (q - 1) / (w.sum() - (w**2).sum() / w.sum()))
    center = math.log(fit.common.temperature)
    expected = np.exp(center + variance / (variance + s**2) * (x - center))
    assert list(fit.temperatures.values()) == pytest.approx(expected.tolist())
    assert fit.spread == pytest.approx(math.sqrt(variance))


def test_what_has_no_optimum_or_was_not_seen_has_the_common_temperature(draw) -> None:
    logits, labels, names = in_two_tempers(draw, 200)
    right = np.array([[5.0, 0, 0, 0], [0, 5.0, 0, 0]] * 5)
    fit = fit_subgroup_temperatures(
        np.vstack([logits, right]), [*labels, *[0, 1] * 5], [*names, *["separable"] * 10], ids=range(410)
    )
    assert fit.temperatures["separable"] == pytest.approx(fit.common.temperature)
    assert fit.apply(logits[:1], ["new"]) == pytest.approx(logits[:1] / fit.common.temperature)
    with pytest.raises(SeenRowsError):
        fit.held_out_log_probabilities(logits[:5], names[:5], ids=range(5))


def test_what_is_written_is_read(draw) -> None:
    fit = fit_subgroup_temperatures(*in_two_tempers(draw, 100))
    document = json.loads(json.dumps(fit.to_json()))
    assert SubgroupTemperatures.from_json(document) == fit
    for broken in ({"temperatures": {}}, {"temperatures": {"a": -1.0}}, {"spread": -0.1}, {"kind": "vector"}):
        with pytest.raises(DocumentError):
            SubgroupTemperatures.from_json(document | broken)


def test_bad_subgroups_are_refused(draw, probabilities) -> None:
    p, labels = probabilities(100)
    for wrong in (["a"] * 99, [["a"]] * 100, np.r_[np.nan, np.ones(99)]):
        with pytest.raises(CalibrationError, match="subgroups"):
            subgroup_scores(p, labels, wrong)
    with pytest.raises(OptionError, match="least"):
        subgroup_scores(p, labels, ["a"] * 100, least=1)
    logits, labels = draw(100)
    own = fit_subgroup_temperatures(logits, labels, np.arange(100) % 2)
    with pytest.raises(OptionError, match="need the calibrator"):
        report(logits, labels, by_subgroup=own, subgroups=np.arange(100) % 2, settings=QUICK)


def test_a_report_tells_them(draw) -> None:
    logits, labels, names = in_two_tempers(draw, 150)
    fresh, truths, kinds = in_two_tempers(draw, 150, seed=7)
    fits = {
        "calibrator": fit_temperature(logits, labels),
        "by_subgroup": fit_subgroup_temperatures(logits, labels, names),
    }
    found = report(fresh, truths, subgroups=kinds, settings=QUICK, **fits)
    assert found.subgroups is not None
    assert found.by_subgroup is not None
    assert found.subgroups == subgroup_scores(fits["calibrator"].probabilities(fresh), truths, kinds, draws=100)
    assert found.by_subgroup.high < 0
    text = found.text()
    assert "worst calibrated:" in text
    assert "a temperature for each subgroup: nll -0." in text
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["subgroups"]["worst"] in TEMPERATURES
    assert report(fresh, truths, settings=QUICK).subgroups is None
