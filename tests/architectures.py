"""Tiny random models of every architecture that Paretune must be right for, with inputs that they take.

Built from configurations alone; nothing is downloaded. Each stack has two layers of width 16 (CLIP's vision tower
24; Swin has three, of widths 8, 16 and 16), two heads and, for text, 64 tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn

VOCABULARY = 64
EOS = 2

_TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": EOS,
}
_BERT = {name: value for name, value in _TEXT.items() if name not in {"bos_token_id", "eos_token_id"}}
_GROUPED = {**_TEXT, "num_key_value_heads": 1}
_DECODER = {**_GROUPED, "head_dim": 8}
_SEQUENCE = {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": EOS,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
}
_BART = {
    **_SEQUENCE,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
}
_IMAGE = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 16,
    "patch_size": 8,
}


@dataclass(frozen=True)
class _Architecture:
    config: str
    model: str
    settings: Mapping[str, Any]
    takes: str = "tokens"


_ARCHITECTURES: dict[str, _Architecture] = {
    "bert": _Architecture("BertConfig", "BertForSequenceClassification", _BERT),
    "roberta": _Architecture("RobertaConfig", "RobertaForSequenceClassification", _TEXT),
    "distilbert": _Architecture(
        "DistilBertConfig",
        "DistilBertForSequenceClassification",
        {"vocab_size": VOCABULARY, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24},
    ),
    "electra": _Architecture("ElectraConfig", "ElectraForSequenceClassification", {**_BERT, "embedding_size": 8}),
    "deberta-v2": _Architecture(
        "DebertaV2Config",
        "DebertaV2ForSequenceClassification",
        {
            **_BERT,
            "relative_attention": True,
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 8,
            "norm_rel_ebd": "layer_norm",
            "position_biased_input": False,
        },
    ),
    "modernbert": _Architecture(
        "ModernBertConfig",
        "ModernBertForSequenceClassification",
        {**_TEXT, "cls_token_id": 1, "sep_token_id": EOS},
    ),
    "mpnet": _Architecture("MPNetConfig", "MPNetForSequenceClassification", _TEXT),
    "llama": _Architecture("LlamaConfig", "LlamaForSequenceClassification", _DECODER),
    "mistral": _Architecture("MistralConfig", "MistralForSequenceClassification", _DECODER),
    "qwen2": _Architecture("Qwen2Config", "Qwen2ForSequenceClassification", _GROUPED),
    "qwen3": _Architecture("Qwen3Config", "Qwen3ForSequenceClassification", _DECODER),
    "gemma2": _Architecture("Gemma2Config", "Gemma2ForSequenceClassification", _DECODER),
    "gemma3": _Architecture("Gemma3TextConfig", "Gemma3TextForSequenceClassification", _DECODER),
    "phi3": _Architecture("Phi3Config", "Phi3ForSequenceClassification", _GROUPED),
    "gpt2": _Architecture(
        "GPT2Config",
        "GPT2ForSequenceClassification",
        {
            "vocab_size": VOCABULARY,
            "n_embd": 16,
            "n_layer": 2,
            "n_head": 2,
            "n_positions": 64,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": EOS,
        },
    ),
    "opt": _Architecture(
        "OPTConfig",
        "OPTForSequenceClassification",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "ffn_dim": 24,
            "max_position_embeddings": 64,
            "word_embed_proj_dim": 8,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": EOS,
        },
    ),
    "falcon": _Architecture(
        "FalconConfig",
        "FalconForSequenceClassification",
        {name: value for name, value in _TEXT.items() if name not in {"intermediate_size"}},
    ),
    "t5": _Architecture(
        "T5Config",
        "T5ForSequenceClassification",
        {**_SEQUENCE, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0},
    ),
    "bart": _Architecture(
        "BartConfig", "BartForSequenceClassification", {**_BART, "max_position_embeddings": 64, "num_labels": 2}
    ),
    "vit": _Architecture("ViTConfig", "ViTForImageClassification", _IMAGE, "images"),
    "deit": _Architecture("DeiTConfig", "DeiTForImageClassification", _IMAGE, "images"),
    "swin": _Architecture(
        "SwinConfig",
        "SwinForImageClassification",
        {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 2], "num_heads": [1, 2], "window_size": 4},
        "images",
    ),
    "clip": _Architecture(
        "CLIPConfig",
        "CLIPModel",
        {
            "text_config": {**_TEXT, "projection_dim": 8},
            "vision_config": {**_IMAGE, "hidden_size": 24, "intermediate_size": 32, "projection_dim": 8},
            "projection_dim": 8,
        },
        "tokens and images",
    ),
    "whisper": _Architecture(
        "WhisperConfig",
        "WhisperForAudioClassification",
        {**_BART, "num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 16, "pad_token_id": 0},
        "sound",
    ),
}

ARCHITECTURES = tuple(_ARCHITECTURES)
"""Names that `tiny_model` and `tiny_inputs` take."""


def tiny_config(name: str, **overrides: Any) -> transformers.PretrainedConfig:
    """Return the configuration of a tiny model, with fields replaced."""
    architecture = _ARCHITECTURES[name]
    build = getattr(transformers, architecture.config)
    return build(**{**architecture.settings, **overrides})


def tiny_model(name: str, **overrides: Any) -> nn.Module:
    """Return a tiny random model in evaluation mode, the same weights at every call.

    It is the class for sequence, image or audio classification (two labels); for CLIP the model of both towers.
    Under `torch.device("meta")` it has no weights.

    Args:
        name: One of `ARCHITECTURES`.
        overrides: Fields of the configuration to replace, such as `num_labels=6` or `num_hidden_layers=4`.
    """
    build: Callable[[Any], nn.Module] = getattr(transformers, _ARCHITECTURES[name].model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(tiny_config(name, **overrides)).eval()


def tiny_inputs(name: str, batch: int = 2, length: int = 8) -> dict[str, torch.Tensor]:
    """Return inputs for a tiny model, the same at every call.

    Args:
        name: One of `ARCHITECTURES`.
        batch: Number of examples.
        length: Number of tokens, the last of them the end of the text, none of them padding. Images and sound have
            the one size that the model takes.
    """
    generator = torch.Generator().manual_seed(1)
    takes = _ARCHITECTURES[name].takes
    inputs: dict[str, torch.Tensor] = {}
    if "tokens" in takes:
        inputs["input_ids"] = torch.randint(3, VOCABULARY, (batch, length), generator=generator)
        inputs["input_ids"][:, -1] = EOS
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if "images" in takes:
        inputs["pixel_values"] = torch.randn(batch, 3, 16, 16, generator=generator)
    if "sound" in takes:
        inputs["input_features"] = torch.randn(batch, 8, 32, generator=generator)
    return inputs
