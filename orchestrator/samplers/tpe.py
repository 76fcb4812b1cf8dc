"""Tree-structured Parzen estimators (Bergstra et al. 2011; several objectives: Ozaki et al. 2022).

`group` models each method's own parameters together and apart from the others', as a conditional space wants it.
"""

import optuna


def build(seed: int, startup_trials: int) -> optuna.samplers.BaseSampler:
    """Return the sampler."""
    return optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=startup_trials, multivariate=True, group=True, constant_liar=True
    )
