"""The temperature solver beside others: does it reach the optimum, does it say when there is none, how long.

    python -m benchmarks.calibration [--quick]

Twelve cases, each a fixed seed: true temperatures from 0.05 to 30, few rows, and the shapes on which solvers fail
without a word. The reference is a bisection in extended precision, over the temperatures that Paretune allows, 0.05
to 100. The excess NLL of a solver is the mean NLL at its temperature less that at the reference's, in nats. A negative
excess is a temperature beyond these bounds, on a case whose NLL has no interior minimum.

scikit-learn is a dependency; netcal and probmetrics are used when they are installed. Options outside the answer set
are -inf for Paretune, and -1e4 for the others, which refuse infinities.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.report import Ratio, ratio_interval
from calibration.temperature import T_MAX, T_MIN, fit_temperature

RESULTS = Path(__file__).parent / "results" / "calibration.json"
GOAL_EXCESS, GOAL_MS = 1e-10, 10.0

Solver = Callable[[npt.NDArray[np.float64], npt.NDArray[np.int64]], float]


@dataclass(frozen=True)
class Case:
    """Logits with labels on which a solver must find the optimum, or say that there is none inside its bounds."""

    name: str
    logits: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    statuses: tuple[str, ...] = ("ok",)


def stress_cases() -> Iterator[Case]:
    """Yield the twelve cases."""
    for seed, temperature in enumerate((0.05, 0.2, 1.0, 3.0, 10.0, 30.0)):
        statuses = ("ok", "at_lower_bound") if temperature == T_MIN else ("ok",)
        yield Case(f"T = {temperature:g}", *_drawn(2000, 4, temperature, seed), statuses)
    yield Case("40 rows, T = 4", *_drawn(40, 4, 4.0, 6))
    logits, _ = _drawn(500, 4, 5.0, 7)
    logits[np.arange(500), logits.argmax(axis=1)] += 2.0
    yield Case("separable", logits, logits.argmax(axis=1), ("separable",))
    logits, labels = _drawn(500, 4, 3.0, 8)
    yield Case("inverted", -logits, labels, ("anti_correlated",))
    logits, _ = _drawn(500, 4, 3.0, 9)
    labels = np.random.default_rng(10).integers(0, 4, 500)
    yield Case("random labels", logits, labels, ("ok", "anti_correlated", "at_upper_bound"))
    yield Case("constant", np.repeat(np.arange(500.0)[:, None], 4, axis=1), labels, ("constant",))
    yield Case("masked class, T = 3", *_drawn(1000, 5, 3.0, 11, masked=True))


def reference(case: Case) -> tuple[float, float]:
    """Return the optimal temperature within the bounds and the mean NLL there, in extended precision."""
    low, high = np.longdouble(-math.log(T_MAX)), np.longdouble(-math.log(T_MIN))
    if slope(case, np.exp(high)) <= 0:
        return T_MIN, float(mean_nll(case, T_MIN))
    if slope(case, np.exp(low)) >= 0:
        return T_MAX, float(mean_nll(case, T_MAX))
    for _ in range(90):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(case, np.exp(middle)) < 0 else (low, middle)
    temperature = float(np.exp(-(low + high) / 2))
    return temperature, float(mean_nll(case, temperature))


def slope(case: Case, beta: np.longdouble) -> np.longdouble:
    """Return the derivative of the mean NLL in beta = 1 / T."""
    gaps = _gaps(case)
    powers = np.exp(beta * gaps)
    finite = np.where(np.isfinite(gaps), gaps, 0)
    expected = (powers * finite).sum(axis=1) / powers.sum(axis=1)
    return np.longdouble((expected - finite[np.arange(case.labels.size), case.labels]).mean())


def mean_nll(case: Case, temperature: float) -> np.longdouble:
    """Return the mean NLL at a temperature."""
    scaled = _gaps(case) / np.longdouble(temperature)
    top = scaled.max(axis=1, keepdims=True)
    logs = scaled - top - np.log(np.exp(scaled - top).sum(axis=1, keepdims=True))
    return np.longdouble(-logs[np.arange(case.labels.size), case.labels].mean())


def excess_nll(case: Case, temperature: float) -> float:
    """Return how much worse a temperature is than the reference; infinite for what is no temperature."""
    if not math.isfinite(temperature) or temperature <= 0.0:
        return math.inf
    return float(mean_nll(case, temperature) - mean_nll(case, reference(case)[0]))


def solvers() -> dict[str, Solver]:
    """Return the solvers that are installed, by name."""
    found: dict[str, Solver] = {"Paretune": _paretune}
    found["scikit-learn"] = _scikit_learn
    for name, solver in (("netcal", _netcal), ("probmetrics", _probmetrics)):
        if find_spec(name):
            found[name] = solver
        else:
            print(f"{name} is not installed: left out")
    found["LBFGS snippet"] = _lbfgs_snippet
    return found


def run(*, quick: bool = False) -> dict[str, Any]:
    """Return every solver's excess on every case, its time, and Paretune's statuses."""
    cases, found = list(stress_cases()), solvers()
    large = _drawn(10_000, 10, 3.0, 12)
    rows = []
    for case in cases:
        fit = fit_temperature(case.logits, case.labels)
        excess = {name: _excess_of(solver, case) for name, solver in found.items()}
        rows.append({"case": case.name, "status": fit.status, "reference": reference(case)[0], "excess_nll": excess})
    repeats = 5 if quick else 50
    times = _times(found, large, repeats)
    milliseconds = {name: one if isinstance(one, str) else statistics.median(one) for name, one in times.items()}
    fastest = {name: one if isinstance(one, str) else min(one) for name, one in times.items()}
    own = times["Paretune"]
    slower = {
        name: ratio_interval(one, own).to_json()
        for name, one in times.items()
        if name != "Paretune" and not isinstance(one, str) and not isinstance(own, str)
    }
    return {
        "schema_version": 1,
        "cases": rows,
        "milliseconds_10000_by_10": milliseconds,
        "fastest_milliseconds": fastest,
        "times_paretune_s": slower,
        "repeats": repeats,
        "versions": _versions(found),
        "goals": {"excess_nll": GOAL_EXCESS, "milliseconds": GOAL_MS},
        "reached": _reached(rows, cases, fastest),
    }


def markdown(result: dict[str, Any]) -> str:
    """Return a result as a section of a page."""
    names = list(result["milliseconds_10000_by_10"])
    lines = [
        "## Temperature scaling: does the solver reach the optimum?",
        "",
        "Excess NLL in nats over the best temperature in [0.05, 100]; below 1e-12 is shown as 0. Negative: a "
        "temperature beyond these bounds, where the NLL has no interior minimum. A failed fit is shown as such.",
        "",
        "| case | best T | Paretune's status | " + " | ".join(names) + " |",
        "|---|---|---|" + "---|" * len(names),
    ]
    for row in result["cases"]:
        cells = [_cell(row["excess_nll"][name]) for name in names]
        best = "any" if row["status"] == "constant" else f"{row['reference']:.4g}"
        lines.append(f"| {row['case']} | {best} | {row['status']} | " + " | ".join(cells) + " |")
    times = [_time_cell(one) for one in result["milliseconds_10000_by_10"].values()]
    lines.append(f"| time, 10,000 x 10, median ms of {result['repeats']} turns | | | {' | '.join(times)} |")
    best = [_time_cell(one) for one in result["fastest_milliseconds"].values()]
    lines.append(f"| the fastest of these turns, ms | | | {' | '.join(best)} |")
    slower = {name: Ratio(**one) for name, one in result["times_paretune_s"].items()}
    ratios = [str(slower[name]) if name in slower else "1" if name == names[0] else "–" for name in names]
    lines += [f"| the same over Paretune's, 95 % interval | | | {' | '.join(ratios)} |", ""]
    goals = result["goals"]
    told = {name: "yes" if reached else "NO" for name, reached in result["reached"].items()}
    lines.append(
        f"Goals: excess at most {goals['excess_nll']:g} on every case: {told['excess_nll']}; every boundary flagged: "
        f"{told['flags']}; under {goals['milliseconds']:g} ms in the fastest turn, which other work on the machine "
        f"slows least: {told['milliseconds']}."
    )
    used = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return "\n".join([*lines, "", f"With {used}.", ""])


def section(*, quick: bool = False) -> str:
    """Run, write `results/calibration.json`, and return the section of the results page."""
    result = run(quick=quick)
    text = markdown(result)
    try:
        from benchmarks import report
    except ImportError:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    else:
        report.write("calibration", result, text)
    return text


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats of the timing")
    print(section(quick=parser.parse_args().quick))


def _drawn(
    n: int, k: int, temperature: float, seed: int, *, masked: bool = False
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return logits whose labels were drawn from softmax(logits / temperature)."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(n, k)) * 1.5
    if masked:
        scores[np.arange(n), rng.integers(0, k, n)] = -np.inf
    labels = (scores + rng.gumbel(size=scores.shape)).argmax(axis=1)
    return scores * temperature, labels


def _gaps(case: Case) -> npt.NDArray[np.longdouble]:
    logits = case.logits.astype(np.longdouble)
    return np.asarray(logits - logits.max(axis=1, keepdims=True))


def _excess_of(solver: Solver, case: Case) -> float | str:
    """Return the excess, or why there is none: another project's failure is a result."""
    logits = case.logits if solver is _paretune else np.maximum(case.logits, -1e4)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            temperature = solver(logits, case.labels)
    except Exception as error:  # noqa: BLE001
        return f"failed: {type(error).__name__}"
    excess = excess_nll(case, temperature)
    return excess if math.isfinite(excess) else f"no temperature: {temperature:.3g}"


