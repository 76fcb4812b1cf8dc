"""A tiny BERT and Llama on disk, with a tokenizer of a few words and sixty questions to classify."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from evaluators.evaluation import EvaluatorSpec
from evaluators.spec import ModelSpec, TaskSpec, TrainingSpec
from evaluators.tokens import write_tokens
from tests.architectures import tiny_model

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = "who what when where why how is was the a in of man city year word it did do many name first new".split()  # noqa: SIM905
CLASSES = ("HUM", "LOC", "NUM")


def tiny_tokenizer(folder: Path) -> Any:
    """Write a tokenizer of whole words into a folder, and return it."""
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    one = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    one.normalizer = normalizers.BertNormalizer()
    one.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    one.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=one, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"], model_max_length=64,
    )  # fmt: skip
    fast.save_pretrained(folder)
    return fast


def tiny_folder(folder: Path, architecture: str = "bert", **overrides: Any) -> Path:
    """Write a tiny model with its tokenizer into a folder."""
    tiny_model(architecture, **overrides).save_pretrained(folder)
    tiny_tokenizer(folder)
    return folder


def questions() -> list[dict[str, str]]:
    """Sixty different questions whose first word tells their class."""
    starts = {"HUM": "who", "LOC": "where", "NUM": "when"}
    words = [word for word in WORDS if word not in starts.values()]
    rows = []
    for number in range(60):
        label = CLASSES[number % 3]
        rest = " ".join(words[(number * 7 + step * step) % len(words)] for step in range(2 + number % 5))
        rows.append({"text": f"{starts[label]} {rest} x{number}", "label": label})
    return rows


def questions_file(folder: Path) -> str:
    """Write the questions as CSV."""
    path = folder / "questions.csv"
    path.write_text("text,label\n" + "\n".join(f"{row['text']},{row['label']}" for row in questions()) + "\n")
    return str(path)


def evaluator_spec(folder: Path, steps: int = 12, architecture: str = "bert", **overrides: Any) -> EvaluatorSpec:
    """Make all that an evaluator needs: a model, its tokens, a spec."""
    from calibration.spec import CalibrationSpec
    from evaluators.data import read_task

    model = tiny_folder(folder / "model", architecture, **overrides)
    training = TrainingSpec(batch_size=8, max_length=16)
    task = read_task(TaskSpec(dataset=questions_file(folder)))
    write_tokens(task, tiny_tokenizer(model), training, folder / "tokens")
    spec = ModelSpec(name=str(model), dtype="float32", device="cpu")
    return EvaluatorSpec(
        spec, training, CalibrationSpec(folds=2, floor_draws=100, scarce=0), str(folder / "tokens"), steps
    )
