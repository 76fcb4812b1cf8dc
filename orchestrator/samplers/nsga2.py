"""NSGA-II (Deb et al. 2002), with a population that fits budgets of about a hundred trials."""

import optuna


def build(seed: int, startup_trials: int) -> optuna.samplers.BaseSampler:
    """Return the sampler; its first population is its start-up."""
    return optuna.samplers.NSGAIISampler(seed=seed, population_size=max(4, min(startup_trials, 16)))
