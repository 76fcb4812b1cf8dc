"""The model card of an export."""

from __future__ import annotations

import json
from collections.abc import Sequence

from evaluators import exported
from evaluators.backbone import hub_name
from evaluators.score import METRICS, Score
from evaluators.tasks import TaskColumns
from evaluators.tokens import TokenFolder
from evaluators.tuners.registration import TUNERS
from orchestrator.front import Front
from orchestrator.pick import format_value
from orchestrator.storage import StudyStore
from orchestrator.trial import Trial
from search_space.notation import write, write_parts
from search_space.quantities import format_bytes, format_count

_USE_PEFT = """```python
from peft import PeftModel
from transformers import AutoModelForSequenceClassification
{register}
base = AutoModelForSequenceClassification.from_pretrained("{model}", num_labels={classes})
model = PeftModel.from_pretrained(base, "THIS_FOLDER")
```
"""
_USE_TRANSFORMERS = """```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")
model = AutoModelForSequenceClassification.from_pretrained("THIS_FOLDER")
model(**tokenizer(["..."], truncation=True, max_length={length}, padding=True, return_tensors="pt")).logits
```
"""
_CALIBRATED = "\nor, with calibrated probabilities:\n\n"
_USE_PARETUNE = """```python
from evaluators.exported import load_exported

predictor = load_exported("THIS_FOLDER"{task})
predictor.probabilities(["..."])   # calibrated
predictor.answers(["..."])         # a set of classes for each text, which holds the true one as often as promised
```
"""

_MEASURED_BEFORE = (
    "\nLatency and sizes are those of the candidate beside its backbone, before it was merged into the weights.\n"
    "The merged weights are float32.\n"
)


def model_card(
    store: StudyStore, front: Front, trial: Trial, trained: Trial, tokens: TokenFolder, merged: bool = False
) -> str:
    """Return the card as Markdown with the hub's metadata on top, of a merged checkpoint or of an adapter."""
    name = hub_name(store.spec.model.name)
    peft = exported.is_peft(trial.candidate)
    length = store.spec.training.max_length
    sections = [
        _metadata(name, "transformers" if merged else "peft" if peft else ""),
        f"# {write_parts(trial.candidate)}\n",
        f"{write(trial.candidate)}\n\n"
        f"Trained on `{name}` by trial {trial.number} of the study `{store.name}`, found by "
        f"[Paretune](https://pypi.org/project/paretune/). {_reason(front, trial)}\n",
        "## Use\n\n" + (_merged_usage(length, tokens.tasks) if merged else _usage(trial, name, tokens)),
        f"Classes, in the order of the logits: {', '.join(tokens.classes)}.\n",
        "## Results\n\n" + _results(trained) + _spread(front, trial) + (_MEASURED_BEFORE if merged else ""),
        "## Training\n\n" + _training(store, trained, tokens),
        "## Limits\n\nMeasured on the data named above and nothing else. Probabilities are calibrated for data of that "
        "kind; on other data they are not.\n",
    ]
    return "\n".join(sections)


def _metadata(name: str, library_name: str) -> str:
    library = f"library_name: {library_name}\n" if library_name else ""
    return f"---\nbase_model: {json.dumps(name)}\n{library}tags: [paretune, peft, text-classification]\n---\n"


def _reason(front: Front, trial: Trial) -> str:
    if front.pick is not None and front.pick.number == trial.number:
        return f"It is the recommended pick: {front.pick.reason}"
    return ""


def _with_paretune(tasks: Sequence[TaskColumns]) -> str:
    return _USE_PARETUNE.format(task=f', task="{tasks[0].name}"' if tasks else "")


def _merged_usage(length: int, tasks: Sequence[TaskColumns]) -> str:
    columns = "".join(f"\nColumns {one.start} to {one.stop - 1} are those of the task `{one.name}`." for one in tasks)
    return _USE_TRANSFORMERS.format(length=length) + columns + _CALIBRATED + _with_paretune(tasks)


def _usage(trial: Trial, name: str, tokens: TokenFolder) -> str:
    with_paretune = _with_paretune(tokens.tasks)
    if not exported.is_peft(trial.candidate):
        return with_paretune
    ours = trial.candidate.parts[0].method in {name for name, *_ in TUNERS}
    register = "from evaluators import tuners\n\ntuners.register()  # peft does not have this method" if ours else ""
    return _USE_PEFT.format(model=name, classes=len(tokens.classes), register=register) + _CALIBRATED + with_paretune


def _results(trained: Trial) -> str:
    assert trained.score is not None
    rows = ["| metric | validation | test |", "|---|---|---|"]
    for name in trained.score.values:
        test = _cell(trained.test, name) if METRICS[name].on_split else ""
        rows.append(f"| {METRICS[name].text} | {_cell(trained.score, name)} | {test} |")
    return "\n".join(rows) + "\n"


def _cell(score: Score | None, name: str) -> str:
    if score is None or name not in score.values:
        return ""
    value, unit = score[name], METRICS[name].unit
    if unit == "B":
        return format_bytes(value)
    if unit == "parameters":
        return format_count(value)
    if unit in ("FLOP", "J", "s"):
        return format_value(value, METRICS[name])
    return f"{value:.1f} ms" if unit == "ms" else f"{value:.4f}"


def _spread(front: Front, trial: Trial) -> str:
    member = next((one for one in (*front.members, *front.neighbours) if one.number == trial.number), None)
    one = member.test.get("accuracy") if member else None
    if one is None or one.low is None or one.high is None:
        return ""
    return f"\nTest accuracy over {one.seeds} seeds: {one.mean:.4f}, 95 % interval [{one.low:.4f}, {one.high:.4f}].\n"


def _training(store: StudyStore, trained: Trial, tokens: TokenFolder) -> str:
    training = store.spec.training
    assert trained.score is not None
    data = store.spec.task.data
    counts = ", ".join(f"{count} {role}" for role, count in tokens.examples.items())
    return (
        f"- data: `{data}` ({counts}), SHA-256 `{tokens.sha256[:16]}`\n"
        f"- {trained.score.step} steps of {training.batch_size}, at most {training.max_length} tokens, "
        f"AdamW, linear schedule with {training.warmup:.0%} warm-up, seed {trained.seed}\n"
        f"- `python train.py` trains it again\n"
    )
