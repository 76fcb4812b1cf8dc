"""Two small tasks on one tiny model: what a question asks for, and whether it is long."""

from __future__ import annotations

from pathlib import Path

from calibration.spec import CalibrationSpec
from evaluators.data import read_task
from evaluators.evaluation import EvaluatorSpec
from evaluators.spec import ModelSpec, TaskSpec, TrainingSpec
from evaluators.tokens import write_tokens
from tests.evaluators.tiny import questions, questions_file, tiny_folder, tiny_tokenizer

LENGTHS = ("long", "short")


def lengths_file(folder: Path) -> str:
    """Write most of the questions as CSV, labelled by how long they are."""
    path = folder / "lengths.csv"
    rows = questions()[:45]
    words = [(row["text"], LENGTHS[len(row["text"].split()) < 6]) for row in rows]
    path.write_text("text,label\n" + "\n".join(f"{text},{label}" for text, label in words) + "\n")
    return str(path)


def task_of(folder: Path) -> TaskSpec:
    """Return both tasks as a study file says them."""
    return TaskSpec.model_validate({"tasks": {"kind": questions_file(folder), "length": lengths_file(folder)}})


def two_task_spec(folder: Path, steps: int = 12) -> EvaluatorSpec:
    """Make all that an evaluator needs: a model, the tokens of both tasks, a spec."""
    model = tiny_folder(folder / "model", "bert")
    training = TrainingSpec(batch_size=8, max_length=16)
    write_tokens(read_task(task_of(folder)), tiny_tokenizer(model), training, folder / "tokens")
    spec = ModelSpec(name=str(model), dtype="float32", device="cpu")
    calibration = CalibrationSpec(folds=2, floor_draws=100, scarce=0)
    return EvaluatorSpec(spec, training, calibration, str(folder / "tokens"), steps)
