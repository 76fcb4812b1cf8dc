"""A candidate onto a backbone: parts in their order on a copy that shares the backbone's tensors.

Dropping the copy removes the candidate without a trace. Its state is every tensor that is not the backbone's, by
exact name; building the same candidate again on the same backbone and loading that state gives equal outputs, for
hybrids as for single methods.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.shira.layer import _warn_once_about_module_hooks as _shira_warning
from peft.tuners.supertuning.layer import _warn_once_about_module_hooks as _supertuning_warning
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from evaluators import tuners
from evaluators.backbone import head_of
from evaluators.dropout import set_dropout
from evaluators.from_shapes import (
    freeze_constants,
    is_bare,
    set_residuals_apart,
    shapes_alone,
    takes_residuals,
    without_values,
)
from evaluators.head import free_head, head_wrappers, renew_head
from evaluators.loftq import start_from_residual
from evaluators.model_copies import copy_of
from evaluators.prefix_gates import gate_prefix
from evaluators.prefixes import prefix_lengths, restrict_prefix
from evaluators.quantised_products import untold_of_type
from evaluators.quantization import is_bookkeeping, stored_tensors
from evaluators.task_switch import connect
from evaluators.tuners.shapes import innermost
from search_space.candidate import Candidate, Part
from search_space.carrying import is_per_task, require_several_tasks
from search_space.errors import ExportError, UnsupportedError
from search_space.placement import Anatomy
from search_space.registry import Method, method
from search_space.space import resolve
from search_space.spread import in_one_size

tuners.register()

# peft's SHiRA and FRoD make sparse tensors of places that they chose themselves; torch warns until it is told so.
torch.sparse.check_sparse_tensor_invariants.disable()

_HOLD_LAYERS = (_supertuning_warning, _shira_warning)
"""What peft keeps so as to warn once: every layer that ever ran, and the candidate with it."""

REFUSALS = (ValueError, TypeError, NotImplementedError, RuntimeError, AttributeError, KeyError)
"""What peft raises where a part does not fit a model."""


@dataclass(frozen=True)
class Attached:
    """A candidate on a copy of a backbone.

    Attributes:
        model: Takes `input_ids` and `attention_mask`, gives `.logits` of shape [batch, classes].
        candidate: What is attached.
        parts: Trainable parameters of each part, in order.
        head: Trainable parameters of the task's head.
    """

    model: nn.Module
    candidate: Candidate
    parts: tuple[tuple[nn.Parameter, ...], ...]
    head: tuple[nn.Parameter, ...]

    @property
    def trainable_params(self) -> int:
        """Number of trainable parameters without the head."""
        return sum(parameter.numel() for part in self.parts for parameter in part)

    @property
    def head_params(self) -> int:
        """Number of trainable parameters of the head."""
        return sum(parameter.numel() for parameter in self.head)

    @property
    def trainable(self) -> list[nn.Parameter]:
        """All trainable parameters."""
        return [*(parameter for part in self.parts for parameter in part), *self.head]

    def state(self, shared: frozenset[int]) -> dict[str, Tensor]:
        """Return every tensor that is not the backbone's, by name, on the CPU; one that layers share stands once.

        Args:
            shared: Addresses of the backbone's storages and quantised weights, as `Backbone.storages` has them.
        """
        own: dict[tuple[int, int], tuple[str, Tensor]] = {}
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        for name, tensor in self.model.state_dict().items():
            if id(parameters.get(name)) in shared:
                continue
            storage = next(stored_tensors(tensor)).untyped_storage().data_ptr()
            if tensor.numel() and storage not in shared and not is_bookkeeping(name):
                own.setdefault((storage, tensor.storage_offset()), (name, tensor))
        return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in own.values()}

    def load(self, state: Mapping[str, Tensor], shared: frozenset[int]) -> None:
        """Load a state into this freshly attached candidate.

        Raises:
            ExportError: The state is another candidate's.
        """
        own = {(name, tensor.shape) for name, tensor in self.state(shared).items()}
        if odd := sorted({name for name, _ in own ^ {(name, tensor.shape) for name, tensor in state.items()}}):
            more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
            raise ExportError(f"the saved state does not belong to this candidate: {', '.join(odd[:3])}{more}")
        self.model.load_state_dict(dict(state), strict=False)


def attach(
    model: nn.Module,
    anatomy: Anatomy,
    candidate: Candidate,
    seed: int = 0,
    copied_by: Callable[[nn.Module], nn.Module] = copy_of,
) -> Attached:
    """Attach a candidate to a copy of a frozen classifier; the classifier itself stays as it is.

    What wraps whole layers is attached after what goes inside them, and prompts, which wrap the whole model, come last,
    whatever their place in the order.

    Args:
        model: The frozen classifier, on any device.
        anatomy: What `anatomy_of(model)` found.
        candidate: What to attach.
        seed: Seed of every initial value, the head's included.
        copied_by: Makes the copy.

    Raises:
        UnsupportedError: The model cannot carry it, or two parts cannot share it.
        PlacementError: A placement matches nothing.
    """
    for holds_layers in _HOLD_LAYERS:
        holds_layers.cache_clear()
    copied: Any = copied_by(model)
    copied.config.use_cache = False  # keys and values are kept for texts that go on; a classifier's do not
    heads = head_of(model)
    with torch.random.fork_rng(devices=_cuda_devices()):
        if not is_bare(copied):
            torch.manual_seed(seed)
        renew_head(copied, heads)
        attached, parts, own = _attach_parts(copied, anatomy, candidate)
    connect(attached, copied, own)
    head = free_head(attached, heads)
    set_dropout(copied, candidate.recipe.dropout)
    attached.eval()
    return Attached(attached, candidate, parts, head)


def beside_head(state: Mapping[str, Tensor], heads: Iterable[str]) -> dict[str, Tensor]:
    """Return what a saved state has beside the head, under whatever name peft put it."""
    return {name: one for name, one in state.items() if not is_of_head(name, heads)}


def is_of_head(name: str, heads: Iterable[str]) -> bool:
    """Whether a saved tensor is the head's, by its name, under whatever name peft put it."""
    return name.removeprefix("base_model.").startswith(tuple(f"{head}." for head in heads))


