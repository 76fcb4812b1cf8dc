"""The anatomy of 24 architectures against tables written by hand, and of models that nobody knows."""

from __future__ import annotations

import json
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

from evaluators.anatomy import anatomy_of
from search_space.errors import PlacementError, UnsupportedError
from search_space.placement import PROJECTIONS, Anatomy, Layers, Placement
from search_space.registry import method
from search_space.space import bind
from search_space.spec import SpaceSpec
from tests.architectures import ARCHITECTURES, tiny_inputs, tiny_model
from tests.evaluators.expected_anatomies import EXPECTED, expected_sites

EVERY_ARCHITECTURE = pytest.mark.parametrize("name", ARCHITECTURES)


@cache
def anatomy(name: str) -> Anatomy:
    return anatomy_of(tiny_model(name))


def found(model_anatomy: Anatomy) -> dict[str, set[str]]:
    return {
        projection: {site.name for site in model_anatomy.sites if projection in site.projections}
        for projection in model_anatomy.projections
    }


def layered(layer: nn.Module, *more: nn.Module) -> nn.Module:
    return nn.ModuleDict({"embed": nn.Embedding(8, 4), "layers": nn.ModuleList([layer, *more])})


def test_every_architecture_has_a_table() -> None:
    assert set(EXPECTED) == set(ARCHITECTURES)


class TestKnownArchitectures:
    @EVERY_ARCHITECTURE
    def test_every_projection_has_exactly_its_modules(self, name: str) -> None:
        assert found(anatomy(name)) == expected_sites(name)

    @EVERY_ARCHITECTURE
    @pytest.mark.parametrize("projection", PROJECTIONS)
    def test_resolving_gives_them_or_says_what_is_lacking(self, name: str, projection: str) -> None:
        expected = expected_sites(name)
        if projection not in expected:
            with pytest.raises(PlacementError, match=f"has no {projection}.*module:NAME"):
                anatomy(name).resolve(Placement((projection,)))
            return
        assert {site.name for site in anatomy(name).resolve(Placement((projection,)))} == expected[projection]

    @EVERY_ARCHITECTURE
    def test_blocks(self, name: str) -> None:
        expected = [
            (f"{layer}", stack, width)
            for stack in EXPECTED[name].stacks
            for layer, width in zip(stack.layers, stack.widths, strict=False)
        ]
        blocks = anatomy(name).blocks
        assert [block.layer for block in blocks] == list(range(anatomy(name).n_layers)) == list(range(len(expected)))
        for block, (layer, stack, width) in zip(blocks, expected, strict=True):
            assert block.name == layer
            assert block.attention == f"{layer}.{stack.attention}"
            assert block.mlp == (f"{layer}.{stack.mlp}" if stack.mlp else None)
            assert block.cross_attention == (f"{layer}.{stack.cross_attention}" if stack.cross_attention else None)
            assert (block.stack, block.hidden_size) == (stack.name, width)
        assert anatomy(name).hidden_size == expected[-1][2]

    @EVERY_ARCHITECTURE
    def test_the_head_is_apart(self, name: str) -> None:
        assert anatomy(name).head == tuple(EXPECTED[name].head.split())
        roots = {site.name.partition(".")[0] for site in anatomy(name).sites}
        assert not roots & set(anatomy(name).head)

    @EVERY_ARCHITECTURE
    def test_sites_describe_their_modules(self, name: str) -> None:
        model = tiny_model(name)
        order = [path for path, _ in model.named_modules()]
        assert [order.index(site.name) for site in anatomy(name).sites] == sorted(
            order.index(site.name) for site in anatomy(name).sites
        )
        for site in anatomy(name).sites:
            module: Any = model.get_submodule(site.name)
            assert site.has_bias == (getattr(module, "bias", None) is not None)
            if site.kind in {"linear", "conv1d", "embedding"}:
                assert site.in_features * site.out_features == module.weight.numel()
            if site.kind == "linear":
                assert (site.out_features, site.in_features) == tuple(module.weight.shape)
            if site.kind == "norm":
                assert site.in_features == site.out_features == module.weight.numel()

    @EVERY_ARCHITECTURE
    def test_kinds(self, name: str) -> None:
        usual = {"norm": "norm", "embeddings": "embedding"}
        for projection in anatomy(name).projections:
            kinds = {site.kind for site in anatomy(name).sites if projection in site.projections}
            if name == "clip" and projection == "embeddings":
                assert kinds == {"embedding", "conv"}
            else:
                assert kinds == {EXPECTED[name].kinds.get(projection, usual.get(projection, "linear"))}

    @EVERY_ARCHITECTURE
    def test_sites_know_their_layer_and_stack(self, name: str) -> None:
        blocks = anatomy(name).blocks
        for site in anatomy(name).sites:
            holders = [block for block in blocks if site.name.startswith(f"{block.name}.")]
            assert [block.layer for block in holders] == ([] if site.layer is None else [site.layer])
            assert all(block.stack == site.stack for block in holders)

    @EVERY_ARCHITECTURE
    def test_the_meta_device_gives_the_same(self, name: str) -> None:
        with torch.device("meta"):
            assert anatomy_of(tiny_model(name)) == anatomy(name)

    @EVERY_ARCHITECTURE
    def test_a_forward_pass_calls_every_named_site(self, name: str) -> None:
        model = tiny_model(name)
        called: set[str] = set()
        for path, module in model.named_modules():
            module.register_forward_hook(lambda *_, path=path: called.add(path))
        with torch.no_grad():
            output = model(**tiny_inputs(name))
        scores = output.logits_per_image if name == "clip" else output.logits
        assert scores.shape == (2, 2)
        assert torch.isfinite(scores).all()
        assert {site.name for site in anatomy(name).sites if site.projections} <= called

    @EVERY_ARCHITECTURE
    def test_json_round_trip(self, name: str) -> None:
        assert Anatomy.from_json(json.loads(json.dumps(anatomy(name).to_json()))) == anatomy(name)


