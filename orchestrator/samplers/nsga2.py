"""NSGA-II (Deb et al. 2002), with a population that fits budgets of about a hundred trials."""

import optuna

_POPULATION = 12


def build(seed: int, startup_trials: int) -> optuna.samplers.BaseSampler:
    """Return the sampler; its first population is its start-up, however many trials that was to be."""
    return optuna.samplers.NSGAIISampler(seed=seed, population_size=_POPULATION)
