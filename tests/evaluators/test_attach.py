"""Candidates on backbones: counted without weights, attached without a trace, saved and loaded to equal outputs."""

from __future__ import annotations

import copy
import hashlib
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from evaluators.anatomy import anatomy_of
from evaluators.attach import Attached, attach
from evaluators.backbone import head_of
from evaluators.from_shapes import shapes_alone
from evaluators.model_copies import copy_of
from evaluators.optimisation import build_optimiser, loss_of
from evaluators.specimens import tiny
from search_space.errors import ExportError, PlacementError, UnsupportedError
from search_space.notation import parse
from search_space.registry import methods
from search_space.space import at_defaults
from tests.architectures import tiny_inputs, tiny_model

MODELS = ("bert", "llama")
METHODS = ("lora", "ia3", "bitfit", "ln_tuning", "vera(r=8)", "serial_adapter", "prefix_tuning(num_virtual_tokens=4)")
HYBRIDS = (
    "lora(r=2) + bitfit",
    "bitfit + lora(r=2)",
    "serial_adapter(r=4) + lora(r=2)@mlp.down",
    "lora(r=2)@mlp.down + serial_adapter(r=4)",
    "ia3 + ln_tuning",
    "lora(r=2) + prefix_tuning(num_virtual_tokens=4)",
    "prefix_tuning(num_virtual_tokens=4) + lora(r=2)",
    "lora(r=2) + lora(r=4)@mlp.up",
    "lora(r=2,use_dora=true) + ia3@mlp.down",
    "serial_adapter(r=4)@mlp.down[bits:10] + prefix_tuning(num_virtual_tokens=4)@[bits:10]",
)
PER_LAYER = ("lora(r=2/4)@attention", "prefix_tuning(num_virtual_tokens=2/4)")
SINGLES = (*METHODS, *PER_LAYER, "head", "full", "full@[top:1]", "lora(r=2,use_dora=true)@linear[top:1]")


@cache
def frozen(architecture: str) -> nn.Module:
    return tiny_model(architecture, num_labels=3).requires_grad_(False)


def attached(architecture: str, text: str, seed: int = 0) -> Attached:
    model = frozen(architecture)
    return attach(model, anatomy_of(model), parse(text), seed)


def sizes(one: Attached) -> list[int]:
    return [sum(parameter.numel() for parameter in part) for part in one.parts]


def storages(model: nn.Module) -> frozenset[int]:
    return frozenset(tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values())


def logits(model: nn.Module, architecture: str = "bert") -> Tensor:
    model.eval()
    with torch.inference_mode():
        return model(**tiny_inputs(architecture)).logits


def train(one: Attached, architecture: str, steps: int = 3) -> None:
    optimiser = build_optimiser(one)
    one.model.train()
    for _ in range(steps):
        output = one.model(**tiny_inputs(architecture)).logits
        optimiser.update(loss_of(output, torch.tensor([0, 2]), 0.0), 1.0)
    one.model.eval()


