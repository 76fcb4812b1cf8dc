"""Quantised backbones on the CPU: they load, carry adapters, keep their scales, and reload to equal logits."""

from pathlib import Path

import pytest
import torch
import transformers

pytest.importorskip("bitsandbytes")

from evaluators.anatomy import anatomy_of
from evaluators.attach import attach
from evaluators.backbone import Backbone, load
from evaluators.quantization import saved_bytes
from evaluators.spec import ModelSpec
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
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(path)
    return path


@pytest.fixture(params=["nf4", "int8"])
def backbone(request: pytest.FixtureRequest, folder: Path) -> Backbone:
    return load(ModelSpec(name=str(folder), dtype="float32", quantization=request.param, device="cpu"), 3)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("text", ["lora(r=2)", "lora(r=2)@attention.query + serial_adapter(r=4)"])
def test_an_adapter_on_quantised_weights_trains_and_reloads(backbone: Backbone, text: str) -> None:
    anatomy = anatomy_of(backbone.model)
    before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
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
    after = backbone.model.state_dict()
    assert all(torch.equal(after[name].float(), tensor.float()) for name, tensor in before.items())


def test_saved_bytes_count_linear_weights_but_not_the_head() -> None:
    model = torch.nn.ModuleDict({"body": torch.nn.Linear(64, 10), "head": torch.nn.Linear(64, 3)})
    assert saved_bytes(model, "nf4", torch.float32, ["head"]) == int(640 * (4 - 0.5625))
    assert saved_bytes(model, "int8", torch.bfloat16, ["head"]) == 640 - 40
    assert saved_bytes(model, "none", torch.bfloat16, ["head"]) == 0
