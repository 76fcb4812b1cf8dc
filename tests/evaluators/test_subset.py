"""Rungs on some rows of validation: which rows, how far their scores may be off, and what the end looks at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calibration.spec import CalibrationSpec
from evaluators.evaluation import EvaluatorSpec
from evaluators.measurement import quality
from evaluators.subset import some_rows, standard_errors
from evaluators.trained import TrainedEvaluator
from search_space.notation import parse
from tests.evaluators.test_measurement import made_up
from tests.evaluators.tiny import evaluator_spec

SPEC = CalibrationSpec(folds=3)


def test_each_class_has_its_share_of_the_rows() -> None:
    labels = np.repeat([0, 1, 2], [100, 40, 10])
    rows = some_rows(labels, 30)
    assert np.bincount(labels[rows]).tolist() == [20, 8, 2]
    assert len(set(rows.tolist())) == 30
    assert rows.tolist() == some_rows(labels, 30).tolist() == sorted(rows.tolist())


def test_more_rows_than_there_are_is_all_of_them() -> None:
    assert some_rows(np.zeros(5, dtype=np.int64), 9).tolist() == [0, 1, 2, 3, 4]


def test_errors_are_how_far_samples_lie_from_all_rows() -> None:
    """Beside the spread of the metrics over two hundred samples of a fifth of the rows."""
    logits, labels = made_up(1000)
    generator = np.random.default_rng(1)
    samples = [np.sort(generator.permutation(1000)[:200]) for _ in range(200)]
    seen = [quality(logits[rows], labels[rows], SPEC) for rows in samples]
    told = standard_errors(logits[samples[0]], labels[samples[0]], SPEC, 1000)
    assert told.keys() == seen[0].keys()
    for name in ("accuracy", "macro_f1", "nll", "calibrated_nll", "brier"):
        assert told[name] == pytest.approx(np.std([one[name] for one in seen]), rel=0.3), name
    for name in ("ece", "debiased_squared_error"):
        assert told[name] == pytest.approx(np.std([one[name] for one in seen]), rel=0.6), name


def test_all_rows_leave_no_error_and_a_sample_without_a_mistake_leaves_one() -> None:
    logits, labels = made_up(100)
    assert set(standard_errors(logits, labels, SPEC, 100).values()) == {0.0}
    assert standard_errors(logits, logits.argmax(axis=1), SPEC, 1000)["accuracy"] > 0.01


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> EvaluatorSpec:
    return replace(evaluator_spec(tmp_path_factory.mktemp("study"), num_labels=3), rung_rows=6)


def test_a_rung_looks_at_its_rows_and_the_end_at_all(spec: EvaluatorSpec, tmp_path: Path) -> None:
    evaluator = TrainedEvaluator(spec)
    tokens = evaluator.tokens["validation"]
    run = evaluator.start(parse("lora(r=2)@attention.query[top:1]"), 0)
    rung = run.advance(4)
    logits = run.predict("validation", tokens)
    rows = evaluator.rung_rows
    assert len(rows) == 6 < len(tokens.ids)
    assert rung["nll"] == pytest.approx(quality(logits[rows], tokens.labels[rows], spec.calibration)["nll"], rel=1e-5)
    assert rung.errors.keys() == quality(logits, tokens.labels, spec.calibration).keys()
    end = run.advance(12)
    assert end.errors == {}
    assert end["nll"] == quality(run.predict("validation", tokens), tokens.labels, spec.calibration)["nll"]
    run.save(tmp_path)
    whole = TrainedEvaluator(replace(spec, rung_rows=None)).start(run.attached.candidate, 0)
    assert whole.advance(4).errors == {}
    assert whole.advance(12)["nll"] == end["nll"], "what a rung looks at changes nothing in the training"


def test_it_crosses_to_an_actor(spec: EvaluatorSpec) -> None:
    assert EvaluatorSpec.from_json(spec.to_json()) == spec
