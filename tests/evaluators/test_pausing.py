"""Runs that are written at a rung and gone on with by another evaluator: bit for bit as if never interrupted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from calibration.spec import CalibrationSpec
from evaluators.evaluation import PAUSED_FILE, EvaluatorSpec, Run, build_evaluator
from evaluators.packing import Pack
from evaluators.spec import ModelSpec, SyntheticSpec, TrainingSpec
from evaluators.trained import TrainedEvaluator, TrainedRun
from search_space.candidate import Candidate
from search_space.notation import parse
from search_space.registry import methods
from search_space.space import at_defaults
from tests.evaluators.test_trained import steady
from tests.evaluators.tiny import evaluator_spec
from tests.evaluators.two_tasks import two_task_spec

STEPS = 12
RUNGS = (4, 8, 11)
"""The examples give four batches, so that their order has begun anew at each; AdaLoRA has pruned since step 2, and
fixes its ranks after step 8; diff pruning fixes its mask after step 10."""

OTHERWISE = {"adaption_prompt": "llama", "loftq": "nf4"}
"""What methods need that tiny BERT does not have."""

TOLD = [
    "lora(r=4) | lr=0.02 dropout=0.1 mixup=0.2 weight_decay=0.1",
    "lora(r=2) + bitfit | lr=0.01/0.02",
    "adalora + serial_adapter | lr=0.01/0.01 dropout=0.2",
    "adalora + adalora@mlp | lr=0.01/0.02",
    "prefix_tuning + lora | lr=0.01/0.01",
    "diff_pruning + bitfit | lr=0.01/0.01 mixup=0.4",
    "unipelt + gated_prefix | lr=0.01/0.01",
]


Pairs = dict[str, tuple[TrainedEvaluator, TrainedEvaluator]]

ELSEWHERE = """
import json, sys
from pathlib import Path
from evaluators.evaluation import EvaluatorSpec, build_evaluator
from search_space.notation import parse

folder = Path(sys.argv[1])
evaluator = build_evaluator(EvaluatorSpec.from_json(json.loads((folder / "spec.json").read_text())))
for name, text in json.loads((folder / "candidates.json").read_text()).items():
    run = evaluator.start(parse(text), 3)
    assert run.resume(folder / name / "paused")
    run.advance(8)
    run.pause(folder / name / "paused")
"""


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, EvaluatorSpec]:
    """Specs of what candidates are trained on, by name."""
    wide = {"hidden_size": 64, "intermediate_size": 128, "num_labels": 3}
    bert = evaluator_spec(tmp_path_factory.mktemp("bert"), STEPS, **wide)
    llama = evaluator_spec(tmp_path_factory.mktemp("llama"), STEPS, "llama", head_dim=32, **wide)
    return {
        "bert": bert,
        "llama": llama,
        "tasks": two_task_spec(tmp_path_factory.mktemp("tasks"), STEPS),
        "bfloat16": replace(bert, model=bert.model.model_copy(update={"dtype": "bfloat16"})),
        "nf4": replace(llama, model=llama.model.model_copy(update={"quantization": "nf4"})),
    }


@pytest.fixture(scope="module")
def pairs(specs: dict[str, EvaluatorSpec]) -> Pairs:
    """Two evaluators for each spec, as of two processes; made when they are asked for."""

    class Made(dict[str, tuple[TrainedEvaluator, TrainedEvaluator]]):
        def __missing__(self, name: str) -> tuple[TrainedEvaluator, TrainedEvaluator]:
            self[name] = TrainedEvaluator(specs[name]), TrainedEvaluator(specs[name])
            return self[name]

    return Made()


def seen(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return what a pause left, without times."""
    with safetensors.safe_open(folder / PAUSED_FILE, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys() if name != "steps/seconds"}  # noqa: SIM118
        return tensors, file.metadata()


def equal(one: Path, other: Path) -> None:
    """Compare what two pauses left."""
    (tensors, about), (others, about_other) = seen(one), seen(other)
    assert about == about_other
    assert tensors.keys() == others.keys()
    assert [name for name, tensor in tensors.items() if not torch.equal(tensor, others[name])] == []


