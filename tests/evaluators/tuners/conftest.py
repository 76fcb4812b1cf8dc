"""Tiny backbones of four kinds, and the configurations that the contract is tested with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import transformers
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn

from evaluators.tuners.bitfit import BitFitConfig
from evaluators.tuners.compacter import CompacterConfig
from evaluators.tuners.diff_pruning import DiffPruningConfig
from evaluators.tuners.full import FullConfig
from evaluators.tuners.lst import LstConfig
from evaluators.tuners.mask import MaskConfig
from evaluators.tuners.merging import MergingLayer
from evaluators.tuners.mtl_lora import MtlLoraConfig
from evaluators.tuners.parallel_adapter import ParallelAdapterConfig
from evaluators.tuners.qa_lora import QaLoraConfig
from evaluators.tuners.registration import TUNERS
from evaluators.tuners.serial_adapter import SerialAdapterConfig
from evaluators.tuners.unipelt import UniPeltConfig

LAYERS = 2


def _bert() -> nn.Module:
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=LAYERS, num_attention_heads=2, intermediate_size=32
    )
    return transformers.BertForSequenceClassification(config)


def _llama() -> nn.Module:
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=LAYERS, num_attention_heads=2, intermediate_size=32
    )
    return transformers.LlamaForCausalLM(config)


def _gpt2() -> nn.Module:
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=LAYERS, n_head=2, n_positions=32)
    )


def _t5() -> nn.Module:
    config = transformers.T5Config(
        vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=LAYERS, num_heads=2, decoder_start_token_id=0
    )
    return transformers.T5ForConditionalGeneration(config)


@dataclass(frozen=True)
class Backbone:
    """A tiny model, how to call it, and the names that tuners are placed on. `{i}` stands for a layer."""

    name: str
    make: Callable[[], nn.Module]
    attention: tuple[str, ...]
    feed_forward: tuple[str, ...]
    norm: tuple[str, ...]
    blocks: tuple[str, ...]
    layers: tuple[str, ...]
    outermost: tuple[str, ...]
    inputs: dict[str, Tensor] = field(default_factory=dict)

    def build(self, device: str = "cpu", dtype: torch.dtype = torch.float32) -> nn.Module:
        """Return the model, the same weights every time, in evaluation mode."""
        torch.manual_seed(0)
        with torch.device(device):
            return self.make().to(dtype).eval()

    def logits(self, model: nn.Module) -> Tensor:
        """Return the model's logits on the fixed input."""
        device = next(model.parameters()).device
        output: Any = model(**{name: tensor.to(device) for name, tensor in self.inputs.items()})
        logits: Tensor = output.logits
        return logits

    def names(self, *kinds: str) -> list[str]:
        """Return the full module names of these kinds in every layer."""
        return [name.format(i=i) for kind in kinds for name in getattr(self, kind) for i in range(LAYERS)]


TOKENS = torch.tensor([[2, 7, 1, 8, 2, 8], [1, 8, 2, 8, 4, 5]])

BACKBONES = {
    backbone.name: backbone
    for backbone in (
        Backbone(
            "bert",
            _bert,
            attention=(
                "bert.encoder.layer.{i}.attention.self.query",
                "bert.encoder.layer.{i}.attention.self.value",
            ),
            feed_forward=("bert.encoder.layer.{i}.intermediate.dense", "bert.encoder.layer.{i}.output.dense"),
            norm=("bert.encoder.layer.{i}.output.LayerNorm",),
            blocks=("bert.encoder.layer.{i}.attention",),
            layers=("bert.encoder.layer.{i}",),
            outermost=("bert",),
            inputs={"input_ids": TOKENS},
        ),
        Backbone(
            "llama",
            _llama,
            attention=("model.layers.{i}.self_attn.q_proj", "model.layers.{i}.self_attn.v_proj"),
            feed_forward=("model.layers.{i}.mlp.up_proj", "model.layers.{i}.mlp.down_proj"),
            norm=("model.layers.{i}.post_attention_layernorm",),
            blocks=("model.layers.{i}.mlp", "model.layers.{i}.self_attn"),
            layers=("model.layers.{i}",),
            outermost=("model", "lm_head"),
            inputs={"input_ids": TOKENS},
        ),
        Backbone(
            "gpt2",
            _gpt2,
            attention=("transformer.h.{i}.attn.c_attn",),
            feed_forward=("transformer.h.{i}.mlp.c_fc", "transformer.h.{i}.mlp.c_proj"),
            norm=("transformer.h.{i}.ln_2",),
            blocks=("transformer.h.{i}.mlp", "transformer.h.{i}.attn"),
            layers=("transformer.h.{i}",),
            outermost=("transformer", "lm_head"),
            inputs={"input_ids": TOKENS},
        ),
        Backbone(
            "t5",
            _t5,
            attention=(
                "encoder.block.{i}.layer.0.SelfAttention.q",
                "decoder.block.{i}.layer.1.EncDecAttention.v",
            ),
            feed_forward=(
                "encoder.block.{i}.layer.1.DenseReluDense.wi",
                "encoder.block.{i}.layer.1.DenseReluDense.wo",
            ),
            norm=("decoder.block.{i}.layer.0.layer_norm",),
            blocks=("encoder.block.{i}.layer.1.DenseReluDense", "decoder.block.{i}.layer.0.SelfAttention"),
            layers=("encoder.block.{i}", "decoder.block.{i}"),
            outermost=("shared", "encoder", "decoder", "lm_head"),
            inputs={"input_ids": TOKENS, "decoder_input_ids": TOKENS[:, :4]},
        ),
    )
}


