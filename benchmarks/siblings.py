"""What does a search gain by siblings? The same number of candidates searched with `resources.together` of 4 and of 1.

    python -m benchmarks.siblings [--quick] [--device cuda]

Whole searches in one process, in turns: proposing, costs, training, rungs and scoring, without Ray and the record. CPU
seconds of one thread; on a GPU wall-clock time. What was measured on the other device stays in the report. LoRA of all
sizes and rates on query and value of MiniLM-L6, TREC, so that all candidates of both sides cost alike to train, and
each is trained to its end. Nothing is stored of the frozen layers.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.evaluator.subject import task
from benchmarks.report import FOLDER, Ratio, environment, ratio_interval, write
from evaluators.evaluation import Evaluator
from evaluators.score import GAIN, Score
from evaluators.trained import TrainedEvaluator
from orchestrator.crew import CrewTraining
from orchestrator.early_stopping import rungs_of
from orchestrator.jobs import Failure, Job
from orchestrator.preparation import Prepared, prepare
from orchestrator.search_work import SearchWork
from orchestrator.simulation import Unwatched
from orchestrator.spec import StudySpec, parse
from orchestrator.storage import IN_MEMORY, Storage, StudyStore
from orchestrator.work import Bench, Stop

TOGETHER, TRIALS, STEPS, TURNS = 4, 8, 60, 3
SETTINGS = {
    "cpu": (("float32", 2), ("bfloat16", 2), ("bfloat16", 8)),
    "cuda": (("float32", 2), ("bfloat16", 2), ("bfloat16", 8), ("bfloat16", 32)),
}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.siblings")
    parser.add_argument("--quick", action="store_true", help="one setting, one turn")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    settings, turns = (SETTINGS[given.device][:1], 1) if given.quick else (SETTINGS[given.device], TURNS)
    rows = [measure(*setting, turns, given.device) for setting in settings]
    measured = {"name": _name(given.device), "turns": turns, "rows": rows, "environment": environment()}
    result = {"trials": TRIALS, "together": TOGETHER, "devices": _measured_before() | {given.device: measured}}
    text = markdown(result)
    print(text)
    if not given.quick:
        write("siblings", result, text)


def study_of(dtype: str, batch: int, together: int, seed: int, device: str) -> StudySpec:
    """Return a study of candidates of one shape."""
    return parse({
        "name": "siblings",
        "model": {"name": "builtin:minilm-l6", "dtype": dtype, "device": device, "attention": "sdpa"},
        "task": task(640, 64).model_dump(mode="json", exclude_none=True),
        "space": {
            "methods": {"lora": {"projections": "attention.query,attention.value", "layers": "all", "use_dora": False}},
            "hybrids": [],
        },
        "training": {"batch_size": batch, "max_length": 64, "steps": STEPS, "prefix_cache": 0},
        "calibration": {"method": "none"},
        "budgets": {"trials": TRIALS},
        "search": {
            "sampler": "random", "seed": seed, "references": [], "finalists": {"count": 0},
            "early_stopping": {"rungs": 1},
        },
        "resources": {"together": together},
    })  # fmt: skip


def measure(dtype: str, batch: int, turns: int, device: str = "cpu") -> dict[str, Any]:
    """Return seconds of searches with and without siblings, how much faster the first are, and the crews' gains."""
    seconds: dict[int, list[float]] = {TOGETHER: [], 1: []}
    gains: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(study_of(dtype, batch, 1, 0, device), Path(folder))
        evaluator = TrainedEvaluator(prepared.evaluator)
        search(study_of(dtype, batch, 1, turns, device), prepared, evaluator)  # fills tables
        for turn in range(turns):
            for together in sorted(seconds, reverse=bool(turn % 2)):
                began = _clock(device)
                store = search(study_of(dtype, batch, together, turn, device), prepared, evaluator)
                seconds[together].append(_clock(device) - began)
                gains += [one.score[GAIN] for one in store.trials() if one.score and GAIN in one.score.values]
    ratio = ratio_interval(seconds[1], seconds[TOGETHER]).to_json()
    return {
        "dtype": dtype, "batch": batch, "with": seconds[TOGETHER], "without": seconds[1], "speed": ratio, "gains": gains
    }  # fmt: skip


def search(spec: StudySpec, prepared: Prepared, evaluator: Evaluator) -> StudyStore:
    """Run the search of a study in this process, one crew after another."""
    store = Storage(IN_MEMORY).create(spec)
    bench = Bench(store, prepared, Path(), Unwatched(), Stop(store, None, 0.0), lambda _trial: None)
    work = SearchWork(bench, [], rungs_of(spec, prepared.evaluator.steps))
    while (job := work.next_job()) is not None:
        _train(work, job, evaluator)
    return store


def _train(work: SearchWork, job: Job, evaluator: Evaluator) -> None:
    jobs = {one.key: replace(one, folder=None) for one in job.crew}
    crew = CrewTraining(evaluator, list(jobs.values()))
    while not crew.over:
        for key, report in crew.advance().items():
            goes_on = "score" in report and work.on_score(jobs[key], Score.from_json(report["score"]))
            if "failure" in report or report["last"] or not goes_on:
                work.on_end(jobs[key], Failure(**report["failure"]) if "failure" in report else None)
                crew.drop([key])


def _measured_before() -> dict[str, Any]:
    file = FOLDER / "results" / "siblings.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["devices"] if file.exists() else {}
    return found


def _name(device: str) -> str:
    return "CPU, one thread" if device == "cpu" else torch.cuda.get_device_name()


def _clock(device: str) -> float:
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def markdown(result: dict[str, Any]) -> str:
    """Return a result as a section of a page."""
    lines = [
        "## Siblings: what does a search gain by candidates that are proposed to be trained together?",
        "",
        f"Whole searches of {result['trials']} LoRA candidates of MiniLM-L6 on TREC, {STEPS} steps each without "
        f"early stopping, one by one over at most {result['together']} together: CPU time of one thread, or wall clock "
        "where a GPU works, medians of turns with 95 % intervals. Above 1 siblings are faster. The gain of a crew is "
        "what the study measured of its steps.",
        "",
        *table(result["devices"]),
    ]
    return "\n".join(lines)


def table(devices: Mapping[str, dict[str, Any]]) -> list[str]:
    """Return what was measured on each device as the lines of a table."""
    lines = [
        "| device | turns | type | examples of a step | search as fast | gain of its crews |",
        "|---|---:|---|---:|---:|---:|",
    ]
    for device in devices.values():
        for one in device["rows"]:
            gains = f"{min(one['gains']):.2f} to {max(one['gains']):.2f}" if one["gains"] else "none measured"
            lines.append(
                f"| {device['name']} | {device['turns']} | {one['dtype']} | {one['batch']} | {Ratio(**one['speed'])} | "
                f"{gains} |"
            )
    return lines


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
