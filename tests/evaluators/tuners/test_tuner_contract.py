"""What every tuner of ours promises, on every kind of backbone."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from safetensors.torch import load_file
from torch import Tensor, nn

from search_space.errors import PlacementError, UnsupportedError

pytestmark = [
    # peft 0.21.2 asks transformers 5 for an attribute under its old name.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    # peft says so whenever a second adapter is injected, which is what these tests are about.
    pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning"),
    # peft says so when the active adapter is deleted, and picks another one.
    pytest.mark.filterwarnings("ignore:Adapter two was active which is now deleted:UserWarning"),
    # peft's LoRA says so on GPT-2, and does the right thing.
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning"),
]

Perturb = Callable[[nn.Module], None]

RELOAD = """
import sys
from pathlib import Path
import torch
import evaluators.tuners
from peft import PeftModel
from safetensors.torch import save_file

folder = Path(sys.argv[1])
inputs = torch.load(folder / "inputs.pt", weights_only=True)
for adapter in (folder / "adapters").iterdir():
    base = torch.load(folder / "base.pt", weights_only=False)
    with torch.no_grad():
        logits = PeftModel.from_pretrained(base, adapter).eval()(**inputs).logits
    save_file({"logits": logits.contiguous()}, folder / f"{adapter.name}.safetensors")
"""


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in trainable(model).values())


def tensors_of(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Return every tensor of the model beside a copy of what it holds now."""
    held = [*model.parameters(), *model.buffers()]
    return [(tensor, tensor.detach().clone()) for tensor in held]


def assert_untouched(tensors: list[tuple[Tensor, Tensor]]) -> None:
    for tensor, before in tensors:
        assert tensor.detach().numpy().tobytes() == before.numpy().tobytes()


def test_the_output_equals_the_base_at_the_start(case: Any, backbone: Any) -> None:
    model = backbone.build()
    with torch.no_grad():
        before = backbone.logits(model)
        after = backbone.logits(get_peft_model(model, case.config(backbone)).eval())
    assert torch.equal(before, after)


def test_one_step_changes_every_adapter_tensor_and_no_tensor_of_the_base(
    case: Any, backbone: Any, perturb: Perturb
) -> None:
    model = backbone.build()
    base = tensors_of(model)
    adapted = get_peft_model(model, case.config(backbone)).eval()
    perturb(adapted)
    parameters = trainable(adapted)
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    optimizer = torch.optim.Adam(parameters.values(), lr=1e-2)
    backbone.logits(adapted).square().sum().backward()
    optimizer.step()
    assert parameters
    assert [name for name, parameter in parameters.items() if torch.equal(parameter, before[name])] == []
    assert_untouched(base)


def test_adapter_parameters_are_the_tuners_own_and_float32(case: Any, backbone: Any) -> None:
    adapted = get_peft_model(backbone.build(), case.config(backbone))
    prefix = adapted.base_model.prefix
    for name, parameter in trainable(adapted).items():
        assert f".{prefix}" in name
        assert parameter.dtype == torch.float32


def test_counts_on_meta_equal_the_real_ones(case: Any, backbone: Any) -> None:
    real = get_peft_model(backbone.build(), case.config(backbone))
    planned = get_peft_model(backbone.build(device="meta"), case.config(backbone))
    assert all(parameter.device.type == "meta" for parameter in planned.parameters())
    assert {name: tuple(parameter.shape) for name, parameter in trainable(planned).items()} == {
        name: tuple(parameter.shape) for name, parameter in trainable(real).items()
    }


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_a_saved_adapter_reloads_to_equal_logits(
    case: Any, backbone: Any, perturb: Perturb, tmp_path: Path, low_cpu_mem_usage: bool
) -> None:
    adapted = get_peft_model(backbone.build(), case.config(backbone)).eval()
    perturb(adapted)
    adapted.save_pretrained(tmp_path)
    reloaded = PeftModel.from_pretrained(backbone.build(), tmp_path, low_cpu_mem_usage=low_cpu_mem_usage).eval()
    with torch.no_grad():
        torch.testing.assert_close(backbone.logits(reloaded), backbone.logits(adapted), atol=1e-5, rtol=0)
    assert load_file(tmp_path / "adapter_model.safetensors").keys() == get_peft_model_state_dict(adapted).keys()


