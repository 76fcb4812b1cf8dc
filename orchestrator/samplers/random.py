"""Independent uniform draws: the baseline that every other sampler must beat."""

import optuna


def build(seed: int, startup_trials: int) -> optuna.samplers.BaseSampler:
    """Return the sampler; it has no start-up."""
    return optuna.samplers.RandomSampler(seed=seed)
