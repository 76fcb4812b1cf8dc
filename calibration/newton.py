"""Newton's method for softmax models that are linear in their features."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from calibration.errors import ConvergenceError
from calibration.rows import FloatArray
from calibration.softmax import log_softmax

_MAX_STEPS = 100
_TOLERANCE, _TOLERABLE = 1e-22, 1e-10
"""Newton decrements, twice the distance to the minimum: where steps end, and what may be left after the last."""


@dataclass(frozen=True)
class LinearProblem:
    """Cross-entropy of softmax(w_k u_k + b_k), where (w, b) = basis @ theta, with a ridge on theta - prior.

    The mean cross-entropy is weighted by `share`; to it comes ridge / 2 * |theta - prior|^2. Convex, so one minimum.

    Attributes:
        u: Features of shape (n, k); ``-inf`` outside the answer set.
        goals: Target probabilities of shape (n, k).
        share: Weights of shape (n,) that sum to one.
        basis: Shape (2k, p): which slopes and biases there are to choose.
        prior: Shape (p,): where the ridge pulls to and the steps begin.
        ridge: Strength, at least 0.
    """

    u: FloatArray
    goals: FloatArray
    share: FloatArray
    basis: FloatArray
    prior: FloatArray
    ridge: float

    def solve(self) -> FloatArray:
        """Return the minimising theta, shape (p,); of several (a flat direction), the one nearest the prior.

        Raises:
            ConvergenceError: The minimum was not reached.
        """
        theta = self.prior
        for _ in range(_MAX_STEPS):
            gradient, hessian = self._derivatives(theta)
            step: FloatArray = -np.linalg.lstsq(hessian, gradient, rcond=1e-14)[0].astype(np.float64)
            decrement = -float(gradient @ step)
            if decrement <= _TOLERANCE:
                return theta
            theta = theta + self._length(theta, step, decrement) * step
        if decrement <= _TOLERABLE:
            return theta
        raise ConvergenceError(
            f"the fit did not reach its optimum in {_MAX_STEPS} steps; log-probabilities go down to "
            f"{self._features.min():.3g}. Logits of such a scale are for 'temperature', or for another model."
        )

    def _length(self, theta: FloatArray, step: FloatArray, decrement: float) -> float:
        """Return the first of 1, 1/2, 1/4, ... that lowers the value enough, beyond the rounding of the value."""
        value = self._value(theta)
        rounding = 1e-15 * max(1.0, abs(value))
        length = 1.0
        while length > 1e-9 and self._value(theta + length * step) > value - 1e-4 * length * decrement + rounding:
            length *= 0.5
        return length

    def _log_probabilities(self, theta: FloatArray) -> FloatArray:
        k = self.u.shape[1]
        full = self.basis @ theta
        return log_softmax(np.where(np.isfinite(self.u), self._features * full[:k] + full[k:], -np.inf))

    @cached_property
    def _features(self) -> FloatArray:
        return np.where(np.isfinite(self.u), self.u, 0.0)

    def _value(self, theta: FloatArray) -> float:
        logs = self._log_probabilities(theta)
        entropy = -np.sum(self.goals * np.where(self.goals > 0.0, logs, 0.0), axis=1)
        return float(self.share @ entropy) + 0.5 * self.ridge * float(np.square(theta - self.prior).sum())

    def _derivatives(self, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        p = np.exp(self._log_probabilities(theta))
        features = self._features
        error = (p - self.goals) * self.share[:, np.newaxis]
        gradient = np.append((error * features).sum(axis=0), error.sum(axis=0))
        hessian = self._hessian(p, features)
        full = self.basis.T @ gradient + self.ridge * (theta - self.prior)
        return full, self.basis.T @ hessian @ self.basis + self.ridge * np.eye(theta.size)

    def _hessian(self, p: FloatArray, features: FloatArray) -> FloatArray:
        """Return the mean covariance of ([y = k] u_k, [y = k]) under p, shape (2k, 2k)."""
        k = p.shape[1]
        stacked = np.hstack([p * features, p])
        hessian: FloatArray = -(stacked.T * self.share) @ stacked
        slope, bias = np.arange(k), np.arange(k, 2 * k)
        hessian[slope, slope] += self.share @ (p * features**2)
        hessian[slope, bias] += self.share @ (p * features)
        hessian[bias, slope] += self.share @ (p * features)
        hessian[bias, bias] += self.share @ p
        return hessian
