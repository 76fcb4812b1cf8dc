"""The benchmark on a GPU: its report, which needs none."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.cuda.__main__ import markdown
from benchmarks.cuda.steps import SUBJECTS
from evaluators.device_memory import WORKSPACE_BYTES, reserved_bytes

MIB = 2**20


def row(predicted: int, allocated: int, beside: int = 0) -> dict[str, Any]:
    return {
        "predicted_bytes": predicted,
        "allocated_bytes": allocated + WORKSPACE_BYTES,
        "reserved_bytes": reserved_bytes(predicted) + beside,
        "beside_bytes": beside,
        "trainable": 1000,
        "seconds": 0.01,
    }


def test_a_prediction_stands_beside_what_the_candidate_takes() -> None:
    rows = {
        "step/m, float32/lora": row(100 * MIB, 102 * MIB),
        "step/m, float32/full": row(100 * MIB, 150 * MIB, beside=50 * MIB),
        "step/m, float32/head": {"predicted_bytes": 2**40, "out_of_memory": True},
    }
    text = markdown({"device": "a GPU", "rows": rows})
    assert "| `lora` | 1k | 10 | 100 MiB | +2.0% | +0.0% |" in text
    assert "| `full` | 1k | 10 | 100 MiB | +0.0% | +0.0% |" in text
    assert "| `head` | – | – | 1024 GiB | out of memory | – |" in text
    assert "Of 2 trainings the tensors differ from the prediction by 1.0% in the median" in text


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda one: one.key)
def test_no_two_subjects_have_a_key(subject: Any) -> None:
    assert [one.key for one in SUBJECTS].count(subject.key) == 1
