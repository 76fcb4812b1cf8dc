"""What a person reads off each tiny model: written by hand, never generated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Q, K, V, OUT = "attention.query", "attention.key", "attention.value", "attention.output"
UP, GATE, DOWN, NORM = "mlp.up", "mlp.gate", "mlp.down", "norm"


@dataclass(frozen=True)
class Stack:
    """Layers that are alike; names are relative to a layer, separated by spaces."""

    layers: tuple[str, ...]
    projections: Mapping[str, str]
    attention: str
    mlp: str | None = None
    cross_attention: str | None = None
    name: str = ""
    widths: tuple[int, ...] = (16, 16)


@dataclass(frozen=True)
class Expected:
    """One model: its stacks, what stands outside their layers, and its head."""

    stacks: tuple[Stack, ...]
    norms: str
    embeddings: str
    head: str
    kinds: Mapping[str, str] = field(default_factory=dict)


def two(path: str) -> tuple[str, str]:
    return (f"{path}.0", f"{path}.1")


BERT_LAYER = {
    Q: "attention.self.query",
    K: "attention.self.key",
    V: "attention.self.value",
    OUT: "attention.output.dense",
    UP: "intermediate.dense",
    DOWN: "output.dense",
    NORM: "attention.output.LayerNorm output.LayerNorm",
}
LLAMA_LAYER = {
    Q: "self_attn.q_proj",
    K: "self_attn.k_proj",
    V: "self_attn.v_proj",
    OUT: "self_attn.o_proj",
    GATE: "mlp.gate_proj",
    UP: "mlp.up_proj",
    DOWN: "mlp.down_proj",
    NORM: "input_layernorm post_attention_layernorm",
}
QWEN3_LAYER = {**LLAMA_LAYER, NORM: f"{LLAMA_LAYER[NORM]} self_attn.q_norm self_attn.k_norm"}
GEMMA2_LAYER = {**LLAMA_LAYER, NORM: f"{LLAMA_LAYER[NORM]} pre_feedforward_layernorm post_feedforward_layernorm"}
GEMMA3_LAYER = {**GEMMA2_LAYER, NORM: f"{GEMMA2_LAYER[NORM]} self_attn.q_norm self_attn.k_norm"}
OPT_LAYER = {
    Q: "self_attn.q_proj",
    K: "self_attn.k_proj",
    V: "self_attn.v_proj",
    OUT: "self_attn.out_proj",
    UP: "fc1",
    DOWN: "fc2",
    NORM: "self_attn_layer_norm final_layer_norm",
}
BART_DECODER_LAYER = {
    Q: "self_attn.q_proj encoder_attn.q_proj",
    K: "self_attn.k_proj encoder_attn.k_proj",
    V: "self_attn.v_proj encoder_attn.v_proj",
    OUT: "self_attn.out_proj encoder_attn.out_proj",
    UP: "fc1",
    DOWN: "fc2",
    NORM: "self_attn_layer_norm encoder_attn_layer_norm final_layer_norm",
}
T5_ENCODER_LAYER = {
    Q: "layer.0.SelfAttention.q",
    K: "layer.0.SelfAttention.k",
    V: "layer.0.SelfAttention.v",
    OUT: "layer.0.SelfAttention.o",
    UP: "layer.1.DenseReluDense.wi",
    DOWN: "layer.1.DenseReluDense.wo",
    NORM: "layer.0.layer_norm layer.1.layer_norm",
}
T5_DECODER_LAYER = {
    Q: "layer.0.SelfAttention.q layer.1.EncDecAttention.q",
    K: "layer.0.SelfAttention.k layer.1.EncDecAttention.k",
    V: "layer.0.SelfAttention.v layer.1.EncDecAttention.v",
    OUT: "layer.0.SelfAttention.o layer.1.EncDecAttention.o",
    UP: "layer.2.DenseReluDense.wi",
    DOWN: "layer.2.DenseReluDense.wo",
    NORM: "layer.0.layer_norm layer.1.layer_norm layer.2.layer_norm",
}
MODERNBERT_LAYER = {
    Q: "attn.Wqkv",
    K: "attn.Wqkv",
    V: "attn.Wqkv",
    OUT: "attn.Wo",
    UP: "mlp.Wi",
    GATE: "mlp.Wi",
    DOWN: "mlp.Wo",
    NORM: "mlp_norm",
}
VIT_LAYER = {
    Q: "attention.q_proj",
    K: "attention.k_proj",
    V: "attention.v_proj",
    OUT: "attention.o_proj",
    UP: "mlp.fc1",
    DOWN: "mlp.fc2",
    NORM: "layernorm_before layernorm_after",
}
CLIP_LAYER = {
    Q: "self_attn.q_proj",
    K: "self_attn.k_proj",
    V: "self_attn.v_proj",
    OUT: "self_attn.out_proj",
    UP: "mlp.fc1",
    DOWN: "mlp.fc2",
    NORM: "layer_norm1 layer_norm2",
}


def bert_like(root: str, *, token_types: bool = True) -> Expected:
    tables = ("word_embeddings", "token_type_embeddings") if token_types else ("word_embeddings",)
    return Expected(
        (Stack(two(f"{root}.encoder.layer"), BERT_LAYER, "attention"),),
        norms=f"{root}.embeddings.LayerNorm",
        embeddings=" ".join(f"{root}.embeddings.{table}" for table in tables),
        head="classifier",
    )


def llama_like(layer: Mapping[str, str]) -> Expected:
    return Expected(
        (Stack(two("model.layers"), layer, "self_attn", "mlp"),),
        norms="model.norm",
        embeddings="model.embed_tokens",
        head="score",
    )


EXPECTED: dict[str, Expected] = {
    "bert": bert_like("bert"),
    "roberta": bert_like("roberta"),
    "electra": bert_like("electra"),
    "distilbert": Expected(
        (
            Stack(
                two("distilbert.transformer.layer"),
                {
                    Q: "attention.q_lin",
                    K: "attention.k_lin",
                    V: "attention.v_lin",
                    OUT: "attention.out_lin",
                    UP: "ffn.lin1",
                    DOWN: "ffn.lin2",
                    NORM: "sa_layer_norm output_layer_norm",
                },
                "attention",
                "ffn",
            ),
        ),
        norms="distilbert.embeddings.LayerNorm",
        embeddings="distilbert.embeddings.word_embeddings",
        head="pre_classifier classifier",
    ),
    "deberta-v2": Expected(
        (
            Stack(
                two("deberta.encoder.layer"),
                {
                    **BERT_LAYER,
                    Q: "attention.self.query_proj",
                    K: "attention.self.key_proj",
                    V: "attention.self.value_proj",
                },
                "attention",
            ),
        ),
        norms="deberta.embeddings.LayerNorm deberta.encoder.LayerNorm",
        embeddings="deberta.embeddings.word_embeddings",
        head="pooler classifier",
    ),
    "mpnet": Expected(
        (
            Stack(
                two("mpnet.encoder.layer"),
                {
                    Q: "attention.attn.q",
                    K: "attention.attn.k",
                    V: "attention.attn.v",
                    OUT: "attention.attn.o",
                    UP: "intermediate.dense",
                    DOWN: "output.dense",
                    NORM: "attention.LayerNorm output.LayerNorm",
                },
                "attention.attn",
            ),
        ),
        norms="mpnet.embeddings.LayerNorm",
        embeddings="mpnet.embeddings.word_embeddings",
        head="classifier",
    ),
    "llama": llama_like(LLAMA_LAYER),
    "mistral": llama_like(LLAMA_LAYER),
    "qwen2": llama_like(LLAMA_LAYER),
    "qwen3": llama_like(QWEN3_LAYER),
    "gemma2": llama_like(GEMMA2_LAYER),
    "gemma3": llama_like(GEMMA3_LAYER),
    "phi3": llama_like(
        {
            Q: "self_attn.qkv_proj",
            K: "self_attn.qkv_proj",
            V: "self_attn.qkv_proj",
            OUT: "self_attn.o_proj",
            UP: "mlp.gate_up_proj",
            GATE: "mlp.gate_up_proj",
            DOWN: "mlp.down_proj",
            NORM: LLAMA_LAYER[NORM],
        }
    ),
    "gpt2": Expected(
        (
            Stack(
                two("transformer.h"),
                {
                    Q: "attn.c_attn",
                    K: "attn.c_attn",
                    V: "attn.c_attn",
                    OUT: "attn.c_proj",
                    UP: "mlp.c_fc",
                    DOWN: "mlp.c_proj",
                    NORM: "ln_1 ln_2",
                },
                "attn",
                "mlp",
            ),
        ),
        norms="transformer.ln_f",
        embeddings="transformer.wte",
        head="score",
        kinds=dict.fromkeys((Q, K, V, OUT, UP, DOWN), "conv1d"),
    ),
    "opt": Expected(
        (Stack(two("model.decoder.layers"), OPT_LAYER, "self_attn"),),
        norms="model.decoder.final_layer_norm",
        embeddings="model.decoder.embed_tokens",
        head="score",
    ),
    "falcon": Expected(
        (
            Stack(
                two("transformer.h"),
                {
                    Q: "self_attention.query_key_value",
                    K: "self_attention.query_key_value",
                    V: "self_attention.query_key_value",
                    OUT: "self_attention.dense",
                    UP: "mlp.dense_h_to_4h",
                    DOWN: "mlp.dense_4h_to_h",
                    NORM: "input_layernorm",
                },
                "self_attention",
                "mlp",
            ),
        ),
        norms="transformer.ln_f",
        embeddings="transformer.word_embeddings",
        head="score",
    ),
    "t5": Expected(
        (
            Stack(
                two("transformer.encoder.block"),
                T5_ENCODER_LAYER,
                "layer.0.SelfAttention",
                "layer.1.DenseReluDense",
                name="encoder",
            ),
            Stack(
                two("transformer.decoder.block"),
                T5_DECODER_LAYER,
                "layer.0.SelfAttention",
                "layer.2.DenseReluDense",
                "layer.1.EncDecAttention",
                name="decoder",
            ),
        ),
        norms="transformer.encoder.final_layer_norm transformer.decoder.final_layer_norm",
        embeddings="transformer.encoder.embed_tokens transformer.decoder.embed_tokens",
        head="classification_head",
    ),
    "bart": Expected(
        (
            Stack(two("model.encoder.layers"), OPT_LAYER, "self_attn", name="encoder"),
            Stack(
                two("model.decoder.layers"),
                BART_DECODER_LAYER,
                "self_attn",
                cross_attention="encoder_attn",
                name="decoder",
            ),
        ),
        norms="model.encoder.layernorm_embedding model.decoder.layernorm_embedding",
        embeddings="model.encoder.embed_tokens model.decoder.embed_tokens",
        head="classification_head",
    ),
    "vit": Expected(
        (Stack(two("vit.layers"), VIT_LAYER, "attention", "mlp"),),
        norms="vit.layernorm",
        embeddings="vit.embeddings.patch_embeddings.projection",
        head="classifier",
        kinds={"embeddings": "conv"},
    ),
    "deit": Expected(
        (Stack(two("deit.layers"), VIT_LAYER, "attention", "mlp"),),
        norms="deit.layernorm",
        embeddings="deit.embeddings.patch_embeddings.projection",
        head="classifier",
        kinds={"embeddings": "conv"},
    ),
    "swin": Expected(
        (
            Stack(
                (
                    "swin.encoder.layers.0.blocks.0",
                    "swin.encoder.layers.1.blocks.0",
                    "swin.encoder.layers.1.blocks.1",
                ),
                VIT_LAYER,
                "attention",
                "mlp",
                widths=(8, 16, 16),
            ),
        ),
        norms="swin.embeddings.norm swin.encoder.layers.0.downsample.norm swin.layernorm",
        embeddings="swin.embeddings.patch_embeddings.projection",
        head="classifier",
        kinds={"embeddings": "conv"},
    ),
    "clip": Expected(
        (
            Stack(two("text_model.encoder.layers"), CLIP_LAYER, "self_attn", "mlp", name="text"),
            Stack(two("vision_model.encoder.layers"), CLIP_LAYER, "self_attn", "mlp", name="vision", widths=(24, 24)),
        ),
        norms="text_model.final_layer_norm vision_model.pre_layrnorm vision_model.post_layernorm",
        embeddings="text_model.embeddings.token_embedding vision_model.embeddings.patch_embedding",
        head="visual_projection text_projection",
    ),
    "whisper": Expected(
        (Stack(two("encoder.layers"), OPT_LAYER, "self_attn"),),
        norms="encoder.layer_norm",
        embeddings="",
        head="projector classifier",
    ),
    "modernbert": Expected(
        (
            Stack(("model.layers.0",), MODERNBERT_LAYER, "attn", "mlp"),
            Stack(("model.layers.1",), {**MODERNBERT_LAYER, NORM: "attn_norm mlp_norm"}, "attn", "mlp"),
        ),
        norms="model.embeddings.norm model.final_norm",
        embeddings="model.embeddings.tok_embeddings",
        head="head classifier",
    ),
}


def expected_sites(name: str) -> dict[str, set[str]]:
    """Return the full names of the modules of every projection that a model has."""
    expected = EXPECTED[name]
    found: dict[str, set[str]] = {
        "norm": set(expected.norms.split()),
        "embeddings": set(expected.embeddings.split()),
    }
    for stack in expected.stacks:
        for projection, modules in stack.projections.items():
            names = {f"{layer}.{module}" for layer in stack.layers for module in modules.split()}
            found.setdefault(projection, set()).update(names)
    return {projection: names for projection, names in found.items() if names}
