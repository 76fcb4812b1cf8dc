"""AutoPEFT's search (Zhou et al. 2024, arXiv:2301.12132, section 3.3), written from the paper with BoTorch.

Half of the trainings are random. Then batches of four: a Gaussian process with the sparse axis-aligned subspace prior
(SAAS, Eriksson & Jankowiak 2021) for the accuracy, and noisy expected hypervolume improvement (Daulton et al. 2021)
over accuracy and size, both of them objectives; the size is known exactly and needs no model. Where the paper samples
the prior's scales, this takes a sum of kernels at their modes (BoTorch's additive MAP SAAS): a fit takes seconds, not
minutes. The acquisition is maximised over the table's remaining points, one after another within a batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from math import log
from random import Random
from typing import Any

import numpy as np
import torch

from benchmarks.contest.arena import Arena, Finished
from evaluators.tabulated import Row
from search_space.space import Space

_BATCH = 4
_ITERATIONS = 200
"""Of a fit; ten times as many rank what is not trained yet no better (Spearman 0.17 and 0.19 with 50 candidates, 0.22
and 0.22 with 90)."""


def autopeft(arena: Arena, steps: int, seed: int) -> list[Finished]:
    """Run AutoPEFT's search on an arena."""
    most = min(steps // arena.full, len(arena.rows))
    numbers = vectors(arena.space, arena.rows)
    found = chosen(numbers, arena.rows.__getitem__, arena.classes, most, seed)
    trained = [(at * arena.full, row) for at, row in enumerate(found, 1)]
    return [Finished(at, row) for at, row in trained if not row.cause]


def chosen(numbers: torch.Tensor, train: Callable[[int], Row], classes: int, most: int, seed: int) -> Iterator[Row]:
    """Choose candidates and train them, one after another.

    Args:
        numbers: All that there are, as `vectors` gives them.
        train: Trains one of them to the end.
        classes: Number of classes.
        most: How many are trained.
        seed: Of the search.
    """
    waiting = list(range(len(numbers)))
    Random(seed).shuffle(waiting)
    batch = [waiting.pop() for _ in range(most // 2)]
    trained: list[tuple[int, Row]] = []
    while batch:
        for index in batch:
            trained.append((index, train(index)))
            yield trained[-1][1]
        batch = _proposed(numbers, trained, waiting, min(_BATCH, most - len(trained)), classes, seed)
        waiting = [one for one in waiting if one not in batch]


def vectors(space: Space, rows: Sequence[Row]) -> torch.Tensor:
    """Return each row as numbers in [0, 1], the size in the last column, shape [rows, dimensions].

    A parameter that a row does not have stands in the middle; a word is one column for each value.
    """
    parameters = [space.encode(row.candidate) for row in rows]
    columns: list[np.ndarray[Any, Any]] = []
    for name in sorted({name for one in parameters for name in one}):
        values = [one.get(name) for one in parameters]
        words = sorted({value for value in values if isinstance(value, str)})
        columns += [np.array([float(value == word) for value in values]) for word in words]
        if not words:
            columns.append(_scaled([None if value is None else _number(value) for value in values]))
    sizes = [log(max(1, row.cost.trainable_params)) for row in rows]
    return torch.from_numpy(np.stack([*columns, _scaled(sizes)], axis=1))


def _number(value: str | int | float) -> float:
    return log(value) if isinstance(value, float) else float(value)


def _scaled(values: list[Any]) -> np.ndarray[Any, Any]:
    known = [value for value in values if value is not None]
    low, span = min(known), max(max(known) - min(known), 1e-12)
    return np.array([0.5 if value is None else (value - low) / span for value in values])


def _proposed(
    numbers: torch.Tensor, found: Sequence[tuple[int, Row]], waiting: list[int], count: int, classes: int, seed: int
) -> list[int]:
    from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
    from botorch.models import ModelList
    from botorch.models.deterministic import GenericDeterministicModel
    from botorch.optim import optimize_acqf_discrete
    from botorch.sampling.get_sampler import get_sampler

    if not count:
        return []
    trained = [index for index, row in found if not row.cause]
    accuracies = torch.tensor([[row.validation[-1][0]] for _, row in found if not row.cause], dtype=torch.float64)
    mean, deviation = accuracies.mean(), accuracies.std().clamp_min(1e-6)
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        accuracy = _fitted(numbers[trained], (accuracies - mean) / deviation)
        size = GenericDeterministicModel(lambda x: 1 - x[..., -1:], num_outputs=1)
        model = ModelList(accuracy, size)
        acquisition = qLogNoisyExpectedHypervolumeImprovement(
            model=model,
            ref_point=[float((1 / classes - mean) / deviation), 0.0],
            X_baseline=numbers[trained],
            sampler=get_sampler(model.posterior(numbers[:2]), torch.Size([32]), seed=seed),
            prune_baseline=True,
        )
        chosen, _ = optimize_acqf_discrete(acquisition, q=count, choices=numbers[waiting], unique=True)
    distances = torch.cdist(chosen, numbers[waiting])
    return [waiting[int(row.argmin())] for row in distances]


def _fitted(numbers: torch.Tensor, targets: torch.Tensor) -> Any:
    """Fit the accuracy to everything but the size."""
    from botorch.fit import fit_gpytorch_mll
    from botorch.models.map_saas import AdditiveMapSaasSingleTaskGP
    from botorch.models.transforms.input import FilterFeatures
    from gpytorch.mlls import ExactMarginalLogLikelihood

    kept = torch.arange(numbers.shape[1] - 1)
    model = AdditiveMapSaasSingleTaskGP(
        numbers, targets, num_taus=4, input_transform=FilterFeatures(feature_indices=kept)
    )
    likelihood = ExactMarginalLogLikelihood(model.likelihood, model)
    fit_gpytorch_mll(likelihood, optimizer_kwargs={"options": {"maxiter": _ITERATIONS}})
    return model