@dataclass(frozen=True)
class Case:
    """One configuration of one tuner, and what it promises.

    `merges` says whether `merge_and_unload` gives an equal model on this backbone. `wraps_blocks` says that other
    parts go inside its targets, and so have to be attached before it.
    """

    name: str
    config: Callable[[Backbone], PeftConfig]
    merges: Callable[[Backbone], bool]
    wraps_blocks: bool = False


def _never(backbone: Backbone) -> bool:
    return False


def _always(backbone: Backbone) -> bool:
    return True


CASES = {
    case.name: case
    for case in (
        Case(
            "serial_adapter",
            lambda b: SerialAdapterConfig(target_modules=b.names("feed_forward"), r=4, activation="gelu"),
            _never,
        ),
        Case(
            "serial_adapter+norm",
            lambda b: SerialAdapterConfig(target_modules=b.names("attention"), r=3, scaling=0.5, layer_norm=True),
            _never,
        ),
        Case("bitfit", lambda b: BitFitConfig(target_modules=b.names("attention", "feed_forward")), _always),
        Case(
            "bitfit+norm",
            lambda b: BitFitConfig(target_modules=b.names("norm")),
            lambda b: b.name in ("bert", "gpt2"),
        ),
        Case("compacter", lambda b: CompacterConfig(target_modules=b.names("feed_forward"), r=8, n=4), _never),
        Case(
            "compacter+full",
            lambda b: CompacterConfig(target_modules=b.names("norm"), r=4, n=2, shared=False, factorised=False),
            _never,
        ),
        Case("mask", lambda b: MaskConfig(target_modules=b.names("feed_forward", "norm"), density=0.02), _always),
        Case(
            "mask+random",
            lambda b: MaskConfig(target_modules=b.names("attention"), density=0.1, criterion="random"),
            _always,
        ),
        Case("diff_pruning", lambda b: DiffPruningConfig(target_modules=b.names("feed_forward"), start=0.5), _always),
        Case(
            "diff_pruning+weights",
            lambda b: DiffPruningConfig(target_modules=b.names("norm", "attention"), structured=False, start=1.0),
            _always,
        ),
        Case(
            "unipelt",
            lambda b: UniPeltConfig(
                target_modules=b.names("attention", "feed_forward"), adapter_modules=b.names("feed_forward"), lora_r=2
            ),
            _never,
        ),
        Case(
            "unipelt+sequence",
            lambda b: UniPeltConfig(target_modules=b.names("attention"), lora_r=2, gate="sequence"),
            _never,
        ),
        Case(
            "lst",
            lambda b: LstConfig(target_modules=b.names("layers"), reduction=4, heads=2),
            _never,
            wraps_blocks=True,
        ),
        Case(
            "lst+feed_forward",
            lambda b: LstConfig(target_modules=b.names("layers")[:1], reduction=8, side_block="feed_forward"),
            _never,
            wraps_blocks=True,
        ),
        Case("full", lambda b: FullConfig(target_modules=b.names("layers")), _always),
        Case("full+everything", lambda b: FullConfig(target_modules=list(b.outermost)), _always),
        Case("mtl_lora", lambda b: MtlLoraConfig(target_modules=b.names("attention", "feed_forward"), r=2), _never),
        Case(
            "qa_lora",
            lambda b: QaLoraConfig(target_modules=b.names("attention", "feed_forward"), r=2, group_size=8),
            _always,
        ),
        Case(
            "parallel_adapter",
            lambda b: ParallelAdapterConfig(target_modules=b.names("attention"), r=4, activation="tanh", scaling=4.0),
            _never,
        ),
        Case(
            "parallel_adapter+block",
            lambda b: ParallelAdapterConfig(target_modules=b.names("blocks"), r=3, activation="gelu"),
            _never,
            wraps_blocks=True,
        ),
        Case(
            "parallel_adapter+input",
            lambda b: ParallelAdapterConfig(
                target_modules=b.names("feed_forward")[LAYERS:],
                r=3,
                activation="gelu",
                input_modules=dict(zip(b.names("feed_forward")[LAYERS:], b.names("feed_forward"), strict=False)),
            ),
            _never,
        ),
    )
}


def _plain(name: str, config: type[PeftConfig], model: type[BaseTuner]) -> Case:
    """Return the case of a tuner that has none above: its defaults on linear modules."""
    merging = issubclass(model.tuner_layer_cls, MergingLayer)
    return Case(
        name, lambda b: config(target_modules=b.names("attention", "feed_forward")), _always if merging else _never
    )


CASES |= {one[0]: _plain(*one) for one in TUNERS if one[0] not in {name.partition("+")[0] for name in CASES}}


@pytest.fixture(params=BACKBONES)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    """Each tiny backbone in turn."""
    return BACKBONES[request.param]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    """Each configuration of each tuner in turn."""
    return CASES[request.param]


@pytest.fixture
def cases() -> dict[str, Case]:
    """Every configuration of every tuner, by name."""
    return CASES


@pytest.fixture
def bert() -> Backbone:
    """The tiny BERT."""
    return BACKBONES["bert"]


@pytest.fixture
def llama() -> Backbone:
    """The tiny Llama."""
    return BACKBONES["llama"]


@pytest.fixture
def backbones() -> dict[str, Backbone]:
    """Return every tiny backbone, by name."""
    return BACKBONES


@pytest.fixture
def gpt2() -> Backbone:
    """Return the tiny GPT-2."""
    return BACKBONES["gpt2"]


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that require a gradient, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.fixture
def perturb() -> Callable[[nn.Module], None]:
    """A function that moves every trainable parameter away from its start, the same way every time."""

    def move(model: nn.Module) -> None:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in trainable(model).values():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))

    return move
