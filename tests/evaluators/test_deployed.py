"""What is said to be needed to serve a candidate is what is really kept of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from evaluators.anatomy import anatomy_of
from evaluators.attach import Attached, attach, beside_head
from evaluators.backbone import Backbone
from evaluators.counting import Counter
from evaluators.deployed import deployed_after
from evaluators.exported import reload_peft
from evaluators.probing import probe_hybrid, train
from evaluators.specimens import logits_of, tiny, without_weights
from evaluators.tuners.diff_pruning import kept_weights
from search_space.errors import UnsupportedError
from search_space.notation import parse
from tests.evaluators.peft_folders import save_with_peft


def predicted(text: str) -> int:
    bare = without_weights("bert")
    return Counter(bare, anatomy_of(bare)).count(parse(text)).deployed_params


def trained(text: str) -> tuple[Attached, dict[str, torch.Tensor]]:
    model, anatomy = tiny("bert")
    attached = attach(model, anatomy, parse(text))
    train(attached, "bert")
    backbone = Backbone(model, None, torch.device("cpu"), torch.float32)
    return attached, beside_head(attached.state(backbone.storages), anatomy.head)


@pytest.mark.parametrize(
    "text",
    [
        *("lora", "vera(r=32)", "randlora", "mask", "compacter", "prefix_tuning", "p_tuning(num_virtual_tokens=8)"),
        *("adalora(target_r=4)@linear", "pissa(r=4)", "olora", "diff_pruning(density=0.01)", "diff_pruning"),
        *("pissa(r=4) + p_tuning", "adalora(target_r=2) + ia3", "full + lora", "lora(r=2/4)", "full@[top:1]"),
        *("prefix_tuning(encoder_hidden_size=24)", "prefix_tuning(encoder_hidden_size=24)@[top:1] + lora"),
    ],
)
def test_what_is_predicted_is_what_training_leaves(text: str) -> None:
    attached, state = trained(text)
    left, wanted = deployed_after(attached.candidate, state), predicted(text)
    if "@linear" in text:  # ranks go to modules of several sizes
        assert left == pytest.approx(wanted, rel=0.35)
    else:
        assert left == wanted


@pytest.mark.parametrize(
    ("text", "deployed", "factor"),
    [("p_tuning", 16 * 64, 13), ("prefix_tuning(encoder_hidden_size=512)", 16 * 2 * 2 * 64, 30)],
)
def test_a_prompt_is_deployed_as_the_table_that_peft_saves(
    text: str, deployed: int, factor: int, tmp_path: Path
) -> None:
    model, anatomy = tiny("bert")
    attached = attach(model, anatomy, parse(text))
    train(attached, "bert")
    backbone = save_with_peft(attached, "bert", tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert sum(one.numel() for name, one in saved.items() if "classifier" not in name) == deployed == predicted(text)
    assert attached.trainable_params > factor * deployed
    torch.testing.assert_close(logits_of(reload_peft(backbone, tmp_path)), logits_of(attached.model), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2", "qwen3"])
def test_a_network_makes_the_prefix_of_any_model(family: str) -> None:
    assert probe_hybrid(parse("prefix_tuning(encoder_hidden_size=24,num_virtual_tokens=8)"), family) == ""


def test_a_network_makes_prefixes_of_one_length() -> None:
    with pytest.raises(UnsupportedError, match="makes prefixes of one length"):
        attach(*tiny("bert"), parse("prefix_tuning(encoder_hidden_size=24,num_virtual_tokens=4/8)"))


@pytest.mark.parametrize("text", ["pissa(r=4)", "olora(r=4)"])
def test_what_changes_the_weights_at_its_start_is_a_lora_of_twice_the_rank(text: str) -> None:
    attached, state = trained(text)
    model, _ = tiny("bert")
    modules = [name.removesuffix(".base_layer.weight") for name in state if name.endswith(".base_layer.weight")]
    ranks = []
    for name in modules:
        layer = attached.model.get_submodule(name)
        change = state[f"{name}.base_layer.weight"] + layer.get_delta_weight("part0") - model.get_submodule(name).weight  # type: ignore[operator]
        ranks.append(int(torch.linalg.matrix_rank(change.detach(), rtol=1e-4)))
    assert all(4 < rank <= 8 for rank in ranks)
    assert deployed_after(attached.candidate, state) == len(modules) * 8 * (64 + 64)


def test_adalora_is_deployed_with_the_ranks_that_are_left() -> None:
    attached, state = trained("adalora(target_r=4)")
    active = sum(int(one.count_nonzero()) for name, one in state.items() if ".lora_E." in name)
    assert deployed_after(attached.candidate, state) == active * (64 + 64 + 1) == predicted("adalora(target_r=4)")
    assert attached.trainable_params == 4 * 6 * (64 + 64 + 1)


def test_a_sparse_change_is_deployed_with_its_places() -> None:
    attached, state = trained("diff_pruning(density=0.01)")
    changed = kept_weights(attached.model, "part0")
    assert changed == round(0.01 * 4 * 64 * 64)
    assert deployed_after(attached.candidate, state) == 2 * changed
