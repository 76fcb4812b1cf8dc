"""Tiny random classifiers of every architecture that methods are tried on, and what goes into them.

Every width is a multiple of 64, so that what fails on one fails for its architecture and not for its size.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from evaluators.anatomy import anatomy_of
from evaluators.backbone import head_of
from evaluators.loftq import remember
from evaluators.quantization import quantization_config, settle
from evaluators.task_switch import take_tasks, tasks_of, with_tasks
from search_space.placement import Anatomy

_WORDS = 64
_CLASSES = 3
_END = 2
_TOKENS = {"vocab_size": _WORDS, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": _END}
_WIDE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
_TEXT = {**_TOKENS, **_WIDE, "max_position_embeddings": 128}
_GROUPED = {**_TEXT, "num_key_value_heads": 4}
_HEADS = {**_TEXT, "num_key_value_heads": 2, "head_dim": 32}
_BETWEEN = {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
}
_IMAGE = {**_WIDE, "image_size": 16, "patch_size": 8}

_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "bert": _TEXT,
    "roberta": _TEXT,
    "distilbert": {**_TOKENS, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128},
    "electra": {**_TEXT, "embedding_size": 32},
    "deberta-v2": {
        **_TEXT,
        "relative_attention": True,
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 8,
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
    },
    "modernbert": {**_TEXT, "cls_token_id": 1, "sep_token_id": _END},
    "mpnet": _TEXT,
    "llama": _GROUPED,
    "mistral": _GROUPED,
    "qwen2": _GROUPED,
    "qwen3": _HEADS,
    "gemma2": _HEADS,
    "gemma3_text": _HEADS,
    "phi3": _GROUPED,
    "gpt2": {**_TOKENS, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "opt": {
        **_TOKENS,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_dim": 128,
        "max_position_embeddings": 128,
        "word_embed_proj_dim": 64,
    },
    "falcon": {**_TOKENS, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "multi_query": False},
    "t5": {**_TOKENS, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
    | {"decoder_start_token_id": 0},
    "bart": {**_TOKENS, **_BETWEEN, "max_position_embeddings": 128, "decoder_start_token_id": 1}
    | {"forced_eos_token_id": None},
    "vit": _IMAGE,
    "deit": _IMAGE,
    "swin": {"image_size": 16, "patch_size": 2, "embed_dim": 64, "depths": [1, 2], "num_heads": [2, 4]}
    | {"window_size": 4},
    "clip": {
        "text_config": {**_TEXT, "projection_dim": 64},
        "vision_config": {**_IMAGE, "projection_dim": 64},
        "projection_dim": 64,
    },
    "whisper": {**_BETWEEN, "vocab_size": _WORDS, "num_mel_bins": 8, "max_source_positions": 16}
    | {"max_target_positions": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": _END}
    | {"decoder_start_token_id": 1, "classifier_proj_size": 64},
}
_OF_IMAGES = ("vit", "deit", "swin", "clip")
_OF_SOUND = ("whisper",)

SPECIMENS = tuple(_SETTINGS)
"""Architectures, by the model type of their configurations."""

TEXT_SPECIMENS = tuple(name for name in SPECIMENS if name not in (*_OF_IMAGES, *_OF_SOUND))
"""Those that classify text."""


@cache
def tiny(architecture: str, tasks: int = 1, device: str = "cpu") -> tuple[nn.Module, Anatomy]:
    """Return a tiny frozen classifier with random weights, the same on every device, and its anatomy."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _build(architecture, tasks)
        for parameter in model.parameters():
            parameter.data += 0.02 * torch.randn(parameter.shape)  # biases and norms are not all alike
    model.to(device).eval().requires_grad_(False)
    return model, anatomy_of(model)


def without_weights(architecture: str, tasks: int = 1) -> nn.Module:
    """Return the tiny model on the `meta` device."""
    with torch.device("meta"):
        return _build(architecture, tasks).eval().requires_grad_(False)


def tiny_quantised(
    architecture: str, kind: str, dtype: torch.dtype, tasks: int = 1, device: str = "cpu"
) -> tuple[nn.Module, Anatomy]:
    """Return the tiny model with quantised weights, as a backbone is loaded on a device, and its anatomy.

    It is another one at each call: merging writes into quantised weights, which copies of a model share.

    Args:
        architecture: One of `SPECIMENS`.
        kind: How the weights are quantised.
        dtype: Of the arithmetic.
        tasks: How many.
        device: `cpu` or `cuda`.
    """
    model, _ = tiny(architecture, tasks)
    folder = tempfile.mkdtemp(prefix="paretune-specimen-")
    model.save_pretrained(folder)  # type: ignore[operator]
    quantised = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder,
        dtype=dtype,
        quantization_config=quantization_config(kind, dtype, head_of(model), torch.device(device)),
        device_map={"": device},
    )
    quantised.eval().requires_grad_(False)
    take_tasks(quantised)
    settle(quantised)
    remember(quantised, folder, "main")
    return quantised, anatomy_of(quantised)


def batch_of(
    architecture: str, seed: int, tasks: int = 1, device: torch.device | str = "cpu"
) -> tuple[dict[str, Tensor], Tensor]:
    """Return inputs and labels of four examples, the same for the same seed; of several tasks each has its turn."""
    inputs, labels = _batch_of(architecture, seed)
    inputs |= {"task_ids": torch.full((len(labels),), seed % tasks)} if tasks > 1 else {}
    return {name: tensor.to(device) for name, tensor in inputs.items()}, labels.to(device)


def _batch_of(architecture: str, seed: int) -> tuple[dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(_CLASSES, (4,), generator=generator)
    if architecture in _OF_IMAGES:
        return {"pixel_values": torch.randn(4, 3, 16, 16, generator=generator)}, labels
    if architecture in _OF_SOUND:
        return {"input_features": torch.randn(4, 8, 32, generator=generator)}, labels
    ids = torch.randint(3, _WORDS, (4, 9), generator=generator)
    ids[:, -1] = _END  # where models of an encoder and a decoder read the class
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, labels


def logits_of(model: nn.Module, architecture: str = "bert") -> Tensor:
    """Return what a model says of one batch for each of its tasks, the same at every call; on the CPU, in float32."""
    model.eval()
    tasks, device = tasks_of(model), next(model.parameters()).device
    inputs = [batch_of(architecture, 99 + task, tasks, device)[0] for task in range(tasks)]
    with torch.inference_mode():
        return torch.cat([model(**one).logits for one in inputs]).float().cpu()


def _build(architecture: str, tasks: int) -> nn.Module:
    config = transformers.AutoConfig.for_model(architecture, **_SETTINGS[architecture], num_labels=_CLASSES)
    model = _classifier(architecture, with_tasks(config, tasks))
    take_tasks(model)
    return model


def _classifier(architecture: str, config: Any) -> nn.Module:
    if architecture == "deit":  # its automatic class offers a second one, and finds no choice between them
        return transformers.DeiTForImageClassification(config)
    if architecture in _OF_IMAGES:
        kind = transformers.AutoModelForImageClassification
    elif architecture in _OF_SOUND:
        kind = transformers.AutoModelForAudioClassification
    else:
        kind = transformers.AutoModelForSequenceClassification
    model: nn.Module = kind.from_config(config)
    return model
