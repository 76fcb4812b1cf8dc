"""What a posterior of the trained weights gains where data are few: of the last layer, and of the whole adapter."""

from __future__ import annotations

import time

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.small_data import plan
from benchmarks.small_data.data import CLASSES
from benchmarks.small_data.journal import Journal
from benchmarks.small_data.plan import Run
from benchmarks.small_data.training import DEVICE, TRAINING, judged_tokens, labelled, said, trained
from evaluators.posteriors import Posterior, fit_posterior
from evaluators.tokens import Tokens

_ROLES = ("calibration", "test")


def train(journals: dict[str, Journal]) -> None:
    """Train what the journals do not have, and judge each run as it is and by each posterior."""
    torch.set_num_threads(1)
    for run in runs():
        if run in journals[plan.SPREADS[-1]].rows:
            continue
        attached = trained(run, plan.STEPS[run.size])
        attached.model.eval()
        learnt, judged = labelled(run).tokens, judged_tokens(run.task)
        if run not in journals["plain"].rows:
            journals["plain"].append(run, {role: said(run.task, attached, judged[role]) for role in _ROLES}, 0.0)
        for spread in plan.SPREADS:
            if run in journals[spread].rows:
                continue
            started = time.process_time()
            batches = (learnt.batch(rows, DEVICE).inputs for rows in learnt.by_length(TRAINING.evaluation_batch_size))
            posterior = fit_posterior(attached, batches, 1.0, spread)
            logits = {role: _said(posterior, run.task, judged[role]) for role in _ROLES}
            journals[spread].append(run, logits, time.process_time() - started)
            print(f"{spread}: {run.size} seed {run.seed}: {time.process_time() - started:.1f} s", flush=True)


def runs() -> list[Run]:
    """Return the runs, which other parts of the benchmark train too, and whose weights are not kept."""
    return [
        Run(plan.ONE_PASS_TASK, size, seed, plan.REFERENCE, seed)
        for seed in range(plan.LAPLACE_SEEDS)
        for size in plan.LAPLACE_SIZES
    ]


def _said(posterior: Posterior, task: str, tokens: Tokens) -> NDArray[np.float64]:
    logits = np.empty((len(tokens.ids), CLASSES[task]))
    for indices, batch in tokens.in_order(TRAINING.evaluation_batch_size, DEVICE):
        logits[indices] = posterior.logits(batch.inputs)
    return logits
