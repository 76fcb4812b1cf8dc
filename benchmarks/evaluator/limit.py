"""The least that must be computed: the matrix products of a step and nothing else, replayed beside the step itself.

For each real token: the forward products of the layers from the candidate's lowest on, those of the way back to their
inputs, and three times the adapters' (the frozen weights have no gradients). No norms, activations, softmax,
padding, embeddings, optimiser or Python.
"""

from __future__ import annotations

import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.evaluator.journal import Journal
from benchmarks.evaluator.subject import evaluator_spec
from evaluators.trained import TrainedEvaluator
from search_space.notation import parse
from search_space.placement import Anatomy, Placement

RANK = 8
PLACEMENTS = {
    "full placement": Placement.parse("linear"),
    "top two layers, prefix stored": Placement.parse("linear[top:2]"),
}


@cache
def _matrix(*shape: int) -> Tensor:
    return torch.randn(*shape)


def _product(rows: int, inner: int, columns: int) -> None:
    torch.mm(_matrix(rows, inner), _matrix(inner, columns))


def replay(anatomy: Anatomy, placement: Placement, lengths: list[int], heads: int) -> None:
    """Do the matrix products of one training step on examples of these lengths."""
    adapted = {site.name for site in anatomy.resolve(placement)}
    lowest = min(site.layer or 0 for site in anatomy.resolve(placement))
    tokens, longest, width = sum(lengths), max(lengths), anatomy.hidden_size // heads
    for site in anatomy.sites:
        if site.layer is None or site.layer < lowest or site.kind != "linear":
            continue
        _product(tokens, site.in_features, site.out_features)
        _product(tokens, site.out_features, site.in_features)
        if site.name in adapted:
            for one in (site.in_features, site.out_features):
                _product(tokens, one, RANK)
                _product(tokens, RANK, one)
                _product(RANK, tokens, one)
    for _ in range(2 * (anatomy.n_layers - lowest)):  # queries with keys, weights with values: forward and twice back
        groups = len(lengths) * heads
        for _ in range(3):
            torch.bmm(_matrix(groups, longest, width), _matrix(groups, width, longest))


def measure(journal: Journal, steps: int, train: int, evaluation: int) -> None:
    """Time training steps and their replay in turns; CPU seconds."""
    if all(f"limit/{name}" in journal.rows for name in PLACEMENTS):
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        evaluator = TrainedEvaluator(evaluator_spec(Path(folder), 10 * steps, train, evaluation))
        for name, placement in PLACEMENTS.items():
            journal.once(f"limit/{name}", lambda placement=placement: _measure(evaluator, placement, steps))  # type: ignore[misc]


def _measure(evaluator: TrainedEvaluator, placement: Placement, steps: int) -> dict[str, Any]:
    run = evaluator.start(parse(f"lora(r={RANK})@{placement}"), 0)
    tokens = run.portion.tokens
    heads = int(evaluator.backbone.model.config.num_attention_heads)  # type: ignore[union-attr,arg-type]
    first_pass = len(tokens.ids) // evaluator.spec.training.batch_size
    run.train(first_pass + 2)  # what is stored is stored by now
    order = tokens.shuffled(evaluator.spec.training.batch_size, 0)
    batches = [next(order) for _ in range(first_pass + 2 + steps)][first_pass + 2 :]
    ours, least = [], []
    for number, batch in enumerate(batches):
        lengths = [len(tokens.ids[index]) for index in batch]
        replay(evaluator.anatomy, placement, lengths, heads)  # its matrices are there by now
        began = time.process_time()
        run.train(first_pass + 3 + number)
        between = time.process_time()
        replay(evaluator.anatomy, placement, lengths, heads)
        ours.append(between - began)
        least.append(time.process_time() - between)
        _matrix.cache_clear()
    return {"step": ours, "least": least}
