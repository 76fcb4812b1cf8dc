"""The share of a GPU that a trial is given: by the largest memory that is predicted, and by nothing on a CPU."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evaluators import backbone
from evaluators.device_memory import needed_bytes
from evaluators.score import Cost
from orchestrator import runner, study
from orchestrator.device_share import most_needed_bytes, resources_of, share_of, trials_for_a_device
from orchestrator.preparation import prepare
from orchestrator.spec import ResourcesSpec, StudySpec, parse
from search_space.candidate import Candidate
from search_space.errors import SpecError, UnsupportedError
from search_space.notation import parse as candidate_of
from tests.evaluators.tiny import questions_file, tiny_folder
from tests.orchestrator.made_up import make_spec

GIB = 2**30


@pytest.mark.parametrize(
    ("needed", "memory", "most", "share"),
    [
        (10 * GIB, 80 * GIB, 100, 1 / 8),
        (11 * GIB, 80 * GIB, 100, 1 / 7),
        (10 * GIB, 80 * GIB, 4, 1 / 4),  # no more than there are CPUs for
        (41 * GIB, 80 * GIB, 100, 1.0),
        (81 * GIB, 80 * GIB, 100, 1.0),  # it is tried alone
        (1, 80 * GIB, 1, 1.0),
    ],
)
def test_the_share_is_one_of_the_trials_that_fit(needed: int, memory: int, most: int, share: float) -> None:
    assert share_of(needed, memory, most) == pytest.approx(share, abs=1e-4)


@given(st.integers(1, 200), st.integers(1, 8))
def test_as_many_shares_fit_as_trials(trials: int, devices: int) -> None:
    """Ray counts in ten-thousandths: a share of 1/6, rounded up, would fit five times."""
    share = share_of(1, trials, 1000)
    assert round(share * 10_000) == share * 10_000 or math.isclose(share * 10_000, round(share * 10_000))
    assert trials * round(share * 10_000) <= 10_000
    assert int(1 / share) >= trials


@pytest.mark.parametrize(
    ("resources", "cpus", "devices", "trials"),
    [
        ({}, 16, 1, 16),
        ({"cpus": 4}, 16, 1, 4),
        ({"cpus": 4}, 16, 2, 2),
        ({"cpus": 6}, 16, 4, 1),
        ({"concurrency": 3}, 16, 2, 2),
        ({"cpus": 32}, 16, 1, 1),
    ],
)
def test_trials_are_bounded_by_cpus(resources: dict[str, Any], cpus: int, devices: int, trials: int) -> None:
    assert trials_for_a_device(ResourcesSpec.model_validate(resources), cpus, devices) == trials


def costs(peaks: dict[str, int], drawn: list[str], limits: dict[str, float] | None = None, parameters: int = 0) -> Any:
    """A prepared study of made-up peaks: by method, `lora` with as many trainable parameters as its rank."""

    def cost(candidate: Candidate, _factor: float) -> Cost:
        if candidate.method not in peaks:
            raise UnsupportedError("not here")
        return Cost(dict(candidate.parts[0].knobs).get("r", 1), 1, peaks[candidate.method])

    queue = iter([candidate_of(one) for one in drawn])
    fitting = SimpleNamespace(draw=lambda: next(queue, None))
    space = SimpleNamespace(usual=lambda: candidate_of("bitfit"))
    coster = SimpleNamespace(parameters=parameters)
    return SimpleNamespace(cost=cost, fitting=lambda _seed: fitting, space=space, limits=limits or {}, coster=coster)


def study_of(**given: Any) -> StudySpec:
    return make_spec(**given)


@pytest.mark.parametrize(
    ("peaks", "drawn", "peak"),
    [
        ({"full": 9 * GIB, "head": GIB, "lora": 4 * GIB}, ["lora"], 9 * GIB),
        ({"full": 3 * GIB, "head": GIB, "lora": 4 * GIB}, ["lora"], 4 * GIB),
        ({"head": GIB, "bitfit": 2 * GIB}, ["lora"], 2 * GIB),  # the model carries neither of the others
    ],
)
def test_what_a_trial_may_need_is_the_largest_prediction(peaks: dict[str, int], drawn: list[str], peak: int) -> None:
    found = most_needed_bytes(study_of(budgets={"memory_factor": 1.5}), costs(peaks, drawn))
    assert found == needed_bytes(peak, "cuda", 1.5)


def test_what_is_over_a_limit_is_not_trained_and_does_not_count() -> None:
    prepared = costs({"head": GIB, "lora": 4 * GIB}, ["lora(r=8)"], {"trainable_params": 4})
    assert most_needed_bytes(study_of(), prepared) == needed_bytes(GIB, "cuda")


def test_weights_that_are_trained_stand_beside_the_backbones() -> None:
    parameters = 10**9
    spec = study_of(model={"name": "m", "dtype": "float32", "device": "cpu"})
    alone = costs({"head": GIB, "full": 9 * GIB, "lora": 12 * GIB}, ["lora"], parameters=parameters)
    assert most_needed_bytes(spec, alone) == needed_bytes(9 * GIB + 4 * parameters, "cuda")
    without = costs({"head": GIB, "lora": 12 * GIB}, ["lora"], parameters=parameters)
    assert most_needed_bytes(spec, without) == needed_bytes(12 * GIB, "cuda")


def test_a_budget_of_memory_bounds_what_is_searched_and_not_the_references() -> None:
    prepared = costs({"head": GIB, "full": 9 * GIB, "lora": 40 * GIB}, ["lora"])
    assert most_needed_bytes(study_of(budgets={"memory": "20GiB"}), prepared) == 20 * GIB
    assert most_needed_bytes(study_of(budgets={"memory": "2GiB"}), prepared) == needed_bytes(9 * GIB, "cuda")
    without = study_of(budgets={"memory": "3GiB"}, search={"references": ["head"]})
    assert most_needed_bytes(without, prepared) == 3 * GIB


def on_gpus(monkeypatch: pytest.MonkeyPatch, *memory: int) -> None:
    monkeypatch.setattr(backbone, "_choose_device", lambda _wanted: torch.device("cuda"))
    monkeypatch.setattr(backbone, "_bfloat16_pays", lambda _device: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(memory))
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda number: SimpleNamespace(total_memory=memory[number])
    )
    monkeypatch.setattr("os.cpu_count", lambda: 64)


@pytest.mark.parametrize(
    ("given", "share"),
    [
        ({"budgets": {"memory": "10GiB"}}, 1 / 4),  # of the smaller GPU
        ({"budgets": {"memory": "10GiB"}, "resources": {"cpus": 16}}, 1 / 2),
        ({"budgets": {"memory": "10GiB"}, "resources": {"together": 2}}, 1 / 2),
        ({"budgets": {"memory": "10GiB"}, "resources": {"gpus": 0.6}}, 0.6),
        ({"budgets": {"memory": "10GiB"}, "resources": {"gpus": 0}}, 0),
    ],
)
def test_on_gpus_a_trial_is_given_a_share(monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], share: float) -> None:
    on_gpus(monkeypatch, 80 * GIB, 40 * GIB)
    found = resources_of(study_of(**given), costs({"head": GIB}, []))
    assert found.reserved_gpus == found.gpus == share


@pytest.mark.parametrize("given", [{"model": {"name": "-", "device": "cpu"}}, {"synthetic": {}}])
def test_elsewhere_nothing_is_reserved(monkeypatch: pytest.MonkeyPatch, given: dict[str, Any]) -> None:
    if "synthetic" in given:  # closed forms use no device
        on_gpus(monkeypatch, 80 * GIB)
    resources = resources_of(study_of(**given), costs({}, []))
    assert (resources.gpus, resources.reserved_gpus) == (0.0, 0.0)


def test_nothing_is_reserved_while_nobody_has_made_a_number_of_it() -> None:
    assert ResourcesSpec().gpus == "auto"
    assert ResourcesSpec().reserved_gpus == 0.0


def test_a_whole_number_is_a_number() -> None:
    assert ResourcesSpec.model_validate({"gpus": 1}).reserved_gpus == 1.0


def test_other_words_are_refused() -> None:
    with pytest.raises(SpecError, match=r"resources\.gpus"):
        study_of(resources={"gpus": "all"})


@pytest.mark.parametrize(("gpus", "room"), [(1 / 6, 12), (1.0, 2), ("auto", 16)])
def test_there_is_room_for_as_many_trials(monkeypatch: pytest.MonkeyPatch, gpus: Any, room: int) -> None:
    monkeypatch.setattr(runner.ray, "cluster_resources", lambda: {"CPU": 16.0, "GPU": 2.0})
    given = share_of(1, 6, 16) if gpus == 1 / 6 else gpus
    assert runner._room(ResourcesSpec(gpus=given)) == room


def test_a_study_asks_for_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[ResourcesSpec] = []

    @contextmanager
    def cluster(resources: ResourcesSpec) -> Iterator[int]:
        asked.append(resources)
        raise KeyboardInterrupt
        yield 1

    on_gpus(monkeypatch, 80 * GIB)
    monkeypatch.setattr(study, "cluster", cluster)
    monkeypatch.setattr(study, "rungs_of", lambda *_: SimpleNamespace(steps=(1,)))
    monkeypatch.setattr(study, "SearchWork", lambda *_: None)
    store: Any = SimpleNamespace(
        spec=study_of(budgets={"memory": "10GiB"}, search={"references": []}),
        noted=lambda _name: None,
        abandon_unstarted=lambda: None,
        trials=lambda _phase: [],
    )
    prepared = costs({}, [])
    prepared.evaluator = SimpleNamespace(steps=1)
    driver = study._Driver(store, prepared, None, None, Path())  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        driver.run()
    assert [one.gpus for one in asked] == [0.125]


@pytest.mark.gpu
def test_a_tiny_model_shares_a_gpu(tmp_path: Path) -> None:
    tiny_folder(tmp_path / "model", num_labels=3)
    spec = parse({
        "name": "small",
        "model": {"name": str(tmp_path / "model"), "device": "cuda", "attention": "sdpa"},
        "task": questions_file(tmp_path),
        "training": {"batch_size": 8, "max_length": 16},
        "resources": {"concurrency": 2},
    })  # fmt: skip
    assert resources_of(spec, prepare(spec, tmp_path)).gpus == 0.5
