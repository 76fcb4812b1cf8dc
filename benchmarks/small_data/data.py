"""What is trained and judged on: the same rows for every run but for the training examples, which a run draws."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from evaluators.builtin import sentiment
from evaluators.data import Examples, read_task
from evaluators.spec import SplitSpec, TaskSpec

DOMAINS = ("amazon", "nyt", "tweets")
_ROWS_ELSEWHERE = 500
_SPLITS = {
    "trec": SplitSpec(validation=0.08, calibration=0.08, test=0.16),
    "movie": SplitSpec(validation=0.04, calibration=0.04, test=0.1),
}
CLASSES = {"trec": 6, "movie": 2}


@dataclass(frozen=True)
class Material:
    """Examples of one task.

    Attributes:
        pool: What training examples are drawn from.
        judged: Examples by role: `validation`, `calibration`, `test`, and for sentiment the other domains.
        positive: Share of people who found each text positive, by role; empty without ratings.
    """

    pool: Examples
    judged: dict[str, Examples]
    positive: dict[str, NDArray[np.float64]]

    def drawn(self, size: int, subset: int) -> Examples:
        """Return training examples, stratified by label; all where there are not more than `size`."""
        if size >= len(self.pool):
            return self.pool
        rows, _ = train_test_split(
            np.arange(len(self.pool)), train_size=size, stratify=self.pool.labels, random_state=subset
        )
        return self.pool.take(rows)


@cache
def material(task: str) -> Material:
    """Read one task. Raises InstallationError and DataError, as the builtins do."""
    roles = read_task(TaskSpec(dataset=f"builtin:{task}", splits=_SPLITS[task])).roles
    judged = {role: roles[role] for role in ("validation", "calibration", "test")}
    if task != "movie":
        return Material(roles["train"], judged, {})
    judged |= {domain: _elsewhere(domain) for domain in DOMAINS}
    shares = {one.text: one.positive_share for domain in ("movie", *DOMAINS) for one in sentiment(domain)}
    positive = {role: np.array([shares[text] for (text,) in one.texts]) for role, one in judged.items()}
    return Material(roles["train"], judged, positive)


def _elsewhere(domain: str) -> Examples:
    """Return rows of a domain that nothing is trained on."""
    texts = sentiment(domain)
    rows = np.sort(np.random.default_rng(0).permutation(len(texts))[:_ROWS_ELSEWHERE])
    labels = np.array([texts[row].label == "positive" for row in rows], dtype=np.int64)
    return Examples(tuple((texts[row].text,) for row in rows), labels)