def follow(
    pair: Iterable[TrainedEvaluator], candidate: Candidate, rungs: tuple[int, ...], folder: Path, parts: int = 1
) -> tuple[TrainedRun, TrainedRun]:
    """Train as if never interrupted, and from rung to rung on one evaluator after the other; compare at each rung."""
    here, there = pair
    whole, run = here.start(candidate, 3, parts), here.start(candidate, 3, parts)
    for number, rung in enumerate(rungs):
        assert steady(whole.advance(rung)) == steady(run.advance(rung))
        if rung < STEPS:
            whole.pause(folder / "whole")
            run.pause(folder / "paused")
            equal(folder / "whole", folder / "paused")
            run = (there, here)[number % 2].start(candidate, 3, parts)
            assert run.resume(folder / "paused")
    return whole, run


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", methods())
def test_every_method_goes_on_as_if_it_had_not_been_interrupted(name: str, pairs: Pairs, tmp_path: Path) -> None:
    where = OTHERWISE.get(name, "tasks" if methods()[name].several_tasks else "bert")
    if where == "nf4":
        pytest.importorskip("bitsandbytes")
    follow(pairs[where], at_defaults(name), RUNGS, tmp_path)


@pytest.mark.parametrize("text", TOLD)
def test_hybrids_and_recipes_go_on_to_the_end_that_they_would_have_had(text: str, pairs: Pairs, tmp_path: Path) -> None:
    whole, run = follow(pairs["bert"], parse(text), (4, 8, STEPS), tmp_path)
    assert whole.saved.keys() == run.saved.keys()
    assert all(torch.equal(tensor, run.saved[name]) for name, tensor in whole.saved.items())
    assert len(run.step_seconds) == STEPS
    assert whole.test() == run.test()


def test_another_process_goes_on(pairs: Pairs, tmp_path: Path) -> None:
    here = pairs["bert"][0]
    texts = {f"c{number}": text for number, text in enumerate(TOLD)}
    for name, text in texts.items():
        run = here.start(parse(text), 3)
        run.advance(4)
        run.pause(tmp_path / name / "paused")
        run.advance(8)
        run.pause(tmp_path / name / "whole")
    (tmp_path / "spec.json").write_text(json.dumps(here.spec.to_json()))
    (tmp_path / "candidates.json").write_text(json.dumps(texts))
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", ELSEWHERE, str(tmp_path)], check=True, timeout=300, env=environment)
    for name in texts:
        equal(tmp_path / name / "whole", tmp_path / name / "paused")


def test_runs_that_train_together_go_on_together(pairs: Pairs, tmp_path: Path) -> None:
    here, there = pairs["bert"]
    candidates = [parse("lora(r=4) | lr=0.02"), parse("lora(r=2) | lr=0.01")]
    runs, others = ([one.start(each, 3) for each in candidates] for one in (here, there))
    Pack(runs).train(4)
    for number, (run, other) in enumerate(zip(runs, others, strict=True)):
        run.pause(tmp_path / f"{number}")
        assert other.resume(tmp_path / f"{number}")
    for name, both in {"whole": runs, "paused": others}.items():
        Pack(both).train(8)
        for number, run in enumerate(both):
            run.pause(tmp_path / name / f"{number}")
    for number in range(len(runs)):
        equal(tmp_path / "whole" / f"{number}", tmp_path / "paused" / f"{number}")


@pytest.mark.parametrize("name", ["adalora", "diff_pruning", "mask"])
@pytest.mark.parametrize("rungs", [(1, 3, 7), (7, 9, 10), (9, 10, STEPS)])
def test_what_happens_once_may_lie_before_a_pause_or_after_it(
    name: str, rungs: tuple[int, ...], pairs: Pairs, tmp_path: Path
) -> None:
    follow(pairs["bert"], at_defaults(name), rungs, tmp_path)


