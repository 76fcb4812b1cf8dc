"""The benchmark of the evaluator: both sides train the same candidates, measurements are kept, figures are right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model

from benchmarks.evaluator.__main__ import paired_ratio
from benchmarks.evaluator.journal import Journal
from benchmarks.evaluator.limit import replay
from benchmarks.evaluator.scales import exponent
from benchmarks.evaluator.subject import CANDIDATES
from evaluators.anatomy import anatomy_of
from evaluators.attach import attach
from search_space.placement import Placement
from tests.architectures import tiny_model


def test_there_are_24_candidates() -> None:
    assert len({one.candidate.sha256 for one in CANDIDATES}) == 24


@pytest.mark.parametrize("one", CANDIDATES[::8], ids=lambda one: one.place)
def test_both_sides_train_the_same_parameters(one) -> None:
    with torch.device("meta"):
        model = tiny_model("bert", num_hidden_layers=6, num_labels=3).requires_grad_(False)
    attached = attach(model, anatomy_of(model), one.candidate)
    names = {name for name, parameter in attached.model.named_parameters() if parameter.requires_grad}
    settings = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=one.rank,
        target_modules=list(one.modules),
        layers_to_transform=one.layers,
    )
    theirs = get_peft_model(model, settings)
    wanted = {name for name, parameter in theirs.named_parameters() if parameter.requires_grad}
    for words in (".lora_A.", ".lora_B."):
        ours = {name.split(words)[0] for name in names if words in name}
        assert ours
        assert ours == {name.split(words)[0].removeprefix("base_model.model.") for name in wanted if words in name}


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path).once("a", lambda: {"seconds": 1.0})
    with path.open("a") as file:
        file.write('{"key": "b", "value"')  # cut off
    again = Journal(path)
    assert again.once("a", lambda: pytest.fail("measured again")) == {"seconds": 1.0}
    again.once("b", lambda: {"seconds": 2.0})
    assert Journal(path).rows == {"a": {"seconds": 1.0}, "b": {"seconds": 2.0}}


def test_a_ratio_of_pairs_is_that_of_their_sums() -> None:
    ratio = paired_ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert (ratio.value, ratio.low, ratio.high) == (2.0, 2.0, 2.0)


def test_the_exponent_is_the_slope_in_logarithms() -> None:
    sizes = np.array([1.0, 2.0, 4.0])
    assert exponent(sizes, 3 * sizes**1.5) == pytest.approx(1.5)


def test_the_replay_does_the_products_of_the_layers_from_the_lowest_on(monkeypatch: pytest.MonkeyPatch) -> None:
    anatomy = anatomy_of(tiny_model("bert"))
    done = []
    monkeypatch.setattr("benchmarks.evaluator.limit._product", lambda *shape: done.append(shape))
    replay(anatomy, Placement.parse("linear[top:1]"), [3, 5], heads=2)
    # six modules of one layer: forward, back to the input, and six small products of the adapter
    assert len(done) == 6 * (2 + 6)
    assert done.count((8, 16, 24)) == 2  # up, and the way back through down
