"""Laplace approximation of the last layer: how unsure its trained weights are, in closed form, at one forward pass.

The posterior of the weights W [classes, features] of the last layer is taken for a Gaussian around the trained ones,
with the precision B x A + t I: A = sum_n f_n f_n^T of its inputs f (a one for the bias included), B the mean over
examples of diag(p) - p p^T, and t the precision of the prior, chosen by the marginal likelihood (Ritter, Botev &
Barber 2018; Daxberger et al. 2021, arXiv:2106.14806, the variant "last layer, Kronecker"). A prediction is that of the
linearised model, whose logits are Gaussian, with MacKay's probit approximation: each logit is divided by
sqrt(1 + pi/8 var). Everything is float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from calibration.softmax import softmax

Floats = NDArray[np.float64]
_LOG_PRECISIONS = (math.log(1e-4), math.log(1e6))


@dataclass(frozen=True)
class LastLayerLaplace:
    """A fitted posterior.

    Attributes:
        precision: Of the prior.
        of_classes: Eigenvalues [classes] of B.
        class_axes: Eigenvectors of B, in columns.
        of_features: Eigenvalues [features + 1] of A.
        feature_axes: Eigenvectors of A, in columns.
    """

    precision: float
    of_classes: Floats
    class_axes: Floats
    of_features: Floats
    feature_axes: Floats

    def variances(self, features: Floats) -> Floats:
        """Return the variance of each logit, shape [examples, classes], of inputs [examples, features]."""
        turned = np.square(with_one(features) @ self.feature_axes)
        shares = turned @ (1.0 / (np.outer(self.of_features, self.of_classes) + self.precision))
        return np.asarray(shares @ np.square(self.class_axes).T)

    def logits(self, features: Floats, logits: Floats) -> Floats:
        """Return the logits of the mean prediction, by the probit approximation.

        Args:
            features: Inputs of the last layer, shape [examples, features].
            logits: Its outputs, shape [examples, classes].
        """
        return np.asarray(logits / np.sqrt(1.0 + math.pi / 8.0 * self.variances(features)))

    @property
    def bytes(self) -> int:
        """Of what must be kept beside the weights."""
        arrays = (self.of_classes, self.class_axes, self.of_features, self.feature_axes)
        return sum(one.nbytes for one in arrays)


def fit_last_layer(features: Floats, logits: Floats, weights: Floats, examples: int) -> LastLayerLaplace:
    """Fit the posterior on training examples.

    Args:
        features: Inputs of the last layer for some training examples, shape [n, features].
        logits: Its outputs, shape [n, classes].
        weights: Its trained weights, the bias in the last column, shape [classes, features + 1].
        examples: How many training examples there are; those given stand for all.
    """
    inputs, p = with_one(features), softmax(logits)
    of_features, feature_axes = _axes(inputs.T @ inputs * (examples / len(inputs)))
    of_classes, class_axes = _axes(np.diag(p.mean(axis=0)) - p.T @ p / len(p))
    products, size = np.outer(of_classes, of_features), float(np.square(weights).sum())

    def surprise(log_precision: float) -> float:
        """The negative logarithm of the marginal likelihood, as far as it depends on the prior."""
        precision = math.exp(log_precision)
        return 0.5 * (precision * size - weights.size * log_precision + float(np.log(products + precision).sum()))

    found = minimize_scalar(surprise, bounds=_LOG_PRECISIONS, method="bounded", options={"xatol": 1e-6})
    return LastLayerLaplace(math.exp(found.x), of_classes, class_axes, of_features, feature_axes)


def with_one(features: Floats) -> Floats:
    """Return inputs with a one for the bias, in float64."""
    return np.hstack([features.astype(np.float64), np.ones((len(features), 1))])


def _axes(matrix: Floats) -> tuple[Floats, Floats]:
    values, axes = np.linalg.eigh((matrix + matrix.T) / 2)
    return np.maximum(values, 0.0), axes