def _attach_parts(
    model: nn.Module, anatomy: Anatomy, candidate: Candidate
) -> tuple[nn.Module, tuple[tuple[nn.Parameter, ...], ...], dict[str, int]]:
    """Attach the parts. Returns the model, each part's parameters, and the adapters of single tasks by name."""
    order = sorted(range(len(candidate.parts)), key=lambda index: _reach(method(candidate.parts[index].method)))
    trained: dict[int, tuple[nn.Parameter, ...]] = {}
    own: dict[str, int] = {}
    for index in order:
        known = {id(parameter) for parameter in model.parameters()}
        part, name = candidate.parts[index], f"part{index}"
        if is_per_task(part):
            own |= {each: task for task, each in enumerate(adapters_of(part, name, anatomy))}
        for each in adapters_of(part, name, anatomy):
            for one in in_one_size(part, anatomy) if method(part.method).route == "inject" else (part,):
                model = _attach_part(model, anatomy, one, each)
        earlier = {id(parameter) for part in trained.values() for parameter in part}
        trained[index] = _new_parameters(model, known, earlier, candidate.parts[index])
    _activate_all(model)
    _keep_type(model)
    _train_only(model, {id(parameter) for part in trained.values() for parameter in part})
    return model, tuple(trained[index] for index in range(len(candidate.parts))), own


def adapters_of(part: Part, name: str, anatomy: Anatomy) -> list[str]:
    """Return the names of a part's adapters: one, or one for each task.

    Raises:
        UnsupportedError: It has one for each task, and there is one task.
    """
    if not is_per_task(part):
        return [name]
    require_several_tasks(part, anatomy)
    return [f"{name}_{task}" for task in range(anatomy.tasks)]


def _reach(rule: Method) -> int:
    """Return how much a method wraps: a module, a layer, or the model."""
    if rule.route == "prompt":
        return 2
    return int(rule.route == "inject" and rule.placement.fixed)


def _train_only(model: nn.Module, trained: set[int]) -> None:
    """Let these parameters have gradients and no others: switching parts on frees what a method keeps as drawn."""
    for parameter in model.parameters():
        if parameter.requires_grad != (id(parameter) in trained):
            parameter.requires_grad_(id(parameter) in trained)


def _keep_type(model: nn.Module) -> None:
    """Let tuner layers over quantised weights give what they take: several of peft's answer in the adapter's type."""
    for module in model.modules():
        weight = getattr(innermost(module), "weight", None) if isinstance(module, BaseTunerLayer) else None
        if weight is not None and type(weight) is not nn.Parameter:
            nn.Module.register_forward_hook(module, _as_given)


