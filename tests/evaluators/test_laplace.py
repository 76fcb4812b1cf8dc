"""The last layer's posterior against the dense matrices that it stands for, and what it does to predictions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from calibration.proper_scores import nll_from_logits
from calibration.softmax import softmax
from evaluators.laplace import fit_last_layer, with_one


def made_up(rows: int, seed: int = 0, features: int = 5, classes: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs, trained weights, and the logits that they give."""
    random = np.random.default_rng(seed)
    inputs = random.normal(size=(rows, features))
    weights = random.normal(size=(classes, features + 1))
    return inputs, weights, with_one(inputs) @ weights.T


def dense(inputs: np.ndarray, logits: np.ndarray, examples: int) -> np.ndarray:
    """The Hessian as a whole: the mean over classes' curvature, Kronecker the inputs' second moment."""
    p, ones = softmax(logits), with_one(inputs)
    curvature = np.mean([np.diag(row) - np.outer(row, row) for row in p], axis=0)
    return np.kron(curvature, ones.T @ ones * examples / len(ones))


def test_variances_are_those_of_the_dense_posterior() -> None:
    inputs, weights, logits = made_up(40)
    fit = fit_last_layer(inputs, logits, weights, examples=80)
    covariance = np.linalg.inv(dense(inputs, logits, 80) + fit.precision * np.eye(18))
    for row, found in zip(with_one(inputs)[:5], fit.variances(inputs[:5]), strict=True):
        jacobian = np.kron(np.eye(3), row)
        assert found == pytest.approx(np.diag(jacobian @ covariance @ jacobian.T))


def test_where_all_rows_have_one_prediction_the_factors_are_the_exact_curvature() -> None:
    inputs, _, _ = made_up(40)
    logits = np.tile([0.3, -0.2, 1.0], (40, 1))
    p = softmax(logits)[0]
    exact = sum(np.kron(np.diag(p) - np.outer(p, p), np.outer(row, row)) for row in with_one(inputs))
    assert np.allclose(exact, dense(inputs, logits, 40))


def test_the_prior_is_the_most_likely_one() -> None:
    """The marginal likelihood of the Laplace approximation, computed with dense matrices, peaks where it should."""
    inputs, weights, logits = made_up(60)
    fit = fit_last_layer(inputs, logits, weights, examples=60)
    curvature = dense(inputs, logits, 60)

    def evidence(precision: float) -> float:
        prior = multivariate_normal(np.zeros(18), np.eye(18) / precision).logpdf(weights.ravel())
        _, volume = np.linalg.slogdet((curvature + precision * np.eye(18)) / (2 * math.pi))
        return float(prior - 0.5 * volume)

    assert evidence(fit.precision) > max(evidence(fit.precision * 1.05), evidence(fit.precision / 1.05))


def test_it_is_less_sure_far_from_the_data_and_with_fewer_of_them() -> None:
    inputs, weights, logits = made_up(200)
    fit, few = (fit_last_layer(inputs, logits, weights, examples) for examples in (200, 20))
    assert np.all(fit.variances(10 * inputs) > fit.variances(inputs))
    assert np.all(few.variances(inputs) > fit.variances(inputs))
    softer = fit.logits(inputs, logits)
    assert np.all(np.abs(softer) <= np.abs(logits))


def test_it_helps_a_model_that_was_fitted_to_few_examples() -> None:
    """Logistic regression on thirty examples, judged on fresh ones: the posterior is worth more than the point."""
    from sklearn.linear_model import LogisticRegression

    point, mean = [], []
    for seed in range(10):
        random = np.random.default_rng(seed)
        truth = random.normal(size=(3, 8))
        inputs = random.normal(size=(1030, 8))
        labels = (inputs @ truth.T + random.gumbel(size=(1030, 3))).argmax(axis=1)
        model = LogisticRegression(C=100.0, max_iter=2000).fit(inputs[:30], labels[:30])
        weights = np.hstack([model.coef_, model.intercept_[:, None]])
        logits = with_one(inputs) @ weights.T
        fit = fit_last_layer(inputs[:30], logits[:30], weights, 30)
        point.append(nll_from_logits(logits[30:], labels[30:]))
        mean.append(nll_from_logits(fit.logits(inputs[30:], logits[30:]), labels[30:]))
    assert np.mean(mean) < np.mean(point)
