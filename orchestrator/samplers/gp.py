"""A Gaussian process with expected (hypervolume) improvement. It models only what all trials share, and is slow."""

import optuna


def build(seed: int, startup_trials: int) -> optuna.samplers.BaseSampler:
    """Return the sampler."""
    return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup_trials, warn_independent_sampling=False)
