"""What makes each variant of LoRA another method: where it starts, what it trains, how fast."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from evaluators.attach import Attached, attach
from evaluators.hook import Schooling
from evaluators.hooks import hooks_of
from evaluators.optimisation import build_optimiser, loss_of
from evaluators.probing import train
from evaluators.specimens import batch_of, logits_of, tiny
from search_space.errors import UnsupportedError
from search_space.notation import parse
from search_space.space import at_defaults

QUERY = "bert.encoder.layer.0.attention.self.query"
PLAIN_COUNT = 2 * 2 * 8 * (64 + 64)  # query and value of two layers, rank 8


def attached(text: str) -> Attached:
    model, anatomy = tiny("bert")
    return attach(model, anatomy, parse(text))


def names(one: Attached) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in one.model.named_parameters() if parameter.requires_grad}


def loss(model: nn.Module, batch: tuple[dict[str, Tensor], Tensor]) -> Tensor:
    return loss_of(model(**batch[0]).logits, batch[1], 0.0)


@pytest.mark.parametrize("text", ["olora", "pissa", "eva", "lora_plus", "lora_fa", "mica", "frod", "shira", "adamss"])
def test_it_starts_where_the_backbone_is(text: str) -> None:
    head = logits_of(attached("head").model)
    torch.testing.assert_close(logits_of(attached(text).model), head, atol=2e-5, rtol=0)


def test_olora_starts_from_an_orthonormal_basis_and_leaves_the_shared_weights_alone() -> None:
    model, _ = tiny("bert")
    weight = model.get_submodule(QUERY).weight
    before = weight.clone()
    layer = attached("olora(r=4)").model.get_submodule(QUERY)
    second = layer.lora_B["part0"].weight
    torch.testing.assert_close(second.T @ second, torch.eye(4), atol=1e-5, rtol=0)
    assert torch.equal(weight, before)
    assert not torch.equal(layer.base_layer.weight, before)


def test_eva_starts_from_the_main_directions_of_the_inputs() -> None:
    one = attached("eva(r=3)")
    layer = one.model.get_submodule(QUERY)
    rows: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda module, inputs: rows.append(inputs[0].detach().flatten(0, -2)))
    batches = [batch_of("bert", 0)]
    hooks_of(one).begin(one, Schooling(4, iter(batches), loss))
    handle.remove()
    wanted = torch.linalg.svd(rows[0], full_matrices=False)[2][:3]
    found = layer.lora_A["part0"].weight
    torch.testing.assert_close((found @ wanted.T).abs(), torch.eye(3), atol=1e-3, rtol=0)


def test_eva_beside_a_mask_leaves_it_the_batches_to_look_at() -> None:
    one = attached("eva(r=2)@attention.query + mask(density=0.02)@mlp.down")
    hooks_of(one).begin(one, Schooling(4, iter([batch_of("bert", 0), batch_of("bert", 1)]), loss))


def test_lora_plus_trains_b_faster() -> None:
    one = attached("lora_plus(ratio=8) | lr=0.001")
    rates = {
        name.split(".")[-3]: group["lr"]
        for group in build_optimiser(one).param_groups
        for name, parameter in names(one).items()
        if any(parameter is other for other in group["params"]) and "lora_" in name
    }
    assert rates == {"lora_A": pytest.approx(0.001), "lora_B": pytest.approx(0.008)}


@pytest.mark.parametrize(("text", "trained"), [("lora_fa", "lora_B"), ("mica", "lora_A")])
def test_the_other_matrix_stays_as_it_was_drawn(text: str, trained: str) -> None:
    one = attached(text)
    assert one.trainable_params == PLAIN_COUNT // 2
    ours = [name for name in names(one) if "classifier" not in name]
    assert all(trained in name for name in ours)
    kept = {name: p.clone() for name, p in one.model.named_parameters() if "lora_" in name and trained not in name}
    assert kept
    train(one, "bert")
    assert all(torch.equal(dict(one.model.named_parameters())[name], tensor) for name, tensor in kept.items())


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("eva", PLAIN_COUNT),
        ("olora", PLAIN_COUNT),
        ("shira", PLAIN_COUNT),
        ("qa_lora(group_size=16)", 4 * 8 * (64 // 16 + 64)),
        ("adamss(r=32,num_subspaces=4)", 4 * (4 * 32 + 64)),
        ("frod(sparse_rate=0.01)", 4 * (64 + int(64 * 64 * 0.01))),
    ],
)
def test_its_size_is_the_papers(text: str, count: int) -> None:
    assert attached(text).trainable_params == count


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("qa_lora(group_size=24)", "group_size = 24 does not divide 64; .* would divide all of 64"),
        ("shira(r=40)", "r = 40 is more than .* has weights for; at most 32 fits"),
        ("adamss(r=100)", "r = 100 is more than the 64 that the smallest module has"),
        ("adaption_prompt", "adaption_prompt knows llama, mistral, gpt2 and not bert; prefix_tuning is near to it"),
        ("loftq", "these are not quantised; set model.quantization, or use lora or pissa"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(text: str, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        attached(text)


def test_a_llama_adapter_starts_closed_and_knows_its_layers() -> None:
    model, anatomy = tiny("llama")
    one = attach(model, anatomy, at_defaults("adaption_prompt"))
    assert one.trainable_params == 2 * (16 * 64 + 1)
    with pytest.raises(UnsupportedError, match="the model has 2 layers, not 4"):
        attach(model, anatomy, parse("adaption_prompt(adapter_layers=4)"))


def test_diff_prunings_mask_is_fixed_before_the_end() -> None:
    one = attached("diff_pruning(density=0.01)")
    train(one, "bert")
    layers = [module for module in one.model.modules() if hasattr(module, "diff_pruning_change")]
    changed = sum(int(layer.deltas("part0")["weight"].count_nonzero()) for layer in layers)
    assert 0 < changed <= round(0.01 * 4 * 64 * 64)
