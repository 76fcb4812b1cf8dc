"""The searches of the contest, by name."""

from __future__ import annotations

from collections.abc import Mapping

import optuna

from benchmarks.contest.arena import Search
from benchmarks.contest.autopeft import autopeft
from benchmarks.contest.informed import informed
from benchmarks.contest.others import moasha, ray_tune, with_optuna
from benchmarks.contest.ours import BEST, FRONT, product
from benchmarks.contest.thaw import thawing

OURS = "forest, early stopping"
DESIGN = "freeze-thaw (design)"
"""No part of the product yet: where no stop is final, on trial on the tables."""
RIVAL = "AutoPEFT"
BASELINE = "random"
BOUND = "all others known"
"""No search: one that knows how every other candidate ends, to tell what bounds those that learn."""

SEARCHES: Mapping[str, Search] = {
    OURS: product("forest", 3),
    "forest": product("forest", 1),
    "TPE, early stopping": product("tpe", 3),
    "random, early stopping": product("random", 3),
    DESIGN: thawing(3),
    BASELINE: with_optuna(lambda seed: optuna.samplers.RandomSampler(seed=seed)),
    "Optuna MO-TPE": with_optuna(lambda seed: optuna.samplers.TPESampler(seed=seed)),
    "Optuna NSGA-II": with_optuna(lambda seed: optuna.samplers.NSGAIISampler(population_size=12, seed=seed)),
    "Optuna GP": with_optuna(lambda seed: optuna.samplers.GPSampler(seed=seed)),
    "Ray Tune OptunaSearch + ASHA": ray_tune,
    "Syne Tune MOASHA": moasha,
    RIVAL: autopeft,
    BOUND: informed(3, FRONT),
}
"""The first four are studies of Paretune; then come a design on trial, what users would write, AutoPEFT, the bound."""

IN_OWN_SPACE: Mapping[str, Search] = {name: SEARCHES[name] for name in (OURS, "forest", DESIGN, BASELINE, RIVAL, BOUND)}
"""In AutoPEFT's own space."""

UNDER_BUDGET: Mapping[str, Search] = {
    OURS: product("forest", 3, BEST),
    "forest": product("forest", 1, BEST),
    "TPE, early stopping": product("tpe", 3, BEST),
    BASELINE: SEARCHES[BASELINE],
    BOUND: informed(3, BEST),
}
"""For the best accuracy under a budget of parameters; all of them see only what is within it."""
