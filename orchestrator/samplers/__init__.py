"""Samplers of Optuna, one file each, each giving `build(seed, startup_trials)`.

A sampler is built anew for each trial, with a seed made of the study's seed and the trial's number. What it knows, it
reads from the storage; so a resumed study draws what the uninterrupted one would have drawn.
"""

from __future__ import annotations

import hashlib
import importlib
from typing import Any

from orchestrator.spec import StudySpec


def build_sampler(spec: StudySpec, number: int) -> Any:
    """Return the sampler that draws trial `number` of a study."""
    module = importlib.import_module(f"orchestrator.samplers.{spec.search.sampler}")
    return module.build(derived_seed(spec.search.seed, number), spec.startup_trials)


def derived_seed(seed: int, number: int) -> int:
    """Return a seed in [0, 2^32) that neighbouring numbers do not share anything with."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:4], "big")