def test_a_candidate_that_is_trained_for_less_goes_on_at_its_own_step(pairs: Pairs, tmp_path: Path) -> None:
    _, run = follow(pairs["bert"], parse("lora(r=4) | lr=0.02 training_share=0.5"), (4, 8, STEPS), tmp_path)
    assert run.step == STEPS // 2


@pytest.mark.parametrize("text", ["lora(r=4) | lr=0.02 mixup=0.2 dropout=0.1", "adalora | lr=0.02"])
def test_divided_steps_go_on(text: str, pairs: Pairs, tmp_path: Path) -> None:
    follow(pairs["bert"], parse(text), RUNGS, tmp_path, parts=2)


@pytest.mark.parametrize("text", ["full | lr=0.001", "lora(r=4) | lr=0.02", "full + lora | lr=0.001/0.01"])
def test_masters_of_low_precision_go_on(text: str, pairs: Pairs, tmp_path: Path) -> None:
    follow(pairs["bfloat16"], parse(text), RUNGS, tmp_path)
    masters = [name for name in seen(tmp_path / "paused")[0] if name.startswith("optimiser/master")]
    assert len(masters) >= len(parse(text).parts)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_quantised_weights_are_the_backbones_and_not_written(pairs: Pairs, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    _, run = follow(pairs["nf4"], parse("lora(r=4)@linear | lr=0.02"), RUNGS, tmp_path)
    sizes = [tensor.numel() for name, tensor in seen(tmp_path / "paused")[0].items() if name.startswith("model/")]
    assert sum(sizes) == run.attached.trainable_params + run.attached.head_params


@pytest.mark.gpu
@pytest.mark.parametrize("text", [*TOLD, "full | lr=0.001"])
def test_runs_go_on_where_they_were_on_cuda(text: str, specs: dict[str, EvaluatorSpec], tmp_path: Path) -> None:
    spec = replace(specs["bert"], model=specs["bert"].model.model_copy(update={"dtype": "bfloat16", "device": "cuda"}))
    here, there = TrainedEvaluator(spec), TrainedEvaluator(spec)
    run = here.start(parse(text), 3)
    run.advance(4)
    run.pause(tmp_path / "one")
    again = there.start(parse(text), 3)
    assert again.resume(tmp_path / "one")
    again.pause(tmp_path / "other")
    equal(tmp_path / "one", tmp_path / "other")
    states = [tensor for one in again.optimiser.state.values() for name, tensor in one.items() if name != "step"]
    assert {tensor.device.type for tensor in states} == {"cuda"}
    again.advance(STEPS)


class TestWhatIsNotThisRuns:
    TEXT = "lora(r=4) | lr=0.02 dropout=0.1"

    @pytest.fixture
    def paused(self, pairs: Pairs, tmp_path: Path) -> Path:
        run = pairs["bert"][0].start(parse(self.TEXT), 3)
        run.advance(4)
        run.pause(tmp_path)
        return tmp_path

    def begins_anew(
        self, evaluator: TrainedEvaluator, folder: Path, text: str = TEXT, seed: int = 3, parts: int = 1
    ) -> None:
        run, other = (evaluator.start(parse(text), seed, parts) for _ in range(2))
        assert not run.resume(folder)
        assert run.step == 0
        assert steady(run.advance(4)) == steady(other.advance(4))

    def test_one_that_is_missing(self, pairs: Pairs, tmp_path: Path) -> None:
        self.begins_anew(pairs["bert"][1], tmp_path / "nowhere")

    @pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
    def test_one_that_was_cut_off(self, pairs: Pairs, paused: Path, share: float) -> None:
        content = (paused / PAUSED_FILE).read_bytes()
        (paused / PAUSED_FILE).write_bytes(content[: int(share * len(content))])
        self.begins_anew(pairs["bert"][1], paused)

    def test_one_that_is_another_file(self, pairs: Pairs, paused: Path) -> None:
        (paused / PAUSED_FILE).write_bytes(safetensors.torch.save({"model/weight": torch.zeros(2)}))
        self.begins_anew(pairs["bert"][1], paused)

    @pytest.mark.parametrize(
        "other",
        [{"text": TEXT.replace("0.02", "0.03")}, {"text": "lora(r=2) | lr=0.02"}, {"seed": 4}, {"parts": 2}],
    )
    def test_one_of_another_candidate_seed_or_accumulation(
        self, pairs: Pairs, paused: Path, other: dict[str, object]
    ) -> None:
        self.begins_anew(pairs["bert"][1], paused, **other)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "other", [{"steps": 24}, {"training": {"batch_size": 4}}, {"model": {"dtype": "bfloat16"}}]
    )
    def test_one_that_was_trained_otherwise(self, pairs: Pairs, paused: Path, other: dict[str, object]) -> None:
        spec = pairs["bert"][0].spec
        changed = {
            name: getattr(spec, name).model_copy(update=value) if isinstance(value, dict) else value
            for name, value in other.items()
        }
        self.begins_anew(TrainedEvaluator(replace(spec, **changed)), paused)  # type: ignore[arg-type]

    def test_one_of_other_shapes(self, pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As of a mask that follows from the data, found elsewhere on a device that adds up in another order."""
        here, there = pairs["bert"]
        run = here.start(at_defaults("mask"), 3)
        run.advance(4)
        run.pause(tmp_path)
        monkeypatch.setattr("evaluators.hooks.fisher_scores", self._other_scores)
        other = there.start(at_defaults("mask"), 3)
        before = other.attached.state(there.backbone.storages)
        assert not other.resume(tmp_path)
        assert other.step == 0
        after = other.attached.state(there.backbone.storages)
        assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())

    @staticmethod
    def _other_scores(model: torch.nn.Module, batches: object, loss_of: object, name: str) -> dict[str, torch.Tensor]:
        from evaluators.tuners.mask.selection import masked_layers

        layers = masked_layers(model, name)
        weights = {site: layer.get_base_layer().get_parameter("weight") for site, layer in layers.items()}
        return {site: torch.rand_like(weight) * at for at, (site, weight) in enumerate(weights.items())}


def test_a_pause_that_fails_leaves_the_one_before(
    pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = pairs["bert"][0].start(parse("lora(r=4) | lr=0.02"), 3)
    run.advance(4)
    run.pause(tmp_path)
    before = (tmp_path / PAUSED_FILE).read_bytes()
    run.advance(8)
    with monkeypatch.context() as patched:
        patched.setattr("search_space.files.os.fsync", lambda _: (_ for _ in ()).throw(OSError("the disk is full")))
        with pytest.raises(OSError, match="full"):
            run.pause(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [PAUSED_FILE]
    assert (tmp_path / PAUSED_FILE).read_bytes() == before


class TestWithoutTraining:
    @staticmethod
    def start(text: str = "lora", seed: int = 0) -> Run:
        synthetic = SyntheticSpec()
        spec = EvaluatorSpec(ModelSpec(name="-"), TrainingSpec(), CalibrationSpec(), "", 90, synthetic=synthetic)
        return build_evaluator(spec).start(parse(text), seed)

    def test_a_pretended_run_goes_on_at_its_step(self, tmp_path: Path) -> None:
        run, again = self.start(), self.start()
        run.advance(30)
        run.pause(tmp_path)
        assert again.resume(tmp_path)
        assert again.test() == run.test()
        assert again.advance(90) == run.advance(90)

    def test_a_pretended_run_does_not_go_on_from_another(self, tmp_path: Path) -> None:
        run = self.start()
        run.advance(30)
        run.pause(tmp_path)
        assert not self.start("bitfit").resume(tmp_path)
        assert not self.start(seed=1).resume(tmp_path)
        assert not self.start().resume(tmp_path / "nowhere")
        (tmp_path / PAUSED_FILE).write_bytes((tmp_path / PAUSED_FILE).read_bytes()[:20])
        assert not self.start().resume(tmp_path)

    def test_it_does_not_import_torch(self) -> None:
        code = "import sys, evaluators.synthetic; sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code]).returncode == 0