class TestLayers:
    def test_the_last_layers_of_an_encoder_decoder_are_the_decoders(self) -> None:
        sites = anatomy("t5").resolve(Placement.parse("mlp.up[top:1]"))
        assert [site.name for site in sites] == ["transformer.decoder.block.1.layer.2.DenseReluDense.wi"]

    def test_swins_layers_are_numbered_through_its_stages(self) -> None:
        sites = anatomy("swin").resolve(Placement.parse("attention.query[band:0-1]"))
        assert [(site.layer, site.in_features) for site in sites] == [(0, 8), (1, 16)]

    def test_sites_outside_the_layers_of_a_stack_carry_its_name(self) -> None:
        stacks = {site.name: site.stack for site in anatomy("bart").sites if site.layer is None}
        assert stacks["model.encoder.embed_tokens"] == "encoder"
        assert stacks["model.decoder.layernorm_embedding"] == "decoder"
        assert stacks["model.shared"] == ""

    def test_layers_of_one_model(self) -> None:
        model_anatomy = anatomy_of(tiny_model("bert", num_hidden_layers=5))
        assert [block.layer for block in model_anatomy.blocks_in(Layers.parse("every:2"))] == [1, 3]


class TestVariants:
    def test_t5s_gated_mlp(self) -> None:
        sites = found(anatomy_of(tiny_model("t5", feed_forward_proj="gated-gelu")))
        assert "transformer.encoder.block.0.layer.1.DenseReluDense.wi_0" in sites["mlp.gate"]
        assert "transformer.encoder.block.0.layer.1.DenseReluDense.wi_1" in sites["mlp.up"]
        assert len(sites["mlp.gate"]) == len(sites["mlp.up"]) == 4

    def test_debertas_position_projections_are_neither_keys_nor_output(self) -> None:
        model_anatomy = anatomy_of(tiny_model("deberta-v2", share_att_key=False))
        assert found(model_anatomy) == expected_sites("deberta-v2")
        positions = [site for site in model_anatomy.sites if site.name.endswith("pos_key_proj")]
        assert [site.projections for site in positions] == [(), ()]

    def test_an_mlp_as_wide_as_the_model(self) -> None:
        assert found(anatomy_of(tiny_model("bert", intermediate_size=16))) == expected_sites("bert")
        assert found(anatomy_of(tiny_model("llama", intermediate_size=16))) == expected_sites("llama")

    def test_falcons_other_decoder(self) -> None:
        sites = found(anatomy_of(tiny_model("falcon", new_decoder_architecture=True, num_kv_heads=1)))
        assert sites["attention.query"] == {f"transformer.h.{layer}.self_attention.query_key_value" for layer in (0, 1)}

    def test_gpt2s_cross_attention_is_fused_in_another_way(self) -> None:
        model_anatomy = anatomy_of(tiny_model("gpt2", add_cross_attention=True))
        by_name = {site.name: site.projections for site in model_anatomy.sites}
        assert by_name["transformer.h.0.crossattention.c_attn"] == ("attention.key", "attention.value")
        assert by_name["transformer.h.0.crossattention.q_attn"] == ("attention.query",)
        assert model_anatomy.blocks[0].cross_attention == "transformer.h.0.crossattention"

    def test_a_bare_model_and_a_language_model(self) -> None:
        config = tiny_model("llama").config
        bare = anatomy_of(transformers.LlamaModel(config))
        assert bare.head == ()
        assert bare.blocks[1].attention == "layers.1.self_attn"
        assert anatomy_of(transformers.LlamaForCausalLM(config)).head == ("lm_head",)

    def test_one_layer(self) -> None:
        assert anatomy_of(tiny_model("t5", num_layers=1)).n_layers == 2
        assert anatomy_of(tiny_model("bert", num_hidden_layers=1)).n_layers == 1

    def test_a_model_inside_another_module(self) -> None:
        class Wrapped(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.backbone = transformers.BertModel(tiny_model("bert").config)
                self.out = nn.Linear(16, 3)

        model_anatomy = anatomy_of(Wrapped())
        assert model_anatomy.architecture == "Wrapped"
        assert model_anatomy.head == ("out",)
        assert model_anatomy.blocks[0].attention == "backbone.encoder.layer.0.attention"


class OddLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Linear(4, 12)
        self.beta = Conv1D(4, 12)
        self.stabiliser = nn.LayerNorm(4)
        self.ripple = nn.Conv1d(4, 4, 1, bias=False)


class OddModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.runes = nn.Embedding(8, 4)
        self.tower = nn.ModuleList([OddLayer(), OddLayer(), OddLayer()])
        self.verdict = nn.Linear(4, 2)


class TestUnknownArchitectures:
    def test_sites_have_kinds_paths_and_layers(self) -> None:
        sites = anatomy_of(OddModel()).sites
        assert [(site.name, site.kind, site.layer) for site in sites[:5]] == [
            ("runes", "embedding", None),
            ("tower.0.alpha", "linear", 0),
            ("tower.0.beta", "conv1d", 0),
            ("tower.0.stabiliser", "norm", 0),
            ("tower.0.ripple", "conv", 0),
        ]
        assert [site.has_bias for site in sites[:5]] == [False, True, True, True, False]

    def test_what_it_is_called_and_how_wide(self) -> None:
        model_anatomy = anatomy_of(OddModel())
        assert (model_anatomy.architecture, model_anatomy.hidden_size) == ("OddModel", 4)
        assert (model_anatomy.n_layers, model_anatomy.head) == (3, ("verdict",))

    def test_a_semantic_projection_says_what_is_lacking_and_that_paths_work(self) -> None:
        message = r"OddModel has no attention\.query; it has 'norm', 'embeddings'; .*module:NAME.*'tower\.0\.alpha'"
        with pytest.raises(PlacementError, match=message):
            anatomy_of(OddModel()).resolve(Placement.parse("attention.query"))

    def test_paths_work(self) -> None:
        sites = anatomy_of(OddModel()).resolve_paths(["alpha", "tower.2.beta"], Layers.parse("top:2"))
        assert [site.name for site in sites] == ["tower.1.alpha", "tower.2.alpha", "tower.2.beta"]

    def test_no_layers_at_all(self) -> None:
        model_anatomy = anatomy_of(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))
        assert [site.name for site in model_anatomy.sites] == ["0", "2"]
        assert model_anatomy.n_layers == 0
        assert model_anatomy.resolve(Placement()) == model_anatomy.sites
        with pytest.raises(PlacementError, match="the model has 0"):
            model_anatomy.resolve(Placement.parse("[top:1]"))

    def test_a_model_without_anything(self) -> None:
        with pytest.raises(PlacementError, match="has no module that a method can change"):
            anatomy_of(nn.Identity()).resolve(Placement())


