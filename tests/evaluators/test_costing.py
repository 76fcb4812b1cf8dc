"""Costs before training: of the same model as the one that is trained, and a reason where there is none."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from evaluators.backbone import load
from evaluators.costing import MetaCoster, meta_coster
from evaluators.fake_tensors import fake_tensors
from evaluators.spec import ModelSpec, TrainingSpec
from search_space.errors import UnsupportedError
from search_space.notation import parse
from tests.evaluators.tiny import tiny_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model"))


def coster(folder: Path, dtype: str = "float32", length: int = 16) -> MetaCoster:
    return meta_coster(ModelSpec(name=str(folder), device="cpu", dtype=dtype), 3, TrainingSpec(batch_size=8), length)  # type: ignore[arg-type]


def test_it_counts_the_backbone_without_its_head(folder: Path) -> None:
    backbone = load(ModelSpec(name=str(folder), device="cpu"), 3)
    whole = sum(parameter.numel() for parameter in backbone.model.parameters())
    assert coster(folder).parameters == whole - (16 * 3 + 3)


def test_candidates_that_differ_in_the_recipe_are_counted_once(folder: Path) -> None:
    one = coster(folder)
    assert one.cost(parse("lora | lr=0.1")) is one.cost(parse("lora | lr=0.2"))


def test_dropout_costs_memory_and_nothing_else(folder: Path) -> None:
    one = coster(folder)
    plain, dropping = one.cost(parse("lora | lr=0.1")), one.cost(parse("lora | lr=0.1 dropout=0.1"))
    assert dropping.trainable_params == plain.trainable_params
    assert plain.peak_memory_bytes is not None
    assert dropping.peak_memory_bytes is not None
    assert dropping.peak_memory_bytes > plain.peak_memory_bytes


def test_the_cost_is_known_in_full(folder: Path) -> None:
    cost = coster(folder).cost(parse("head"))
    assert (cost.trainable_params, cost.head_params) == (0, 16 * 3 + 3)
    assert cost.peak_memory_bytes is not None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_builds_the_model_with_the_attention_that_is_trained(folder: Path, dtype: str) -> None:
    real = load(ModelSpec(name=str(folder), device="cpu", dtype=dtype), 3)  # type: ignore[arg-type]
    attention = real.model.config._attn_implementation
    assert attention == ("eager" if real.dtype == torch.bfloat16 else "sdpa")
    assert coster(folder, dtype)._model.config._attn_implementation == attention


def test_texts_that_leave_no_room_for_the_prefix_are_a_reason_not_a_crash(folder: Path) -> None:
    with pytest.raises(
        UnsupportedError, match=r"prefix_tuning cannot be trained on 60 tokens here: .* lower training\.max_length"
    ):
        coster(folder, length=60).cost(parse("prefix_tuning(num_virtual_tokens=8)"))


@pytest.mark.parametrize(("architecture", "usable"), [("bert", 64), ("roberta", 63), ("gpt2", 64)])
@pytest.mark.parametrize("method", ["prefix_tuning", "prompt_tuning"])
def test_a_prefix_that_leaves_no_positions_is_refused_with_the_longest_that_fits(
    architecture: str, usable: int, method: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """RoBERTa's shapes alone do not tell: its positions begin behind that of padding."""
    one = coster(tiny_folder(tmp_path, architecture, max_position_embeddings=64))
    longest = usable - 16
    with pytest.raises(
        UnsupportedError, match=rf"60 virtual .* {usable} positions; the longest that fits is {longest},"
    ):
        one.cost(parse(f"{method}(num_virtual_tokens=60)"))
    assert one.cost(parse(f"{method}(num_virtual_tokens={longest})")).peak_memory_bytes
    with pytest.raises(UnsupportedError, match="virtual tokens before them are more than"):
        one.cost(parse(f"{method}(num_virtual_tokens={longest + 1})"))
    assert not [record for record in caplog.records if "fake_tensor" in record.name]


def test_models_without_a_table_of_positions_take_longer_prefixes(tmp_path: Path) -> None:
    one = coster(tiny_folder(tmp_path, "llama", max_position_embeddings=64))
    assert one.cost(parse("prefix_tuning(num_virtual_tokens=60)")).peak_memory_bytes


def test_a_text_that_leaves_no_positions_is_refused_with_what_to_lower(tmp_path: Path) -> None:
    one = coster(tiny_folder(tmp_path, max_position_embeddings=64), length=70)
    with pytest.raises(UnsupportedError, match=r"cannot be trained on 70 tokens here: .*; lower training\.max_length$"):
        one.cost(parse("lora"))
    with pytest.raises(UnsupportedError, match=r"64 positions; lower training\.max_length$"):
        one.cost(parse("prefix_tuning"))


def test_what_fails_with_fake_tensors_is_raised_and_not_printed() -> None:
    said = logging.getLogger("torch._subclasses.fake_tensor")
    with fake_tensors():
        assert said.disabled
        with pytest.raises(RuntimeError):
            torch.zeros(2, 3).expand(2, 4)
    assert not said.disabled
