"""Quantised backbones on the CPU: they load, carry adapters, keep their scales, and reload to equal logits."""

from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

pytest.importorskip("bitsandbytes")
pytest.importorskip("torchao")

from evaluators.anatomy import anatomy_of
from evaluators.attach import attach
from evaluators.backbone import Backbone, load
from evaluators.quantization import QUANTIZATIONS, dequantised, kind_of, saved_bytes, stored_tensors
from evaluators.spec import ModelSpec
from search_space.errors import UnsupportedError
from search_space.notation import parse

IDS = torch.arange(1, 11).reshape(2, 5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    config = transformers.LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=99,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    transformers.LlamaForSequenceClassification(config).save_pretrained(path)
    words = {"[PAD]": 0, "[UNK]": 1, **{f"w{index}": index + 2 for index in range(97)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(path)
    return path


@pytest.fixture(params=QUANTIZATIONS)
def backbone(request: pytest.FixtureRequest, folder: Path) -> Backbone:
    return load(ModelSpec(name=str(folder), dtype="float32", quantization=request.param, device="cpu"), 3)


def held(backbone: Backbone) -> list[torch.Tensor]:
    """Return every tensor of a backbone, the parts of quantised ones too."""
    return [part for tensor in backbone.model.state_dict().values() for part in stored_tensors(tensor)]


def train_and_reload(backbone: Backbone, text: str) -> None:
    anatomy = anatomy_of(backbone.model)
    before = [tensor.clone() for tensor in held(backbone)]
    attached = attach(backbone.model, anatomy, parse(text), seed=1)
    optimiser = torch.optim.AdamW(attached.trainable, lr=0.1)
    for _ in range(3):
        torch.nn.functional.cross_entropy(attached.model(input_ids=IDS).logits, torch.tensor([0, 1])).backward()
        optimiser.step()
        optimiser.zero_grad()
    trained = attached.model(input_ids=IDS).logits.detach()
    state = attached.state(backbone.storages)
    assert sum(tensor.numel() for tensor in state.values()) == attached.trainable_params + attached.head_params

    again = attach(backbone.model, anatomy, parse(text), seed=2)
    again.load(state, backbone.storages)
    torch.testing.assert_close(again.model(input_ids=IDS).logits.detach(), trained, atol=1e-5, rtol=0)
    assert all(torch.equal(now, then) for now, then in zip(held(backbone), before, strict=True))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "text", ["lora(r=2)", "loftq(r=2)", "qa_lora", "lora(r=2)@attention.query + serial_adapter(r=4)"]
)
def test_an_adapter_on_quantised_weights_trains_and_reloads(backbone: Backbone, text: str) -> None:
    train_and_reload(backbone, text)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_loftq_starts_nearer_to_the_weights_than_the_quantised_ones_are(backbone: Backbone, folder: Path) -> None:
    assert kind_of(backbone.model) != "none"
    name = "model.layers.0.self_attn.q_proj"
    plain = load(ModelSpec(name=str(folder), dtype="float32", device="cpu"), 3).model.get_submodule(name).weight
    attached = attach(backbone.model, anatomy_of(backbone.model), parse("loftq(r=8)"))
    layer = attached.model.get_submodule(name)
    quantised = dequantised(layer.get_base_layer())
    repaired = quantised + layer.get_delta_weight("part0")
    assert torch.linalg.norm(plain - quantised) < 0.2 * torch.linalg.norm(plain)
    assert torch.linalg.norm(plain - repaired) < 0.95 * torch.linalg.norm(plain - quantised)


def test_loftq_needs_quantised_weights(folder: Path) -> None:
    plain = load(ModelSpec(name=str(folder), dtype="float32", device="cpu"), 3).model
    with pytest.raises(UnsupportedError, match=r"these are not quantised; set model\.quantization, or use lora"):
        attach(plain, anatomy_of(plain), parse("loftq"))


@pytest.mark.parametrize(
    ("kind", "dtype", "device", "saved"),
    [
        ("none", torch.bfloat16, "cpu", 0),
        ("nf4", torch.float32, "cpu", 640 * (4 - 0.5625)),
        ("int8", torch.bfloat16, "cpu", 640 - 10 * 4),
        ("torchao_int8", torch.float32, "cpu", 640 * 3 - 10 * 5),
        ("torchao_int4", torch.float32, "cpu", 640 * 3 - 20 * 5),
        ("torchao_int4", torch.bfloat16, "cuda", 640 * 2 - 16 * 1024 * (0.5 + 4 / 32)),
    ],
)
def test_saved_bytes_count_linear_weights_but_not_the_head(
    kind: str, dtype: torch.dtype, device: str, saved: float
) -> None:
    model = torch.nn.ModuleDict({"body": torch.nn.Linear(64, 10), "head": torch.nn.Linear(64, 3)})
    assert saved_bytes(model, kind, dtype, ["head"], torch.device(device)) == int(saved)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", QUANTIZATIONS)
def test_lora_trains_on_weights_quantised_for_cuda(kind: str, tmp_path: Path) -> None:
    words = {"[PAD]": 0, **{f"w{index}": index + 1 for index in range(98)}}
    wide = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.LlamaConfig(**wide, vocab_size=99, pad_token_id=0)
    transformers.LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[PAD]"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(tmp_path)
    spec = ModelSpec(name=str(tmp_path), dtype="bfloat16", quantization=kind, device="cuda")  # type: ignore[arg-type]
    backbone = load(spec, 3)
    attached = attach(backbone.model, anatomy_of(backbone.model), parse("lora(r=4)"))
    attached.model(input_ids=IDS.to("cuda")).logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in attached.trainable)
    torch.optim.AdamW(attached.trainable, lr=0.1).step()
    assert attached.state(backbone.storages).keys() == {
        name for name, parameter in attached.model.named_parameters() if parameter.requires_grad
    }


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_go_through_quantised_weights_after_an_evaluation(dtype: str, folder: Path) -> None:
    """bitsandbytes packs 4-bit weights for CPUs with AVX512-BF16 when it evaluates; no gradient goes through those."""
    backbone = load(ModelSpec(name=str(folder), dtype=dtype, quantization="nf4", device="cpu"), 3)
    attached = attach(backbone.model, anatomy_of(backbone.model), parse("lora(r=2)@linear"), seed=1)
    with torch.no_grad():
        attached.model(input_ids=IDS)
    attached.model.train()
    torch.nn.functional.cross_entropy(attached.model(input_ids=IDS).logits.float(), torch.tensor([0, 1])).backward()
    raised = {name: p.grad for name, p in attached.model.named_parameters() if ".lora_B." in name}
    assert [name for name, gradient in raised.items() if gradient is None or not gradient.any()] == []


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("text", ["c3a(block_size=8)", "gralora(r=4)", "shira(r=2)", "lora(r=2,use_dora=true)"])
def test_methods_that_read_the_weight_train_on_4_bit_ones(text: str, folder: Path) -> None:
    backbone = load(ModelSpec(name=str(folder), dtype="float32", quantization="nf4", device="cpu"), 3)
    train_and_reload(backbone, text)