def fingerprint(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("architecture", MODELS)
@pytest.mark.parametrize("text", [*SINGLES, *HYBRIDS])
class TestEveryCandidate:
    def test_is_counted_exactly_without_weights(self, architecture: str, text: str) -> None:
        real = attached(architecture, text)
        with torch.device("meta"):
            empty = tiny_model(architecture, num_labels=3).requires_grad_(False)
        counted = attach(empty, anatomy_of(empty), parse(text))

        assert (counted.trainable_params, counted.head_params) == (real.trainable_params, real.head_params)
        assert sizes(counted) == sizes(real)
        assert all(parameter.is_meta for parameter in counted.model.parameters())

    def test_trains_its_own_parameters_and_no_others(self, architecture: str, text: str) -> None:
        one = attached(architecture, text)
        required = {id(parameter) for parameter in one.model.parameters() if parameter.requires_grad}
        assert {id(parameter) for parameter in one.trainable} <= required
        before = {name: tensor.clone() for name, tensor in one.model.state_dict().items()}
        shared = storages(frozen(architecture))
        train(one, architecture)
        for name, tensor in one.model.state_dict().items():
            if tensor.untyped_storage().data_ptr() in shared:
                assert torch.equal(tensor, before[name]), name
        assert any(not torch.equal(tensor, before[name]) for name, tensor in one.model.state_dict().items())

    def test_leaves_the_backbone_as_it_was(self, architecture: str, text: str) -> None:
        model = frozen(architecture)
        names, bytes_before, outputs = list(model.state_dict()), fingerprint(model), logits(model, architecture)
        train(attached(architecture, text), architecture)
        assert list(model.state_dict()) == names
        assert fingerprint(model) == bytes_before
        assert torch.equal(logits(model, architecture), outputs)
        assert not any(parameter.requires_grad for parameter in model.parameters())

    def test_saves_and_loads_to_equal_outputs(self, architecture: str, text: str) -> None:
        shared = storages(frozen(architecture))
        trained = attached(architecture, text)
        train(trained, architecture)
        state = trained.state(shared)
        again = attached(architecture, text, seed=5)
        again.load(state, shared)

        assert torch.equal(logits(again.model, architecture), logits(trained.model, architecture))
        assert again.state(shared).keys() == state.keys()
        assert not any(tensor.untyped_storage().data_ptr() in shared for tensor in state.values())

    def test_has_the_seeds_values(self, architecture: str, text: str) -> None:
        one, same, other = (attached(architecture, text, seed) for seed in (0, 0, 1))
        assert torch.equal(logits(one.model, architecture), logits(same.model, architecture))
        assert not torch.equal(logits(one.model, architecture), logits(other.model, architecture))


def test_fifty_candidates_leave_no_trace() -> None:
    model = frozen("bert")
    outputs, modules, hooks = logits(model), [type(m) for m in model.modules()], _hooks(model)
    for number in range(50):
        text = [*SINGLES, *HYBRIDS][number % (len(SINGLES) + len(HYBRIDS))]
        train(attached("bert", text, seed=number), "bert", steps=1)
    assert torch.equal(logits(model), outputs)
    assert [type(m) for m in model.modules()] == modules
    assert _hooks(model) == hooks
    assert len(anatomy_of(model).sites) == len(anatomy_of(tiny_model("bert")).sites)


def _hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_a_candidate_adds_to_the_memory_only_what_is_its_own() -> None:
    one = attached("bert", "lora(r=2)")
    own = [t for t in one.model.state_dict().values() if t.untyped_storage().data_ptr() not in storages(frozen("bert"))]
    assert sum(tensor.numel() for tensor in own) == one.trainable_params + one.head_params


def test_full_trains_everything_but_counts_the_head_apart() -> None:
    one = attached("bert", "full")
    assert one.trainable_params + one.head_params == sum(p.numel() for p in frozen("bert").parameters())


def test_full_on_the_last_layer_trains_that_layer() -> None:
    one = attached("bert", "full@[top:1]")
    last = frozen("bert").get_submodule("bert.encoder.layer.1")
    assert one.trainable_params == sum(p.numel() for p in last.parameters())


def test_the_head_alone_trains_the_head() -> None:
    one = attached("bert", "head")
    assert one.trainable_params == 0
    assert one.head_params == 16 * 3 + 3


def test_the_state_of_the_parts_stays_with_its_part() -> None:
    """Two parts of one method keep apart: by order, not by size."""
    one = attached("bert", "lora(r=2) + lora(r=4)@mlp.up")
    assert [{min(p.shape) for p in part} for part in one.parts] == [{2}, {4}]


def test_each_part_has_its_own_learning_rate() -> None:
    one = attached("bert", "lora(r=2) + bitfit | lr=0.001/0.005 head_lr=0.1")
    groups = build_optimiser(one).param_groups
    rates = {group["lr"] for group in groups}
    assert rates == {0.001, 0.005, 0.1}
    assert all(group["weight_decay"] == (0.01 if group["params"][0].ndim >= 2 else 0.0) for group in groups)


def test_dropout_is_the_recipes() -> None:
    one = attached("bert", "lora | lr=0.001 dropout=0.25")
    assert {module.p for module in one.model.modules() if type(module) is nn.Dropout} >= {0.25}
    assert {module.p for module in frozen("bert").modules() if isinstance(module, nn.Dropout)} == {0.1}


def test_another_candidates_state_is_refused() -> None:
    shared = storages(frozen("bert"))
    state = attached("bert", "lora(r=2)@attention.query").state(shared)
    with pytest.raises(ExportError, match="does not belong to this candidate"):
        attached("bert", "lora(r=2)@attention.key").load(state, shared)


def test_a_state_of_another_size_is_refused() -> None:
    shared = storages(frozen("bert"))
    state = attached("bert", "lora(r=2)").state(shared)
    with pytest.raises(ExportError, match="does not belong to this candidate"):
        attached("bert", "lora(r=4)").load(state, shared)


@pytest.mark.parametrize(
    ("architecture", "text", "message"),
    [
        ("bert", "lora@mlp.gate", "bert has no mlp.gate"),
        ("bert", "lora@mlp[top:9]", "need at least 9 layers"),
        ("gpt2", "vera(r=8)@attention", "vera cannot wrap"),
        ("bert", "lora(r=2/4/8)@mlp", "lora.r has 3 sizes, one for each layer, and is put on 2 layers"),
    ],
)
def test_what_the_model_cannot_carry_is_said(architecture: str, text: str, message: str) -> None:
    with pytest.raises((UnsupportedError, PlacementError), match=message):
        attached(architecture, text)


def test_a_copy_shares_every_tensor_and_no_module() -> None:
    model = frozen("bert")
    copied = copy_of(model)
    assert storages(copied) == storages(model)
    assert not {id(module) for module in copied.modules()} & {id(module) for module in model.modules()}
    assert head_of(copied) == ("classifier",)


def test_a_module_that_says_nothing_of_copying_is_not_copied_attribute_by_attribute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(value: object, _memo: object) -> object:
        assert not isinstance(value, nn.Module), "the long way"
        return copy.copy(value)

    monkeypatch.setattr("evaluators.model_copies.copy.deepcopy", refused)
    assert storages(copy_of(model := frozen("bert"))) == storages(model)


@pytest.mark.parametrize("bare", [True, False])
def test_types_that_only_fill_their_tensors_leave_them_where_there_are_no_values(bare: bool) -> None:
    with shapes_alone(nn.Linear(2, 2, device="meta" if bare else "cpu"), "LILY"):
        filled = nn.init.ones_(torch.zeros(2, device="cpu"))
    assert float(filled.sum()) == (0 if bare else 2)
    assert float(nn.init.ones_(torch.zeros(2)).sum()) == 2


@pytest.mark.parametrize("name", list(methods()))
def test_every_method_of_the_registry_is_counted_exactly_at_its_defaults(name: str) -> None:
    """At a width that their default sizes divide. Every method on every model: see the matrix of capabilities."""
    wide = {"hidden_size": 128, "intermediate_size": 128, "num_attention_heads": 2}
    counts = []
    for device in ("cpu", "meta"):
        with torch.device(device):
            model = tiny_model("bert", **wide).requires_grad_(False)
        try:
            one = attach(model, anatomy_of(model), at_defaults(name))
        except UnsupportedError as error:
            pytest.skip(str(error))
        counts.append((one.trainable_params, one.head_params))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("architecture", ["bert", "opt", "bart", "llama"])
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_the_recipe_sets_every_dropout_that_the_model_has(architecture: str, rate: float) -> None:
    model = tiny_model(architecture).requires_grad_(False)
    model.config.pad_token_id = 0
    inputs = tiny_inputs(architecture)
    candidate = attach(model, anatomy_of(model), parse(f"head | dropout={rate}")).model
    with torch.no_grad():
        before = candidate(**inputs).logits
        after = candidate.train()(**inputs).logits
    assert torch.equal(before, after) == (rate == 0 or architecture == "llama")  # llama has none


def test_one_module_is_given_by_its_full_name() -> None:
    sites = anatomy_of(frozen("bert")).sites
    linear = next(site for site in sites if site.kind == "linear")
    norm = next(site for site in sites if site.kind == "norm")
    one = attached("bert", f"lora(r=2)@module:{linear.name}")
    assert one.trainable_params == 2 * (linear.in_features + linear.out_features)
    with pytest.raises(UnsupportedError, match="lora cannot wrap"):
        attached("bert", f"lora(r=2)@module:{norm.name}")


@pytest.mark.parametrize("text", ["lora + full@[top:1]", "full@[top:1] + lora", "bitfit + full@[top:1]"])
def test_full_fine_tuning_beside_another_part_counts_its_own_parameters(text: str) -> None:
    attached = attach(*tiny("bert"), parse(text))
    held = [id(parameter) for part in attached.parts for parameter in part]
    assert len(held) == len(set(held))
    alone = {name: attach(*tiny("bert"), parse(name)).trainable_params for name in text.split(" + ")}
    assert [sum(one.numel() for one in part) for part in attached.parts] == [alone[one] for one in text.split(" + ")]
