"""Conformal sets that go with a calibrator: fitted on rows calibrated by others, written, read, judged."""

from __future__ import annotations

import json

import numpy as np
import pytest

from calibration import (
    cross_fitted_probabilities,
    fit_conformal,
    fit_sets,
    fit_temperature,
    sets_from_json,
    sets_to_json,
)
from calibration.errors import DocumentError, OptionError, SeenRowsError
from calibration.report import report
from calibration.scorecard import Settings

QUICK = Settings(draws=100, resamples=100)


def test_they_are_fitted_on_rows_that_others_calibrated(draw) -> None:
    logits, labels = draw(200, temperature=3.0)
    crossed = cross_fitted_probabilities(logits, labels, kind="temperature")
    assert fit_sets(logits, labels)["lac"] == fit_conformal(crossed, labels, 0.1, "lac")
    own = fit_conformal(fit_temperature(logits, labels).probabilities(logits), labels, 0.1, "lac")
    assert fit_sets(logits, labels)["lac"] != own


def test_what_is_written_is_read(draw) -> None:
    fits = fit_sets(*draw(200), kind="none")
    assert sets_from_json(json.loads(json.dumps(sets_to_json(fits)))) == fits
    few = fit_sets(*draw(12), alpha=0.01)
    assert few == {"lac": None, "aps": None}
    assert sets_from_json(sets_to_json(few)) == few
    assert fit_sets(*draw(3)) == few, "fewer rows than folds"


@pytest.mark.parametrize("kind", ["temperature", "auto", "vector"])
def test_the_promise_is_kept_with_the_calibrator_of_all_rows(draw, kind) -> None:
    """Forty fits of 300 rows, each judged on 1,000: the mean misses the promise by no more than chance."""
    from calibration.choice import choose_calibrator

    covered = []
    for seed in range(40):
        logits, labels = draw(1300, temperature=3.0, seed=seed)
        few, fresh = (logits[:300], labels[:300]), (logits[300:], labels[300:])
        calibrator, sets = choose_calibrator(*few, kind=kind).calibrator, fit_sets(*few, kind=kind)
        for fit in sets.values():
            assert fit is not None
            covered.append(fit.evaluate(calibrator.probabilities(fresh[0]), fresh[1]).coverage)
    # One fit's coverage has a standard deviation of sqrt(0.9 * 0.1 * (1/302 + 1/1000)); the two methods share rows.
    assert np.mean(covered) == pytest.approx(0.9 + 0.9 / 301, abs=3 * np.sqrt(0.09 * (1 / 302 + 1 / 1000) / 40))


def test_a_report_judges_the_sets_that_are_given(draw) -> None:
    (logits, labels), (fresh, wanted) = draw(300, temperature=3.0), draw(200, temperature=3.0, seed=9)
    calibrator, sets = fit_temperature(logits, labels), fit_sets(logits, labels)
    found = report(fresh, wanted, calibrator=calibrator, sets=sets, settings=QUICK)
    for method, fit in sets.items():
        assert fit is not None
        assert found.conformal[method] == fit.evaluate(calibrator.probabilities(fresh), wanted)
    with pytest.raises(OptionError, match="without the calibrator"):
        report(fresh, wanted, sets=sets, settings=QUICK)


def test_sets_are_not_judged_on_their_own_rows(draw) -> None:
    logits, labels = draw(300, temperature=3.0)
    fit = fit_sets(logits, labels, kind="none", ids=range(300))["lac"]
    assert fit is not None
    with pytest.raises(SeenRowsError):
        fit.evaluate(np.full((300, logits.shape[1]), 1 / logits.shape[1]), labels, ids=range(300))


def test_documents_of_another_kind_are_refused(draw) -> None:
    document = sets_to_json(fit_sets(*draw(200)))
    swapped = document | {"lac": document["aps"]}
    for broken, message in (
        (swapped, "under 'lac' there is a fit of method 'aps'"),
        (document | {"kind": "temperature"}, "kind is 'temperature'"),
        (document | {"aps": 3}, "a JSON object is needed"),
        ({"schema_version": 1, "kind": "sets"}, "lacks"),
    ):
        with pytest.raises(DocumentError, match=message):
            sets_from_json(broken)
