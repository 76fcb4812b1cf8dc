"""Several tasks on one backbone: their data, what turns with the task, training, scores, counts and exports."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluators.anatomy import anatomy_of
from evaluators.attach import attach
from evaluators.costing import MetaCoster, meta_coster
from evaluators.data import read_task
from evaluators.evaluation import EvaluatorSpec
from evaluators.exported import as_peft_model, is_peft, load_exported, reload_peft
from evaluators.optimisation import build_optimiser
from evaluators.predictors import load_ensemble
from evaluators.score import Score
from evaluators.specimens import tiny
from evaluators.tasks import TaskColumns
from evaluators.tokens import TokenFolder
from evaluators.trained import TrainedEvaluator, TrainedRun
from search_space.errors import ExportError, UnsupportedError
from search_space.notation import parse
from tests.evaluators.tiny import CLASSES
from tests.evaluators.two_tasks import LENGTHS, task_of, two_task_spec

TASKS = (TaskColumns("kind", 0, 3), TaskColumns("length", 3, 5))
SHARED = ("lora(r=2)", "head", "full", "lora(r=2) + bitfit", "prefix_tuning(num_virtual_tokens=4)")
SPLIT = (
    "lora(r=2,per_task=true)",
    "bitfit(per_task=true)",
    "lora(r=2/4,per_task=true)@attention.query",
    "lora(r=2) + lora(r=4,per_task=true)",
    "serial_adapter(r=4) + ia3(per_task=true)",
    "prefix_tuning(num_virtual_tokens=4) + lora(r=2,per_task=true)@attention.query[top:1]",
    "lora_plus(r=2,per_task=true)",
)
ON_TOP = "lora(r=2,per_task=true)@attention.query[top:1]"
STEPS = 6
OWN = ("poly(r=2,n_skills=2)", "mtl_lora(r=2)", "multitask_prompt_tuning(num_virtual_tokens=4)")


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> EvaluatorSpec:
    return two_task_spec(tmp_path_factory.mktemp("study"), STEPS)


@pytest.fixture(scope="module")
def evaluator(spec: EvaluatorSpec) -> TrainedEvaluator:
    return TrainedEvaluator(spec)


@pytest.fixture(scope="module")
def coster(spec: EvaluatorSpec) -> MetaCoster:
    longest = TokenFolder.open(Path(spec.tokens)).longest["train"]
    return meta_coster(spec.model, 5, spec.training, longest, 2)


@dataclass(frozen=True)
class Trained:
    """A candidate that was trained once for all tests here."""

    run: TrainedRun
    rung: Score
    end: Score


@pytest.fixture(scope="module")
def trained(evaluator: TrainedEvaluator) -> Callable[[str], Trained]:
    @cache
    def train(text: str) -> Trained:
        run = evaluator.start(parse(text), 3)
        return Trained(run, run.advance(2), run.advance(STEPS))

    return train


class TestData:
    def test_classes_and_rows_stand_one_task_behind_the_other(self, tmp_path: Path) -> None:
        task = read_task(task_of(tmp_path))
        assert task.tasks == TASKS
        assert task.classes == (*(f"kind/{name}" for name in CLASSES), *(f"length/{name}" for name in LENGTHS))
        for examples in task.roles.values():
            numbers = np.searchsorted([3], examples.labels, side="right")
            assert set(numbers) == {0, 1}
            assert (np.diff(numbers) >= 0).all()

    def test_each_batch_is_of_one_task_and_the_tasks_take_turns_in_proportion(
        self, evaluator: TrainedEvaluator
    ) -> None:
        tokens = evaluator.tokens["train"]
        assert tokens.tasks == TASKS
        seen = np.zeros(2, dtype=int)
        order = tokens.shuffled(4, seed=0)
        for _ in range(400):
            batch = tokens.batch(next(order), torch.device("cpu"))
            number = int(batch.inputs["task_ids"][0])
            assert (batch.inputs["task_ids"] == number).all()
            assert batch.columns == (TASKS[number].start, TASKS[number].stop)
            assert 0 <= int(batch.labels.min()) <= int(batch.labels.max()) < TASKS[number].stop - TASKS[number].start
            seen[number] += 1
        sizes = [int(one.rows(tokens.labels).sum()) // 4 for one in TASKS]
        assert seen[0] / seen[1] == pytest.approx(sizes[0] / sizes[1], rel=0.1)

    def test_the_groups_of_a_pass_hold_every_example_once(self, evaluator: TrainedEvaluator) -> None:
        tokens = evaluator.tokens["train"]
        for groups in (tokens.first_pass(4, 1), tokens.by_length(4)):
            assert sorted(one for group in groups for one in group) == list(range(len(tokens.ids)))
            assert all(len({int(np.searchsorted([3], tokens.labels[i], side="right")) for i in g}) == 1 for g in groups)

    def test_a_batch_of_two_tasks_is_refused(self, evaluator: TrainedEvaluator) -> None:
        tokens = evaluator.tokens["train"]
        with pytest.raises(ValueError, match="one task"):
            tokens.batch([0, len(tokens.ids) - 1], torch.device("cpu"))


@pytest.mark.parametrize("text", [*SHARED, *SPLIT, *OWN])
def test_counts_before_training_are_those_of_the_trained_model(
    trained: Callable[[str], Trained], coster: MetaCoster, text: str
) -> None:
    score, cost = trained(text).end, coster.cost(parse(text))
    for name in ("trainable_params", "head_params", "deployed_params", "checkpoint_bytes"):
        assert score[name] == cost.values[name], name
    assert cost.head_params == 16 * 5 + 5


@pytest.mark.parametrize("text", [*SHARED[:2], *SPLIT[:2], *OWN])
def test_quality_is_that_of_each_task_and_their_mean(
    evaluator: TrainedEvaluator, trained: Callable[[str], Trained], text: str
) -> None:
    done = trained(text)
    run, rung, end = done.run, done.rung, done.end
    for name in ("accuracy", "macro_f1", "nll", "calibrated_nll", "ece", "brier"):
        for score in (rung, end):
            assert score[name] == pytest.approx((score[f"{name}/kind"] + score[f"{name}/length"]) / 2)
    labels, logits = evaluator.tokens["validation"].labels, run.logits["validation"]
    for one in TASKS:
        own = logits[one.rows(labels)]
        outside = np.delete(own, np.s_[one.start : one.stop], axis=1)
        assert np.isneginf(outside).all()
        right = own.argmax(axis=1) == labels[one.rows(labels)]
        assert end[f"accuracy/{one.name}"] == right.mean()
    assert {"calibrated_ece", "calibrated_ece/kind"} <= end.values.keys()


@pytest.mark.parametrize("text", [*SPLIT, "poly", "mtl_lora"])
def test_a_step_of_one_task_leaves_what_is_the_others_alone(text: str) -> None:
    model, anatomy = tiny("bert", 2)
    attached = attach(model, anatomy, parse(text))
    ids = torch.randint(3, 64, (4, 9), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    optimiser = build_optimiser(attached)
    attached.model.train()
    told = [torch.full((4,), task) for task in (0, 1)]
    for _ in range(3):  # what starts as zero lets nothing through at first
        optimiser.update(attached.model(**inputs, task_ids=told[0]).logits[:, :2].square().mean(), 1.0)
    attached.model.eval()
    with torch.inference_mode():
        one, other = (attached.model(**inputs, task_ids=task).logits for task in told)
    assert not torch.equal(one, other), "a task is answered by its own adapter"
    owned = {name: p for name, p in attached.model.named_parameters() if p.requires_grad and "_1." in f"{name}."}
    fresh = dict(attach(model, anatomy, parse(text)).model.named_parameters())
    assert all(torch.equal(parameter, fresh[name]) for name, parameter in owned.items())
    assert bool(owned) == ("per_task" in text)


def test_adapters_of_their_own_learn_what_each_task_alone_would_teach() -> None:
    """An adapter for each task, trained on both, is the adapter trained on its task alone."""
    model, anatomy = tiny("bert", 2)
    batches = [
        {"input_ids": torch.randint(3, 64, (4, 9), generator=torch.Generator().manual_seed(seed))} for seed in range(4)
    ]

    def learnt(text: str, tasks: list[int]) -> torch.Tensor:
        attached = attach(model, anatomy, parse(text), seed=1)
        for parameter in attached.head:
            parameter.requires_grad_(False)  # the heads share their optimiser's norm, and are not asked about here
        optimiser = torch.optim.SGD(attached.trainable[: -len(attached.head)], lr=0.5)
        for task, batch in zip(tasks, batches, strict=True):
            if task in (0, 1):
                attached.model(**batch, task_ids=torch.full((4,), task)).logits.square().mean().backward()
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
        with torch.inference_mode():
            logits: torch.Tensor = attached.model(**batches[0], task_ids=torch.zeros(4, dtype=torch.long)).logits
        return logits

    both = learnt("lora(r=2,per_task=true)", [0, 1, 0, 1])
    alone = learnt("lora(r=2,per_task=true)", [0, -1, 0, -1])
    assert torch.allclose(both, alone, atol=1e-6)
    assert not torch.allclose(both, learnt("lora(r=2)", [0, 1, 0, 1]), atol=1e-6)


def export(evaluator: TrainedEvaluator, run: TrainedRun, folder: Path) -> TrainedRun:
    run.save(folder)
    about = {
        "schema_version": 1,
        "candidate": run.attached.candidate.to_json(),
        "seed": 3,
        "model": evaluator.spec.model.model_dump(mode="json", exclude_none=True),
        "calibration": evaluator.spec.calibration.model_dump(mode="json"),
        "classes": list(evaluator.folder.classes),
        "tasks": [asdict(one) for one in TASKS],
        "max_length": evaluator.spec.training.max_length,
    }
    (folder / "paretune.json").write_text(json.dumps(about))
    return run


@pytest.mark.parametrize("text", [*SHARED[2:4], *SPLIT, *OWN])
def test_an_export_predicts_each_task_as_it_was_recorded(
    evaluator: TrainedEvaluator, trained: Callable[[str], Trained], tmp_path: Path, text: str
) -> None:
    run = export(evaluator, trained(text).run, tmp_path)
    tokens = evaluator.tokens["validation"]
    for one in TASKS:
        again = load_exported(tmp_path, task=one.name, backbone=evaluator.backbone)
        assert again.classes == (CLASSES, LENGTHS)[one.name == "length"]
        positions = np.flatnonzero(one.rows(tokens.labels)).tolist()
        batch = tokens.batch(positions, torch.device("cpu"))
        logits = again.own(again.model(**batch.inputs).logits.detach())
        assert np.abs(logits - one.own(run.logits["validation"], tokens.labels)).max() <= 1e-5
        probabilities = again.probabilities(["who was the first", "when"])
        assert probabilities.shape == (2, one.stop - one.start)
        assert probabilities.sum(axis=1) == pytest.approx(1.0)


def test_an_export_asks_which_task(
    evaluator: TrainedEvaluator, trained: Callable[[str], Trained], tmp_path: Path
) -> None:
    export(evaluator, trained("head").run, tmp_path)
    with pytest.raises(ExportError, match="trained on 'kind', 'length'; say which"):
        load_exported(tmp_path)
    with pytest.raises(ExportError, match="did you mean 'length'"):
        load_exported(tmp_path, task="lenght")


def test_an_ensemble_predicts_one_of_the_tasks(
    evaluator: TrainedEvaluator, trained: Callable[[str], Trained], tmp_path: Path
) -> None:
    folders = [tmp_path / name for name in ("one", "other")]
    for folder, text in zip(folders, ("lora(r=2,per_task=true)", "head"), strict=True):
        folder.mkdir()
        export(evaluator, trained(text).run, folder)
    ensemble = load_ensemble(folders, task="length")
    assert ensemble.probabilities(["who was the first"]).shape == (1, 2)


@pytest.mark.parametrize("text", ["lora(r=2)", "poly(r=2,n_skills=2)", "multitask_prompt_tuning(num_virtual_tokens=4)"])
def test_peft_reloads_what_all_tasks_share(
    evaluator: TrainedEvaluator, trained: Callable[[str], Trained], tmp_path: Path, text: str
) -> None:
    run, candidate = trained(text).run, parse(text)
    assert is_peft(candidate)
    anatomy = anatomy_of(evaluator.backbone.model)
    model = as_peft_model(evaluator.backbone, anatomy, candidate, run.saved, evaluator.spec.model.name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft looks for the vocabulary's size on a hub that is not there
        model.save_pretrained(tmp_path)
    again = reload_peft(evaluator.backbone, tmp_path)
    tokens = evaluator.tokens["validation"]
    for indices, batch in tokens.in_order(8, torch.device("cpu")):
        logits = batch.own(again(**batch.inputs).logits).detach().numpy()
        recorded = run.logits["validation"][indices, slice(*batch.columns)]
        assert np.abs(logits - recorded).max() <= 1e-5


@pytest.mark.parametrize("text", [*SPLIT, "mtl_lora"])
def test_what_peft_cannot_hold_is_known(text: str) -> None:
    assert not is_peft(parse(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lora(per_task=true)", "lora.per_task: this study has one task"),
        ("poly", "poly tells several tasks apart, and this study has one; list them under task.tasks"),
        ("mtl_lora", "mtl_lora tells several tasks apart"),
    ],
)
def test_one_task_has_nothing_to_tell_apart(text: str, message: str) -> None:
    model, anatomy = tiny("bert")
    with pytest.raises(UnsupportedError, match=message):
        attach(model, anatomy, parse(text))


@pytest.mark.parametrize("text", ["adalora(per_task=true)", "diff_pruning(per_task=true)"])
def test_what_looks_after_one_adapter_is_refused(evaluator: TrainedEvaluator, coster: MetaCoster, text: str) -> None:
    with pytest.raises(UnsupportedError, match="knows one only"):
        evaluator.start(parse(text), 0)
    with pytest.raises(UnsupportedError, match="knows one only"):
        coster.cost(parse(text))


def test_the_frozen_prefix_is_stored_once_for_all_tasks(trained: Callable[[str], Trained]) -> None:
    run = trained(ON_TOP).run
    assert run.forward.depth == 1
    assert not run.forward.why_whole