def _times(
    solvers: dict[str, Solver], data: tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]], repeats: int
) -> dict[str, list[float] | str]:
    """Return milliseconds of each solver, which take turns so that a busy machine slows all alike, or why it failed."""
    times: dict[str, list[float] | str] = {name: [] for name in solvers}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for turn in range(-1, repeats):  # the first is a warm-up
            for name, solver in solvers.items():
                kept = times[name]
                if isinstance(kept, str):
                    continue
                start = time.perf_counter()
                try:
                    solver(*data)
                except Exception as error:  # noqa: BLE001
                    times[name] = f"failed: {type(error).__name__}"
                    continue
                kept += [1e3 * (time.perf_counter() - start)] if turn >= 0 else []
    return times


def _paretune(logits: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> float:
    return fit_temperature(logits, labels).temperature


def _scikit_learn(logits: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> float:
    from sklearn.calibration import _TemperatureScaling

    return 1.0 / float(_TemperatureScaling().fit(logits, labels).beta_)


def _netcal(logits: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> float:
    from netcal.scaling import TemperatureScaling

    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    scaling = TemperatureScaling()
    scaling.fit(powers / powers.sum(axis=1, keepdims=True), labels, random_state=0)
    return 1.0 / float(np.ravel(scaling.temperature)[0])


def _probmetrics(logits: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> float:
    import torch
    from probmetrics.calibrators import TemperatureScalingCalibrator
    from probmetrics.distributions import CategoricalLogits

    calibrator = TemperatureScalingCalibrator()
    calibrator.fit_torch(CategoricalLogits(torch.from_numpy(logits)), torch.from_numpy(labels))
    return 1.0 / float(calibrator.invtemp_)


def _lbfgs_snippet(logits: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> float:
    """Return what the most copied snippet finds: LBFGS on T, from 1.5, learning rate 0.01, 50 steps."""
    import torch

    inputs, targets = torch.from_numpy(logits).float(), torch.from_numpy(labels)
    temperature = torch.nn.Parameter(torch.ones(1) * 1.5)
    optimizer = torch.optim.LBFGS([temperature], lr=0.01, max_iter=50)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(inputs / temperature, targets)
        loss.backward()
        return loss

    optimizer.step(closure)
    return float(temperature.item())


def _reached(rows: list[dict[str, Any]], cases: list[Case], fastest: dict[str, float | str]) -> dict[str, bool]:
    excesses = [row["excess_nll"]["Paretune"] for row in rows]
    own_time = fastest["Paretune"]
    return {
        "excess_nll": all(isinstance(one, float) and one <= GOAL_EXCESS for one in excesses),
        "flags": all(row["status"] in case.statuses for row, case in zip(rows, cases, strict=True)),
        "milliseconds": isinstance(own_time, float) and own_time < GOAL_MS,
    }


def _versions(found: dict[str, Solver]) -> dict[str, str]:
    from importlib.metadata import version

    names = {"scikit-learn": "scikit-learn", "netcal": "netcal", "probmetrics": "probmetrics", "LBFGS snippet": "torch"}
    return {
        "Python": platform.python_version(),
        "numpy": np.__version__,
        **{names[name]: version(names[name]) for name in found if name in names},
    }


def _cell(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return "0" if abs(value) < 1e-12 else f"{value:.1e}"


def _time_cell(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.1f}"


if __name__ == "__main__":
    main()