def test_the_state_dict_makes_a_round_trip_into_another_name(case: Any, backbone: Any, perturb: Perturb) -> None:
    source = get_peft_model(backbone.build(), case.config(backbone)).eval()
    perturb(source)
    state = get_peft_model_state_dict(source)
    target = get_peft_model(backbone.build(), case.config(backbone), adapter_name="other").eval()
    report = set_peft_model_state_dict(target, state, adapter_name="other")
    assert not report.unexpected_keys
    with torch.no_grad():
        torch.testing.assert_close(backbone.logits(target), backbone.logits(source), atol=1e-5, rtol=0)
    assert all(
        torch.equal(value, state[key]) for key, value in get_peft_model_state_dict(target, adapter_name="other").items()
    )


def test_merging_gives_an_equal_model_or_is_refused(case: Any, backbone: Any, perturb: Perturb) -> None:
    model = backbone.build()
    base = tensors_of(model)
    adapted = get_peft_model(model, case.config(backbone)).eval()
    perturb(adapted)
    with torch.no_grad():
        expected = backbone.logits(adapted)
        if not case.merges(backbone):
            with pytest.raises(UnsupportedError, match="cannot be merged"):
                adapted.merge_and_unload()
            torch.testing.assert_close(backbone.logits(adapted), expected)
        else:
            merged = adapted.merge_and_unload()
            assert type(merged) is type(backbone.build())
            torch.testing.assert_close(backbone.logits(merged), expected, atol=1e-4, rtol=0)
    assert_untouched(base)


def test_unmerging_restores_the_wrapped_modules(case: Any, backbone: Any, perturb: Perturb) -> None:
    model = backbone.build()
    originals = {id(module) for module in model.modules()}
    with torch.no_grad():
        plain = backbone.logits(model)
        adapted = get_peft_model(model, case.config(backbone)).eval()
        perturb(adapted)
        expected = backbone.logits(adapted)
        if case.merges(backbone):
            adapted.merge_adapter()
        torch.testing.assert_close(backbone.logits(adapted), expected, atol=1e-4, rtol=0)
        adapted.unmerge_adapter()
        assert torch.equal(backbone.logits(adapted), expected)
        assert torch.equal(backbone.logits(adapted.unload()), plain)
    assert {id(module) for module in model.modules()} == originals


def test_disabling_gives_the_base_and_unloading_leaves_no_trace(case: Any, backbone: Any, perturb: Perturb) -> None:
    model = backbone.build()
    names = list(model.state_dict())
    with torch.no_grad():
        plain = backbone.logits(model)
        adapted = get_peft_model(model, case.config(backbone)).eval()
        perturb(adapted)
        assert not torch.equal(backbone.logits(adapted), plain)
        with adapted.disable_adapter():
            assert torch.equal(backbone.logits(adapted), plain)
        unloaded = adapted.unload()
        assert torch.equal(backbone.logits(unloaded), plain)
    assert list(unloaded.state_dict()) == names


def test_only_the_active_adapter_counts(case: Any, backbone: Any, perturb: Perturb) -> None:
    adapted = get_peft_model(backbone.build(), case.config(backbone), adapter_name="one").eval()
    perturb(adapted)
    with torch.no_grad():
        with_one = backbone.logits(adapted)
        adapted.add_adapter("two", case.config(backbone))
        assert torch.equal(backbone.logits(adapted), with_one)
        assert not any(".two" in name for name in trainable(adapted))
        adapted.set_adapter("two")
        assert not any(".one" in name for name in trainable(adapted))
        assert not torch.equal(backbone.logits(adapted), with_one)
        adapted.delete_adapter("two")
        adapted.set_adapter("one")
        assert torch.equal(backbone.logits(adapted), with_one)


def test_the_same_seed_gives_the_same_adapter(case: Any, backbone: Any) -> None:
    states = []
    for _ in range(2):
        model = backbone.build()
        torch.manual_seed(7)
        states.append(get_peft_model_state_dict(get_peft_model(model, case.config(backbone))))
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_a_bfloat16_base_keeps_a_float32_adapter(case: Any, backbone: Any, perturb: Perturb) -> None:
    model = backbone.build(dtype=torch.bfloat16)
    with torch.no_grad():
        before = backbone.logits(model)
        inject_adapter_in_model(case.config(backbone), model, adapter_name="x")
        assert torch.equal(backbone.logits(model), before)
    perturb(model)
    logits = backbone.logits(model)
    assert logits.dtype == torch.bfloat16
    logits.float().square().sum().backward()
    for parameter in trainable(model).values():
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


