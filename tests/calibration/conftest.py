"""Data that the calibration tests share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import settings

settings.register_profile("calibration", max_examples=40, deadline=None, derandomize=True)
settings.load_profile("calibration")

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Draw = Callable[..., tuple[FloatArray, IntArray]]


@pytest.fixture(scope="session")
def draw() -> Draw:
    """Return logits of shape (n, k), with labels drawn from softmax(logits / temperature)."""

    def drawn(
        n: int, k: int = 4, *, temperature: float = 1.0, seed: int = 0, spread: float = 1.5, masked: bool = False
    ) -> tuple[FloatArray, IntArray]:
        rng = np.random.default_rng(seed)
        scores = rng.normal(size=(n, k)) * spread
        if masked:
            scores[np.arange(n), rng.integers(0, k, n)] = -np.inf
        return scores * temperature, (scores + rng.gumbel(size=scores.shape)).argmax(axis=1)

    return drawn


@pytest.fixture(scope="session")
def probabilities(draw: Draw) -> Draw:
    """Return probabilities of shape (n, k) with labels drawn from them: a perfect model, unless sharpened."""

    def drawn(
        n: int, k: int = 4, *, sharpness: float = 1.0, seed: int = 0, spread: float = 1.5
    ) -> tuple[FloatArray, IntArray]:
        logits, labels = draw(n, k, seed=seed, spread=spread)
        powers = np.exp(logits * sharpness)
        return powers / powers.sum(axis=1, keepdims=True), labels

    return drawn
