"""What is trained on both sides: the model, the data, the steps, and 24 candidates."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

from calibration.spec import CalibrationSpec
from evaluators.backbone import load_tokenizer
from evaluators.data import read_task
from evaluators.evaluation import EvaluatorSpec
from evaluators.spec import ModelSpec, TaskSpec, TrainingSpec
from evaluators.tokens import write_tokens
from search_space.candidate import Candidate
from search_space.notation import parse

MODEL = ModelSpec(name="builtin:minilm-l6", dtype="float32", device="cpu")
MAX_LENGTH = 64
_MODULES = {
    "attention.query,attention.value": ("query", "value"),
    "linear": ("query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"),
}
_PLACES = (
    ("attention.query,attention.value", 6),
    ("attention.query,attention.value", 3),
    ("linear", 2),
)


@dataclass(frozen=True)
class Lora:
    """A candidate that both sides can train.

    Attributes:
        rank: Of the update; alpha is twice it.
        place: Projections.
        top: Layers, counted from the top of six.
        rate: Learning rate, of the head too.
    """

    rank: int
    place: str
    top: int
    rate: float

    @property
    def candidate(self) -> Candidate:
        """As Paretune writes it."""
        layers = "" if self.top == 6 else f"[top:{self.top}]"
        adapter = f"lora(r={self.rank},alpha={2 * self.rank})@{self.place}{layers}"
        return parse(f"{adapter} | lr={self.rate} head_lr={self.rate}")

    @property
    def modules(self) -> tuple[str, ...]:
        """As peft's `target_modules` names them."""
        return _MODULES[self.place]

    @property
    def layers(self) -> list[int]:
        """As peft's `layers_to_transform` names them."""
        return list(range(6 - self.top, 6))


CANDIDATES = tuple(
    Lora(rank, place, top, rate) for (place, top), rank, rate in product(_PLACES, (2, 4, 8, 16), (3e-3, 1e-2))
)


def task(train: int, evaluation: int) -> TaskSpec:
    """TREC's questions, some of them."""
    return TaskSpec(dataset="builtin:trec", max_train=train, max_evaluation=evaluation)


def evaluator_spec(
    folder: Path,
    steps: int,
    train: int,
    evaluation: int,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    **training: object,
) -> EvaluatorSpec:
    """Write the tokens into a folder and return what an actor builds."""
    model = MODEL.model_copy(update={"dtype": dtype, "device": device})
    chosen = TrainingSpec.model_validate({"steps": steps, "max_length": MAX_LENGTH, **training})
    write_tokens(read_task(task(train, evaluation)), load_tokenizer(model), chosen, folder)
    return EvaluatorSpec(model, chosen, CalibrationSpec(method="none"), str(folder), steps)