def test_loading_without_memory_keeps_float32_over_a_bfloat16_base(case: Any, bert: Any, tmp_path: Path) -> None:
    adapted = get_peft_model(bert.build(dtype=torch.bfloat16), case.config(bert))
    adapted.save_pretrained(tmp_path)
    state = get_peft_model_state_dict(adapted)
    model = bert.build(dtype=torch.bfloat16)
    inject_adapter_in_model(case.config(bert), model, low_cpu_mem_usage=True)
    set_peft_model_state_dict(model, state, low_cpu_mem_usage=True)
    assert trainable(model)
    assert not any(parameter.is_meta for parameter in model.parameters())
    assert {parameter.dtype for parameter in trainable(model).values()} == {torch.float32}


def test_a_deep_copy_is_equal_and_its_own(case: Any, backbone: Any, perturb: Perturb) -> None:
    adapted = get_peft_model(backbone.build(), case.config(backbone)).eval()
    perturb(adapted)
    copied = copy.deepcopy(adapted)
    assert count(copied) == count(adapted)
    assert not {id(parameter) for parameter in copied.parameters()} & {id(p) for p in adapted.parameters()}
    with torch.no_grad():
        expected = backbone.logits(adapted)
        assert torch.equal(backbone.logits(copied), expected)
        perturb(copied)
        assert torch.equal(backbone.logits(adapted), expected)
        assert not torch.equal(backbone.logits(copied), expected)


def test_gradient_checkpointing_changes_no_gradient(case: Any, bert: Any, perturb: Perturb) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = bert.build()
        inject_adapter_in_model(case.config(bert), model)
        perturb(model)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(3)
        bert.logits(model.train()).square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in trainable(model).items()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


@pytest.mark.parametrize("ours_first", [True, False])
def test_it_shares_its_modules_with_lora_in_both_orders(
    case: Any, backbone: Any, perturb: Perturb, ours_first: bool
) -> None:
    if ours_first and case.wraps_blocks:
        return
    ours = ("ours", case.config(backbone))
    shared = backbone.names("attention", "feed_forward")[::2]
    lora = ("lora", LoraConfig(r=2, target_modules=shared))
    order = [ours, lora] if ours_first else [lora, ours]
    models = []
    for _ in range(2):
        model = backbone.build()
        for name, config in order:
            inject_adapter_in_model(copy.deepcopy(config), model, adapter_name=name)
        models.append(model)
    with torch.no_grad():
        assert torch.equal(backbone.logits(models[0]), backbone.logits(backbone.build()))
    for name, _ in order:
        assert any(f".{name}" in key for key in trainable(models[0]))
    perturb(models[0])
    for name, _ in order:
        state = get_peft_model_state_dict(models[0], adapter_name=name)
        set_peft_model_state_dict(models[1], state, adapter_name=name)
    with torch.no_grad():
        torch.testing.assert_close(backbone.logits(models[1]), backbone.logits(models[0]), atol=1e-5, rtol=0)


@pytest.mark.gpu
def test_it_works_where_the_backbone_is(case: Any, backbone: Any) -> None:
    model = backbone.build(device="cuda", dtype=torch.bfloat16)
    inject_adapter_in_model(case.config(backbone), model)
    assert all(tensor.device.type == "cuda" for tensor in (*model.parameters(), *model.buffers()))
    backbone.logits(model).float().square().sum().backward()
    assert any(parameter.grad is not None for parameter in trainable(model).values())


def test_a_refused_placement_leaves_the_model_as_it_was(case: Any, backbone: Any) -> None:
    model = backbone.build()
    names = list(model.state_dict())
    config = case.config(backbone)
    config.target_modules = [*config.target_modules, "no.such.module"]
    with pytest.raises(PlacementError, match=r"no\.such\.module"):
        inject_adapter_in_model(config, model)
    assert list(model.state_dict()) == names


def test_a_pattern_is_refused(case: Any, backbone: Any) -> None:
    config_class = type(case.config(backbone))
    with pytest.raises(PlacementError, match="regular expression"):
        config_class(target_modules=".*query")


def test_adapters_reload_in_a_fresh_process(bert: Any, cases: dict[str, Any], perturb: Perturb, tmp_path: Path) -> None:
    expected = {}
    for name, case in cases.items():
        adapted = get_peft_model(bert.build(), case.config(bert)).eval()
        perturb(adapted)
        adapted.save_pretrained(tmp_path / "adapters" / name)
        with torch.no_grad():
            expected[name] = bert.logits(adapted)
    torch.save(bert.build(), tmp_path / "base.pt")
    torch.save(bert.inputs, tmp_path / "inputs.pt")
    subprocess.run([sys.executable, "-c", RELOAD, str(tmp_path)], check=True, timeout=120)
    for name, logits in expected.items():
        actual = load_file(tmp_path / f"{name}.safetensors")["logits"]
        torch.testing.assert_close(actual, logits, atol=1e-5, rtol=0)