class TestStructure:
    def test_experts_are_not_layers(self) -> None:
        def experts() -> nn.Module:
            expert = {"w1": nn.Linear(4, 6), "w2": nn.Linear(6, 4), "w3": nn.Linear(4, 6)}
            return nn.ModuleDict({"gate": nn.Linear(4, 2), "experts": nn.ModuleList([nn.ModuleDict(expert)])})

        def layer() -> nn.Module:
            attention = nn.ModuleDict({name: nn.Linear(4, 4) for name in ("wq", "wk", "wv", "wo")})
            return nn.ModuleDict({"attention": attention, "moe": experts()})

        model_anatomy = anatomy_of(layered(layer(), layer()))
        assert [block.name for block in model_anatomy.blocks] == ["layers.0", "layers.1"]
        assert found(model_anatomy)["mlp.gate"] == {f"layers.{number}.moe.experts.0.w1" for number in (0, 1)}
        assert found(model_anatomy)["mlp.down"] == {f"layers.{number}.moe.experts.0.w2" for number in (0, 1)}
        router = next(site for site in model_anatomy.sites if site.name == "layers.0.moe.gate")
        assert router.projections == ()

    def test_single_heads_are_not_layers(self) -> None:
        def head() -> nn.Module:
            return nn.ModuleDict({name: nn.Linear(4, 2) for name in ("query", "key", "value")})

        def layer() -> nn.Module:
            return nn.ModuleDict({"heads": nn.ModuleList([head(), head()]), "proj": nn.Linear(4, 4)})

        assert [block.name for block in anatomy_of(layered(layer(), layer())).blocks] == ["layers.0", "layers.1"]

    def test_layers_of_two_classes_make_one_stack(self) -> None:
        class MixerDecoderLayer(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.mixer = nn.ModuleDict({"in_proj": nn.Linear(4, 16), "out_proj": nn.Linear(8, 4)})
                self.feed_forward = nn.ModuleDict({"up_proj": nn.Linear(4, 6), "down_proj": nn.Linear(6, 4)})

        class AttentionDecoderLayer(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.attn = nn.ModuleDict({"qkv_proj": nn.Linear(4, 12), "dense": nn.Linear(4, 4)})

        model_anatomy = anatomy_of(layered(MixerDecoderLayer(), AttentionDecoderLayer()))
        assert [block.attention for block in model_anatomy.blocks] == [None, "layers.1.attn"]
        assert found(model_anatomy)["mlp.up"] == {"layers.0.feed_forward.up_proj"}
        assert found(model_anatomy)["attention.output"] == {"layers.1.attn.dense"}

    def test_keys_and_values_without_queries_are_no_attention(self) -> None:
        layer = nn.ModuleDict({"key": nn.Linear(4, 4), "value": nn.Linear(4, 4), "receptance": nn.Linear(4, 4)})
        assert "attention.key" not in anatomy_of(layered(layer)).projections

    def test_linears_wrapped_under_their_name(self) -> None:
        wrapped = {
            name: nn.ModuleDict({"linear": nn.Linear(4, 4)}) for name in ("q_proj", "k_proj", "v_proj", "o_proj")
        }
        sites = found(anatomy_of(layered(nn.ModuleDict({"attn": nn.ModuleDict(wrapped)}))))
        assert sites["attention.query"] == {"layers.0.attn.q_proj.linear"}
        assert sites["attention.output"] == {"layers.0.attn.o_proj.linear"}

    def test_everything_in_one_module(self) -> None:
        shapes = {"q": (4, 4), "k": (4, 4), "v": (4, 4), "o": (4, 4), "fc1": (4, 8), "fc2": (8, 4)}
        flat = nn.ModuleDict({name: nn.Linear(*shape) for name, shape in shapes.items()})
        sites = found(anatomy_of(layered(flat)))
        assert sites["attention.output"] == {"layers.0.o"}
        assert (sites["mlp.up"], sites["mlp.down"]) == ({"layers.0.fc1"}, {"layers.0.fc2"})

    def test_what_torchs_attention_holds_is_no_site(self) -> None:
        layer = nn.TransformerEncoderLayer(4, 2, dim_feedforward=8, batch_first=True)
        model_anatomy = anatomy_of(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))
        assert not [site.name for site in model_anatomy.sites if "self_attn" in site.name]
        assert found(model_anatomy)["mlp.up"] == {"layers.0.linear1", "layers.1.linear1"}
        with pytest.raises(PlacementError, match=r"no attention\.query"):
            model_anatomy.resolve(Placement.parse("attention.query"))


class TestWhatPromptsNeed:
    """Prompts are made by peft, which reads the model's configuration."""

    @pytest.mark.parametrize("name", ARCHITECTURES)
    def test_known_architectures_tell_all(self, name: str) -> None:
        """All but DistilBERT, whose names of them peft does not know."""
        unknown = ("width", "number of heads") if name == "distilbert" else ()
        assert anatomy_of(tiny_model(name)).untold == unknown

    def test_a_model_that_does_not_tell_gets_no_prompts_and_says_so(self) -> None:
        odd: Any = OddModel()
        assert anatomy_of(odd).untold == ("number of layers", "width", "number of heads")
        odd.config = SimpleNamespace(model_type="odd", hidden_size=4, n_head=2)
        with pytest.raises(UnsupportedError, match=r"prefix_tuning has to know the model's number of layers, which"):
            bind(SpaceSpec(methods={"prefix_tuning": {}}), anatomy_of(odd))  # type: ignore[arg-type]
        space = bind(SpaceSpec(preset="everything"), anatomy_of(odd))
        left = {name for one in space.compositions for name in one.methods}
        assert not {name for name in left if method(name).route == "prompt"}
