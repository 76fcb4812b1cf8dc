"""Peak memory of a training step: predicted before anything is trained, and measured after.

Both count the same thing: bytes of tensors alive at once, namely weights, what the forward pass keeps, gradients,
optimiser state and temporaries, without the interpreter and the libraries. The prediction runs the step with fake
CPU tensors, which have shapes but no memory; the measurement reads the allocator. On CUDA the real peak adds the
context, workspaces, rounding and fragmentation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor, nn

from evaluators.attach import Attached
from evaluators.backbone import checkpoint_activations
from evaluators.device_memory import WORKSPACE_BYTES, tensor_bytes
from evaluators.fake_tensors import fake_tensors
from evaluators.hooks import hooks_of
from evaluators.live_bytes import LiveBytes, allocated_peak
from evaluators.optimisation import build_optimiser, loss_of
from evaluators.quantization import stored_tensors
from evaluators.task_switch import tasks_of


@dataclass(frozen=True)
class Load:
    """The shape of a step.

    Attributes:
        batch: Examples of a training step.
        length: Tokens of the longest example of a training step.
        evaluation_batch: Examples of a forward pass without gradients.
        checkpointing: Whether activations are computed again for the way back.
        accumulated: Whether a step is divided into parts, so that gradients are there before the last of them.
        evaluation_length: Tokens of the longest example of a forward pass without gradients; `length` when None.
        device: `cpu`, or another, where what a CPU's library copies for its products does not count.
    """

    batch: int
    length: int
    evaluation_batch: int
    checkpointing: bool = False
    accumulated: bool = False
    evaluation_length: int | None = None
    device: str = "cpu"

    @property
    def evaluated(self) -> tuple[int, int]:
        """Examples and tokens of each in a forward pass without gradients."""
        return self.evaluation_batch, self.evaluation_length or self.length

    def divided(self, parts: int) -> Load:
        """Return the load of one of the parts of a step."""
        return replace(self, batch=-(-self.batch // parts), accumulated=True) if parts > 1 else self


@dataclass(frozen=True)
class StepCost:
    """What a step of a candidate costs.

    Attributes:
        peak_bytes: Most bytes of tensors in a training step.
        inference_bytes: Most bytes of tensors in a forward pass without gradients.
        forward_flops: Operations of a token's way up.
        training_flops: Operations of a token's way up and down.
    """

    peak_bytes: int
    inference_bytes: int
    forward_flops: float
    training_flops: float


def predict_step(attached: Attached, dtype: torch.dtype, load: Load) -> StepCost:
    """Predict what a step costs by running it whole: exact and slow, for what does not add up layer by layer.

    Args:
        attached: A candidate attached to a model on the `meta` device. It is used up: its tensors become fake ones.
        dtype: Type of the frozen weights.
        load: The shape of the step.
    """
    with fake_tensors():
        attached = with_fake_tensors(attached, dtype)
        hooks = hooks_of(attached)
        hooks.assume()
        inference, forward_flops = _forward(attached.model, load)
        live = counting(attached.model, load)
        attached.model.train()
        if load.checkpointing:
            checkpoint_activations(attached.model)
        labels = torch.zeros((load.batch,), dtype=torch.long)
        with live:
            optimiser = build_optimiser(attached)
            for _ in range(2):  # the second step has the optimiser's state from its start
                if load.accumulated:
                    give_gradients(optimiser.stepped)
                logits = attached.model(**inputs_of(attached.model, load.batch, load.length)).logits
                optimiser.update(hooks.penalised(loss_of(logits, labels, 0.0)), 1.0)
                del logits
    tokens = load.batch * load.length
    return StepCost(live.peak, inference, forward_flops / prod(load.evaluated), live.flops / tokens / 2)


def _forward(model: nn.Module, load: Load) -> tuple[int, int]:
    """Return the peak bytes and the operations of a forward pass without gradients."""
    live = counting(model, load)
    model.eval()
    with torch.no_grad(), live:
        model(**inputs_of(model, *load.evaluated))
    return live.peak, live.flops


def give_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Stand as after an earlier part of a step: the gradients are there."""
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)


def counting(model: nn.Module, load: Load) -> LiveBytes:
    """Return a count that begins with a model's tensors."""
    live = LiveBytes(on_cpu=load.device == "cpu")
    for tensor in tensors_of(model):
        live.add(tensor)
    return live


def inputs_of(model: nn.Module, batch: int, length: int) -> dict[str, Tensor]:
    """Return the inputs of a model's step."""
    ids = torch.zeros((batch, length), dtype=torch.long)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return inputs | {"task_ids": torch.zeros(batch, dtype=torch.long)} if tasks_of(model) > 1 else inputs


def measure_peak_bytes(
    model: nn.Module, state: Iterable[Tensor], step: Callable[[], object], device: torch.device
) -> int:
    """Measure the peak bytes of one training step by the allocator's own count.

    On CUDA it is read from what is reserved, so that the room between tensors that nothing fits into counts, and freed
    of what is not tensors (`device_memory`) and of what is there beside this candidate: others, and the weights that
    it has its own copy of.

    Args:
        model: What is trained.
        state: Tensors of the optimiser.
        step: Does one whole step; gradients must not exist before.
        device: Where.
    """
    standing = storage_bytes((*tensors_of(model), *state))
    if device.type == "cuda":
        return _peak_on_cuda(step, device, standing)
    return standing + allocated_peak(step)


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes that tensors take together; a storage that several share counts once."""
    held = (one.untyped_storage() for one in tensors)
    return sum({one.data_ptr(): one.nbytes() for one in held}.values())


def _peak_on_cuda(step: Callable[[], object], device: torch.device, own: int) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()  # what earlier steps reserved and nothing uses is no part of this one
    torch.cuda.reset_peak_memory_stats(device)
    others = max(0, torch.cuda.memory_allocated(device) - WORKSPACE_BYTES - own)
    step()
    torch.cuda.synchronize(device)
    reserved, allocated = torch.cuda.max_memory_reserved(device), torch.cuda.max_memory_allocated(device)
    return int(max(tensor_bytes(reserved), allocated - WORKSPACE_BYTES)) - others


def with_fake_tensors(attached: Attached, dtype: torch.dtype) -> Attached:
    """Put fake CPU tensors in the place of the meta ones; frozen floats get the backbone's type."""
    twins: dict[int, nn.Parameter] = {}

    def twin(parameter: nn.Parameter) -> nn.Parameter:
        if id(parameter) not in twins:
            frozen = not parameter.requires_grad and parameter.is_floating_point()
            tensor = torch.empty(parameter.shape, dtype=dtype if frozen else parameter.dtype)
            twins[id(parameter)] = nn.Parameter(tensor, requires_grad=parameter.requires_grad)
        return twins[id(parameter)]

    for module in attached.model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = twin(parameter)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
    parts = tuple(tuple(twin(parameter) for parameter in part) for part in attached.parts)
    return Attached(attached.model, attached.candidate, parts, tuple(twin(parameter) for parameter in attached.head))


def tensors_of(model: nn.Module) -> Iterable[Tensor]:
    """Yield a model's parameters and buffers, and what quantised ones are made of."""
    for tensor in (*model.parameters(), *model.buffers()):
        yield from stored_tensors(tensor)
