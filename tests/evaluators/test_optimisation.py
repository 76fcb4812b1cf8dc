"""The training loss of a recipe: plain, smoothed, mixed; and steps in float32 whatever the type of the weights."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from evaluators.anatomy import anatomy_of
from evaluators.attach import Attached, attach
from evaluators.hook import Schooling
from evaluators.hooks import hooks_of
from evaluators.memory import Load, measure_peak_bytes, predict_step
from evaluators.optimisation import Optimiser, build_optimiser, loss_of, loss_of_recipe
from evaluators.specimens import batch_of, tiny, without_weights
from search_space.candidate import Recipe
from search_space.notation import parse
from search_space.registry import methods

LABELS = torch.tensor([0, 2, 1, 2, 0, 1, 1, 0])


def test_without_mixup_it_is_the_plain_loss_and_draws_nothing() -> None:
    logits = torch.randn(8, 3)
    before = torch.get_rng_state()
    loss = loss_of_recipe(logits, LABELS, Recipe((1e-3,), label_smoothing=0.1))
    assert torch.equal(loss, loss_of(logits, LABELS, 0.1))
    assert torch.equal(torch.get_rng_state(), before)


def test_mixing_the_outputs_of_the_last_layer_is_mixing_its_inputs() -> None:
    """senMixup as published mixes what goes into the last layer."""
    head, hidden = nn.Linear(5, 3), torch.randn(8, 5)
    torch.manual_seed(7)
    loss = loss_of_recipe(head(hidden), LABELS, Recipe((1e-3,), mixup=0.4))
    torch.manual_seed(7)
    weight = torch.distributions.Beta(0.4, 0.4).sample()
    partners = torch.randperm(8)
    logits = head(weight * hidden + (1 - weight) * hidden[partners])
    expected = weight * loss_of(logits, LABELS, 0.0) + (1 - weight) * loss_of(logits, LABELS[partners], 0.0)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_mixing_goes_with_smoothing_and_has_a_gradient() -> None:
    logits = torch.randn(8, 3, requires_grad=True)
    torch.manual_seed(1)
    smooth = loss_of_recipe(logits, LABELS, Recipe((1e-3,), mixup=1.0, label_smoothing=0.2))
    torch.manual_seed(1)
    assert smooth.item() != loss_of_recipe(logits, LABELS, Recipe((1e-3,), mixup=1.0)).item()
    smooth.backward()
    assert logits.grad is not None
    assert logits.grad.abs().min() > 0


STEPS = 10
TRAINED = [
    name
    for name, one in methods().items()
    if not (one.quantised_only or one.several_tasks) and name != "adaption_prompt"
]


def under_bfloat16(text: str) -> Attached:
    model = deepcopy(tiny("bert")[0]).to(torch.bfloat16)
    return attach(model, anatomy_of(model), parse(text), seed=3)


def stepped(optimiser: Optimiser) -> list[torch.Tensor]:
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]


def train(attached: Attached, steps: int = STEPS) -> tuple[Attached, Optimiser]:
    """Train as a trial does."""
    batches = [batch_of("bert", seed) for seed in range(steps)]
    hooks = hooks_of(attached)
    schooling = Schooling(steps, batches[:2], lambda model, batch: loss_of(model(**batch[0]).logits, batch[1], 0.0))
    trained = hooks.begin(attached, schooling)
    optimiser = build_optimiser(trained)
    trained.model.train()
    for step, (inputs, labels) in enumerate(batches, start=1):
        loss = hooks.penalised(loss_of(trained.model(**inputs).logits, labels, 0.0))
        optimiser.update(loss, 1.0, lambda step=step: hooks.after_step(step))  # type: ignore[misc]
    return trained, optimiser


@pytest.mark.parametrize("name", TRAINED)
def test_under_a_bfloat16_backbone_every_method_is_stepped_in_float32(name: str) -> None:
    trained, optimiser = train(under_bfloat16(name), steps=3)
    assert {one.dtype for one in stepped(optimiser)} == {torch.float32}
    assert {one.dtype for one in optimiser.tensors} == {torch.float32}
    assert sum(one.numel() for one in stepped(optimiser)) == sum(one.numel() for one in trained.trainable)
    for weight, master in zip(trained.trainable, optimiser.stepped, strict=True):
        assert torch.equal(weight, master.to(weight.dtype))
        assert weight.grad is None
        assert master.grad is None


def test_steps_below_the_last_bit_of_a_weight_add_up() -> None:
    """A bfloat16 weight near 1 has a neighbour at 1 + 2**-7: steps of 1e-3 alone would leave it where it is."""
    weight = nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    optimiser = Optimiser([weight], [{"params": [weight], "lr": 1e-3, "weight_decay": 0.0}])
    for _ in range(20):
        optimiser.update(-weight.sum(), 1.0)
    assert weight.item() == pytest.approx(1.02, abs=2**-8)
    alone = torch.ones(1, dtype=torch.bfloat16)
    for _ in range(20):
        alone += 1e-3
    assert alone.item() == 1


def test_float32_weights_have_no_master() -> None:
    weight = nn.Parameter(torch.ones(1))
    optimiser = Optimiser([weight], [{"params": [weight], "lr": 1e-3}])
    assert optimiser.stepped[0] is weight
    assert not optimiser.tensors


def test_what_a_method_writes_into_its_weights_stays_written() -> None:
    """AdaLoRA takes rank away by setting singular values to 0: the masters must not bring them back."""
    trained, optimiser = train(under_bfloat16("adalora(target_r=2) | lr=0.01"))
    values = [one for name, one in trained.model.named_parameters() if ".lora_E." in name]
    taken = [int((one == 0).sum()) for one in values]
    assert sum(taken) > 0
    masters = {id(weight): master for weight, master in zip(trained.trainable, optimiser.stepped, strict=True)}
    assert [int((masters[id(one)] == 0).sum()) for one in values] == taken


def test_the_gradients_of_the_parts_of_a_step_are_added_up_in_float32() -> None:
    """256 + 1 has no bfloat16: rounded after each part it stays 256."""
    weight = nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))
    optimiser = Optimiser([weight], [{"params": [weight], "lr": 0.0}])
    for at, factor in enumerate((256.0, 1.0, 1.0, 1.0)):
        if at:
            optimiser.gather()
            assert weight.grad is None
        (weight.sum() * factor).backward()
    norm = float(optimiser.descend(1e9))
    assert norm == 259
    assert weight.grad is None
    assert optimiser.stepped[0].grad is None


def test_a_part_that_does_not_reach_a_weight_leaves_what_was_gathered() -> None:
    weight, other = (nn.Parameter(torch.ones(1, dtype=torch.bfloat16)) for _ in range(2))
    optimiser = Optimiser([weight, other], [{"params": [weight, other], "lr": 0.0}])
    (3 * weight.sum()).backward()
    optimiser.gather()
    (4 * other.sum()).backward()
    assert float(optimiser.descend(1e9)) == 5


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("text", ["full", "lora(r=8)@linear"])
def test_the_masters_are_in_the_predicted_memory(text: str, parts: int) -> None:
    model = without_weights("bert").to(torch.bfloat16)
    inputs, labels = batch_of("bert", 0)
    batch, length = inputs["input_ids"].shape
    load = Load(batch * parts, length, batch).divided(parts)
    predicted = predict_step(attach(model, anatomy_of(model), parse(text)), torch.bfloat16, load)
    one = under_bfloat16(text)
    one.model.train()
    optimiser = build_optimiser(one)

    def step() -> None:
        for at in range(parts):
            if at:
                optimiser.gather()
            loss_of(one.model(**inputs).logits, labels, 0.0).backward()
        optimiser.descend(1.0)

    step()
    measured = measure_peak_bytes(one.model, optimiser.tensors, step, torch.device("cpu"))
    assert predicted.peak_bytes == pytest.approx(measured, rel=0.05)
