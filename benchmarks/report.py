"""What a benchmark leaves behind: `results/NAME.json`, and its own section of `RESULTS.md`.

Results name versions and the processor, never hosts or absolute paths, so that they can be published as they are.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from search_space.files import atomic_write

FOLDER = Path(__file__).parent
SCHEMA_VERSION = 1
_PACKAGES = ("paretune", "torch", "transformers", "peft", "optuna", "ray", "mlflow", "numpy", "scipy", "scikit-learn")
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_SECTION = re.compile(r"<!-- begin (?P<name>[a-z0-9_]+) -->\n(?P<text>.*?)\n<!-- end (?P=name) -->", re.DOTALL)
_HEAD = """# Results

What the benchmarks measured last. Each section is written by its own command, which is beside the numbers in
`results/`; the README here says how to run them. Do not edit: the next run writes its section again.
"""


@dataclass(frozen=True)
class Ratio:
    """A ratio of two medians with its interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"

    def to_json(self) -> dict[str, float]:
        """Return this ratio as JSON data."""
        return {"value": self.value, "low": self.low, "high": self.high}


def ratio_interval(
    a: Sequence[float], b: Sequence[float], level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Ratio:
    """Return median(a) / median(b) with its percentile bootstrap interval, each side resampled on its own.

    Args:
        a: Measurements of one side, at least one.
        b: Measurements of the other, at least one, all positive.
        level: Coverage of the interval, in (0, 1). With few measurements it is only as wide as they differ.
        resamples: Bootstrap samples.
        seed: Seed of the resampling.

    Raises:
        ValueError: A side is empty or not finite, or `b` is not positive.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if not first.size or not second.size or not np.isfinite([*first, *second]).all() or (second <= 0).any():
        raise ValueError("a ratio needs finite measurements on both sides, positive ones below the line")
    rng = np.random.default_rng(seed)
    medians = [np.median(side[rng.integers(0, side.size, (resamples, side.size))], axis=1) for side in (first, second)]
    low, high = np.quantile(medians[0] / medians[1], [(1 - level) / 2, (1 + level) / 2])
    return Ratio(float(np.median(first) / np.median(second)), float(low), float(high))


def environment() -> dict[str, Any]:
    """Return what a measurement depends on: versions and the processor."""
    packages: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            packages[name] = None
    machine = {"system": platform.system(), "cpus": os.cpu_count(), "cpu_model": _cpu_model()}
    return {"python": platform.python_version(), "packages": packages, **machine}


def write(name: str, result: dict[str, Any], markdown: str, module: str | None = None) -> None:
    """Write the result of a benchmark, and its section of the results page; others' sections stay as they are.

    Args:
        name: Of the result and of the section.
        result: JSON data without NaN; `schema_version` is added where it has none.
        markdown: The section, with a heading of the second level on top.
        module: What is run, below `benchmarks`; the name when None.

    Raises:
        ValueError: The name is no module's, the result is no JSON data, or the section has no heading on top.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a benchmark's name: lower-case letters, digits, '_'")
    if not markdown.lstrip().startswith("## "):
        raise ValueError(f"the section of {name!r} must begin with a heading of the second level: '## ...'")
    data = (
        {"schema_version": SCHEMA_VERSION}
        | result
        | {"environment": environment(), "command": _command(module or name)}
    )
    text = json.dumps(data, indent=2, sort_keys=True, allow_nan=False) + "\n"
    atomic_write(FOLDER / "results" / f"{name}.json", text)
    page = FOLDER / "RESULTS.md"
    sections = _sections(page.read_text(encoding="utf-8") if page.exists() else "")
    atomic_write(page, _page(sections | {name: markdown.strip()}))


def _sections(page: str) -> dict[str, str]:
    return {one["name"]: one["text"].strip() for one in _SECTION.finditer(page)}


def _page(sections: dict[str, str]) -> str:
    names = sorted(sections)
    titles = {name: sections[name].splitlines()[0].removeprefix("##").strip() for name in names}
    contents = [f"- [{titles[name]}](#{_anchor(titles[name])})" for name in names]
    parts = [f"<!-- begin {name} -->\n{sections[name]}\n<!-- end {name} -->" for name in names]
    return "\n\n".join([_HEAD.strip(), "\n".join(contents), *parts]) + "\n"


def _anchor(title: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _command(module: str) -> str:
    """Return the command that runs a module below `benchmarks` again, without this machine's paths."""
    words, here = tuple(module.split(".")), Path(sys.argv[0]).with_suffix("").parts
    called = words in (here[-len(words) :], here[-len(words) - 1 : -1])
    given = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]] if called else []
    return shlex.join(["python", "-m", f"benchmarks.{module}", *given])


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
