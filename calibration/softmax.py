"""The softmax over an answer set, on rows that were checked at the door."""

from __future__ import annotations

import numpy as np

from calibration.rows import FloatArray


def log_softmax(logits: FloatArray) -> FloatArray:
    """Return log-probabilities of shape (n, k); ``-inf`` stays ``-inf``."""
    gaps = logits - logits.max(axis=1, keepdims=True)
    result: FloatArray = gaps - np.log(np.exp(gaps).sum(axis=1, keepdims=True))
    return result


def softmax(logits: FloatArray) -> FloatArray:
    """Return probabilities of shape (n, k); exactly 0 outside the answer set."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: FloatArray = powers / powers.sum(axis=1, keepdims=True)
    return result
