"""Backbones: screened before anything is loaded, safetensors only, on the device and in the type that is asked for."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from evaluators import backbone
from evaluators.backbone import Backbone, Machine, choose_machine, end_token, head_of, load, load_config, load_tokenizer
from evaluators.costing import MetaCoster
from evaluators.memory import Load
from evaluators.spec import ModelSpec
from search_space.errors import DataError, InstallationError, UnsupportedError
from search_space.notation import parse
from tests.architectures import tiny_model
from tests.evaluators.tiny import tiny_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_folder(tmp_path / "model")


def spec(folder: Path, **given: Any) -> ModelSpec:
    return ModelSpec(name=str(folder), **{"device": "cpu", **given})


def edit(path: Path, **change: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def loaded(one: Backbone) -> set[torch.dtype]:
    return {parameter.dtype for parameter in one.model.parameters()}


def test_it_is_frozen_and_in_evaluation_mode(folder: Path) -> None:
    one = load(spec(folder), 5)
    assert not one.model.training
    assert not any(parameter.requires_grad for parameter in one.model.parameters())
    assert one.model.config.num_labels == 5
    assert head_of(one.model) == ("classifier",)


@pytest.mark.parametrize(
    "change",
    [
        {"auto_map": {"AutoConfig": "evil.Config", "AutoModelForSequenceClassification": "evil.Model"}},
        {"trust_remote_code": True},
        {"custom_pipelines": {"x": {"impl": "evil.Pipeline"}}},
        {"_attn_implementation_internal": "somebody/kernel"},
        {"text_config": {"_attn_implementation_internal": "somebody/kernel"}},
    ],
)
def test_a_configuration_that_names_code_is_refused_before_it_is_used(folder: Path, change: dict[str, Any]) -> None:
    (folder / "evil.py").write_text("raise SystemExit('run')\n")
    edit(folder / "config.json", **change)
    for call in (lambda: load(spec(folder), 2), lambda: load_config(spec(folder), 2)):
        with pytest.raises(UnsupportedError, match=r"names code to run in its configuration .*; Paretune runs none"):
            call()


def test_a_tokenizer_that_names_code_runs_none(folder: Path) -> None:
    (folder / "evil.py").write_text("raise SystemExit('run')\n")
    edit(
        folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Slow", "evil.Fast"]}, tokenizer_class="Evil"
    )
    with suppress(DataError):  # refused, or read without it
        load_tokenizer(spec(folder))


def test_weights_that_are_pickles_are_refused(folder: Path) -> None:
    torch.save(tiny_model("bert").state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"cannot be loaded: .*safetensors"):
        load(spec(folder), 2)


@pytest.mark.parametrize("broken", ["config.json", "model.safetensors"])
def test_a_broken_file_is_a_data_error(folder: Path, broken: str) -> None:
    (folder / broken).write_bytes(b"{")
    with pytest.raises(DataError, match=r"cannot be loaded|no readable configuration"):
        load(spec(folder), 2)


@pytest.mark.parametrize("name", ["/nowhere/at/all", "nobody/nothing"])
def test_a_model_that_is_not_there(name: str) -> None:
    with pytest.raises(DataError, match=f"model '{name}' has no readable configuration"):
        load(ModelSpec(name=name), 2)


def test_a_folder_without_a_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(DataError, match="has no readable tokenizer: it knows no words"):
        load(spec(folder), 2)


def test_a_decoder_reads_the_class_before_what_its_tokenizer_pads_with(tmp_path: Path) -> None:
    """Whatever its configuration calls padding."""
    folder = tiny_folder(tmp_path / "llama", "llama")
    edit(folder / "config.json", pad_token_id=7)
    one = load(spec(folder), 2)
    padding, ids = one.tokenizer.pad_token_id, [9, 10, 11]
    alone = one.model(input_ids=torch.tensor([ids])).logits
    padded = torch.tensor([ids + 3 * [padding]])
    logits = one.model(input_ids=padded, attention_mask=padded.ne(padding).long()).logits
    assert torch.allclose(logits, alone, atol=1e-5)


@pytest.mark.parametrize(("architecture", "expected"), [("t5", 2), ("bart", 2), ("bert", None), ("llama", None)])
def test_models_of_an_encoder_and_a_decoder_read_the_class_at_their_end_token(
    tmp_path: Path, architecture: str, expected: int | None
) -> None:
    assert end_token(spec(tiny_folder(tmp_path, architecture))) == expected


def test_a_decoder_pads_with_its_end(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path, "gpt2")
    edit(folder / "tokenizer_config.json", pad_token=None, eos_token="[SEP]")
    tokenizer = load_tokenizer(spec(folder))
    assert tokenizer.pad_token == "[SEP]"


@pytest.mark.parametrize(("dtype", "expected"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_the_type_that_is_asked_for(folder: Path, dtype: str, expected: torch.dtype) -> None:
    one = load(spec(folder, dtype=dtype), 2)
    assert one.dtype == expected
    assert loaded(one) == {expected}


@pytest.mark.parametrize(
    ("products", "dtype", "machine"),
    [
        (False, "auto", Machine(torch.device("cpu"), torch.float32, "sdpa")),
        (True, "auto", Machine(torch.device("cpu"), torch.bfloat16, "eager")),
        (True, "float32", Machine(torch.device("cpu"), torch.float32, "sdpa")),
        (False, "bfloat16", Machine(torch.device("cpu"), torch.bfloat16, "eager")),
    ],
)
def test_bfloat16_is_chosen_where_it_pays(
    monkeypatch: pytest.MonkeyPatch, products: bool, dtype: Any, machine: Machine
) -> None:
    monkeypatch.setattr(backbone, "has_bfloat16_products", lambda: products)
    assert choose_machine(ModelSpec(name="-", device="cpu", dtype=dtype)) == machine


@pytest.mark.parametrize("architecture", ["deberta-v2", "mpnet", "gemma2"])
def test_a_model_without_fused_attention_takes_the_plain_one(tmp_path: Path, architecture: str) -> None:
    model = spec(tiny_folder(tmp_path, architecture), dtype="float32")
    assert load(model, 2).model.config._attn_implementation == "eager"
    load_of_step = Load(2, 4, 2)
    assert MetaCoster(model, load_config(model, 2), load_of_step).cost(parse("lora")).peak_memory_bytes
    asked = model.model_copy(update={"attention": "sdpa"})
    for call in (lambda: load(asked, 2), lambda: MetaCoster(asked, load_config(asked, 2), load_of_step)):
        with pytest.raises(UnsupportedError, match=rf"model\.attention: {architecture} has no sdpa; set it to eager"):
            call()


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UnsupportedError, match=r"model\.device: cuda is not available on this machine; it has .*cpu"):
        choose_machine(ModelSpec(name="-", device="cuda"))


def test_a_model_without_a_head_is_refused() -> None:
    model = tiny_model("bert")
    model.classifier = torch.nn.Identity()
    with pytest.raises(
        UnsupportedError, match="BertForSequenceClassification has no classification head beside 'bert'"
    ):
        head_of(model)


def test_a_head_of_another_task_is_replaced(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path, num_labels=7)
    assert load(spec(folder), 3).model.classifier.out_features == 3


def test_weights_of_other_sizes_are_refused(folder: Path) -> None:
    edit(folder / "config.json", intermediate_size=48)
    with pytest.raises(
        DataError, match=r"has weights of other sizes than its configuration says: bert\.encoder\.layer\.0"
    ):
        load(spec(folder), 3)


def test_the_builtin_is_the_model_that_is_meant() -> None:
    try:
        one = load(ModelSpec(name="builtin:minilm-l6", device="cpu", dtype="float32"), 6)
    except InstallationError as error:
        pytest.skip(str(error))
    assert sum(parameter.numel() for parameter in one.model.parameters()) == 22_713_216 + 384 * 6 + 6


@pytest.mark.gpu
def test_cuda_is_chosen_where_it_is_there(folder: Path) -> None:
    one = load(spec(folder, device="auto"), 2)
    assert one.device.type == "cuda"
    assert {parameter.device.type for parameter in one.model.parameters()} == {"cuda"}


def test_it_makes_no_plans_of_attention(folder: Path) -> None:
    torch.backends.cuda.enable_cudnn_sdp(True)
    load(spec(folder), 2)
    assert not torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.gpu
def test_none_is_made_for_a_batch_on_cuda(tmp_path: Path) -> None:
    wide = tiny_folder(tmp_path, hidden_size=256, num_attention_heads=4)
    one = load(spec(wide, device="cuda", dtype="bfloat16", attention="sdpa"), 2)
    ids = torch.full((2, 16), 5, device="cuda")
    ids[1, 9:] = 0
    with torch.autograd.profiler.profile() as profile:
        one.model(input_ids=ids, attention_mask=(ids > 0).long())
    names = {event.key for event in profile.key_averages()}
    assert "aten::scaled_dot_product_attention" in names
    assert [name for name in names if "cudnn" in name] == []
