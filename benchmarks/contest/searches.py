"""The searches of the contest, by name."""

from __future__ import annotations

from collections.abc import Mapping

import optuna

from benchmarks.contest.arena import Search
from benchmarks.contest.autopeft import autopeft
from benchmarks.contest.informed import informed
from benchmarks.contest.others import moasha, ray_tune, with_optuna
from benchmarks.contest.ours import BEST, FRONT, product

OURS = "forest, early stopping"
FINAL = "forest, final stops"
"""Ours, where who stops early never goes on: what it gains that candidates pause."""
RIVAL = "AutoPEFT"
BASELINE = "random"
BOUND = "all others known"
"""No search: one that knows how every other candidate ends, to tell what bounds those that learn."""

SEARCHES: Mapping[str, Search] = {
    OURS: product("forest", 3),
    FINAL: product("forest", 3, early_stopping={"rungs": 3, "rule": "reach"}),
    "forest": product("forest", 1),
    "TPE, early stopping": product("tpe", 3),
    "random, early stopping": product("random", 3),
    BASELINE: with_optuna(lambda seed: optuna.samplers.RandomSampler(seed=seed)),
    "Optuna MO-TPE": with_optuna(lambda seed: optuna.samplers.TPESampler(seed=seed)),
    "Optuna NSGA-II": with_optuna(lambda seed: optuna.samplers.NSGAIISampler(population_size=12, seed=seed)),
    "Optuna GP": with_optuna(lambda seed: optuna.samplers.GPSampler(seed=seed)),
    "Ray Tune OptunaSearch + ASHA": ray_tune,
    "Syne Tune MOASHA": moasha,
    RIVAL: autopeft,
    BOUND: informed(3, FRONT),
}
"""The first five are studies of Paretune; then come what users would write, AutoPEFT, the bound."""

IN_OWN_SPACE: Mapping[str, Search] = {name: SEARCHES[name] for name in (OURS, FINAL, "forest", BASELINE, RIVAL, BOUND)}
"""In AutoPEFT's own space."""

UNDER_BUDGET: Mapping[str, Search] = {
    OURS: product("forest", 3, BEST),
    "forest": product("forest", 1, BEST),
    "TPE, early stopping": product("tpe", 3, BEST),
    BASELINE: SEARCHES[BASELINE],
    BOUND: informed(3, BEST),
}
"""For the best accuracy under a budget of parameters; all of them see only what is within it."""