def _as_given(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    return output.to(inputs[0].dtype) if isinstance(output, Tensor) and inputs else output


def _activate_all(model: nn.Module) -> None:
    """Let every layer use every part that it holds: peft switches earlier parts of a type off for a later one."""
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.set_adapter(sorted(module._get_available_adapters()))


def _attach_part(model: nn.Module, anatomy: Anatomy, part: Part, name: str) -> nn.Module:
    rule = method(part.method)
    rule.check(part)
    targets = resolve(part, anatomy)
    if rule.route == "head":
        return model
    if rule.route == "full":
        _unshare(model, targets.layers, anatomy)
        return model
    try:
        arguments = rule.config(part, targets)
        changed = inject(model, part, arguments, name)
        if isinstance(changed, PeftModel) and "num_layers" in arguments:
            restrict_prefix(changed, prefix_lengths(part, targets.layers), anatomy)
        if rule.gated:
            gate_prefix(changed, targets.layers, anatomy)
        return changed
    except REFUSALS as error:
        raise UnsupportedError(f"{part.method} cannot be attached to {anatomy.architecture}: {error}") from error


def inject(model: nn.Module, part: Part, arguments: Mapping[str, Any], name: str) -> nn.Module:
    """Put one part into a model, or around it, and return what has it.

    Args:
        model: What is changed.
        part: A part of a method that has a type of peft's.
        arguments: Of the configuration of that type.
        name: Of the adapter.

    Raises:
        ValueError, TypeError, NotImplementedError, RuntimeError, AttributeError, KeyError: peft refuses.
    """
    rule = method(part.method)
    config_class = PEFT_TYPE_TO_CONFIG_MAPPING[rule.peft_type]
    model.__dict__.pop("peft_config", None)  # left by the part before; a tuner reads all of them as its own type's
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns of what is meant here: several adapters on one model
        if rule.route == "prompt":
            with shapes_alone(model, rule.peft_type):
                return get_peft_model(model, config_class(task_type="SEQ_CLS", **arguments), adapter_name=name)
        # What peft's inject_adapter_in_model does, without its refusal of tuners that keep shared tensors: their
        # layers hold them too.
        config = config_class(**arguments)
        residuals = takes_residuals(model, config)
        if rule.rewrites and not residuals:
            own_weights(model, arguments["target_modules"])
        with shapes_alone(model, rule.peft_type), untold_of_type(model, rule.peft_type):
            config = without_values(model, config)
            taken = {name: config} if config.is_adaption_prompt else config
            changed: nn.Module = PEFT_TYPE_TO_TUNER_MAPPING[rule.peft_type](model, taken, name).model
        if residuals:
            set_residuals_apart(changed, name)
        freeze_constants(changed)
        _freeze(changed, tuple(f".{container}.{name}" for container in rule.frozen))
        if rule.quantised_only:
            start_from_residual(changed, name)
        return changed


def own_weights(model: nn.Module, names: Iterable[str]) -> None:
    """Give modules weights of their own, which may then be written into.

    Quantised ones are the backbone's very parameters, which peft puts new ones in the place of: they stay as they are.
    """
    for name in names:
        weight: Any = innermost(model.get_submodule(name)).weight
        if type(weight) is nn.Parameter:
            weight.data = weight.data.clone()


def _freeze(model: nn.Module, words: tuple[str, ...]) -> None:
    """Freeze what a method keeps as it was drawn, by words in the names."""
    for path, parameter in model.named_parameters() if words else ():
        if any(word in path for word in words):
            parameter.requires_grad_(False)


def _new_parameters(model: nn.Module, known: set[int], earlier: set[int], part: Part) -> tuple[nn.Parameter, ...]:
    """Return the trainable parameters that a part brought, without copies of the head that peft made.

    Args:
        model: What the part is attached to.
        known: Parameters that were there before it.
        earlier: Those that parts before it train.
        part: The part.
    """
    copies = {id(p) for wrapper in head_wrappers(model) for p in wrapper.parameters()}
    if method(part.method).route == "full":
        return tuple(
            parameter
            for parameter in model.parameters()
            if parameter.requires_grad and id(parameter) in known and id(parameter) not in earlier
        )
    return tuple(
        parameter
        for parameter in model.parameters()
        if parameter.requires_grad and id(parameter) not in known and id(parameter) not in copies
    )


def _unshare(model: nn.Module, layers: tuple[int, ...], anatomy: Anatomy) -> None:
    """Give the base model's parameters tensors of their own: all of them, or those of some layers."""
    everything = len(layers) == anatomy.n_layers
    prefixes = tuple(f"{block.name}." for block in anatomy.blocks if block.layer in layers)
    heads = tuple(f"{name}." for name in head_of(model))
    for name, parameter in model.named_parameters():
        inside = not name.startswith(heads) if everything else name.startswith(prefixes)
        if inside:
            parameter.data = parameter.data.clone()
            parameter.requires_grad_(True)


def _cuda_devices() -> list[int]:
    return list(range(torch.cuda.device_count()))
