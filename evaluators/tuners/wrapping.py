"""What every tuner of ours shares: a configuration with listed targets, a wrapping layer, an injecting model.

peft's contract for a tuner is a layer that mixes in `BaseTunerLayer` and a model that derives from
`BaseTuner`. Ours add four promises:

- Placement is a list of full module names, matched exactly; a name that is not there is an error.
- No tensor of the wrapped module is ever written to: backbones share their tensors between models.
- Adapter parameters are float32, on the device of the wrapped module, whatever its dtype.
- Injection works on the `meta` device, so that parameters can be counted without memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from peft import PeftConfig
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import PeftType
from torch import Tensor, nn

from evaluators.tuners.shapes import device_of, innermost, output_width
from evaluators.tuners.sharing import Holder, Shared, repeated_keys
from search_space.errors import CandidateError, PlacementError, UnsupportedError, did_you_mean, one_of


@dataclass
class WrappingConfig(PeftConfig):
    """Configuration of a tuner whose placement is a list of full module names.

    Attributes:
        target_modules: Full names of the modules to wrap, as `named_modules()` of the backbone gives them.
            Neither suffixes nor patterns.
        modules_to_save: Names of modules outside the adapter that are trained and saved with it (the head).
    """

    METHOD: ClassVar[str]
    trainable_token_indices: ClassVar[dict[str, list[int]]] = {}
    """None are trained. Saying so keeps peft from saving the backbone's `lm_head` beside an adapter on it."""

    target_modules: list[str] = field(default_factory=list)
    modules_to_save: list[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType(self.METHOD.upper())
        self.target_modules = _checked_names(self.METHOD, self.target_modules)


def _checked_names(method: str, names: object) -> list[str]:
    if isinstance(names, str):
        raise PlacementError(
            f"{method}: target_modules is the string {names!r}, which peft would read as a regular "
            "expression; give a list of full module names"
        )
    if not isinstance(names, (list, tuple, set, frozenset)) or not all(
        isinstance(name, str) and name for name in names
    ):
        raise PlacementError(f"{method}: target_modules must be a list of full module names, not {names!r}")
    if not names:
        raise PlacementError(f"{method}: target_modules is empty; give at least one full module name")
    ordered = sorted(names) if isinstance(names, (set, frozenset)) else names
    return list(dict.fromkeys(ordered))


def require_positive(method: str, **knobs: int | float) -> None:
    """Refuse knobs that are not above zero.

    Raises:
        CandidateError: A knob is zero, negative or NaN.
    """
    for name, value in knobs.items():
        if isinstance(value, bool) or not value > 0:
            raise CandidateError(f"{method}: {name} must be above 0, not {value!r}")


def require_one_of(method: str, name: str, value: str, allowed: Iterable[str]) -> None:
    """Refuse a word that is not among the allowed ones.

    Raises:
        CandidateError: The word is not allowed.
    """
    words = list(allowed)
    if value not in words:
        raise CandidateError(
            f"{method}: {name} must be one of {one_of(words)}, not {value!r}{did_you_mean(value, words)}"
        )


@dataclass(frozen=True)
class Site:
    """Where one adapter goes.

    Attributes:
        name: Full name of the wrapped module.
        shared: What all layers of this adapter share.
        input_width: Width of what the adapter reads, when that is not the wrapped module's own input.
    """

    name: str
    shared: Shared
    input_width: int | None = None


class WrappingLayer(nn.Module, BaseTunerLayer):
    """A module that stands in the place of another one and changes what it computes.

    A subclass names its containers in `adapter_layer_names` and fills them in `add_adapter`; each is an
    `nn.ModuleDict` or `nn.ParameterDict` keyed by adapter name, as peft's state dict functions expect.
    Attributes that are not found here are looked up on the wrapped module, because model code reads them.

    Attributes:
        told_tasks: Whether the layer is told which task a batch is of, as `task_ids` in its `__dict__`.
    """

    told_tasks: ClassVar[bool] = False

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: Any, site: Site) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.training = self.get_base_layer().training
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._active_adapter = adapter_name
        self.ties: list[tuple[Holder, Holder]] = []
        self._make_containers()
        self.update_layer(adapter_name, config, site)

    def _make_containers(self) -> None:
        """Create the empty containers that `adapter_layer_names` names."""
        raise NotImplementedError

    def add_adapter(self, adapter_name: str, config: Any, site: Site) -> None:
        """Create this adapter's parameters in the containers, on `self.adapter_device`, in float32."""
        raise NotImplementedError

    def adapt(self, adapter_names: list[str], *args: Any, **kwargs: Any) -> Any:
        """Compute the adapted output with these adapters, none of which is merged."""
        raise NotImplementedError

    def update_layer(self, adapter_name: str, config: Any, site: Site) -> None:
        """Add an adapter to this layer, with the training state that peft expects."""
        self.add_adapter(adapter_name, config, site)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    @property
    def adapter_device(self) -> torch.device:
        """Device on which new adapter parameters belong: that of the wrapped module."""
        return device_of(self.get_base_layer())

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the wrapped module's output, adapted by the active adapters."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        pending = [] if self.disable_adapters else self._adapters_to_apply()
        if not pending:
            return self.base_layer(*args, **kwargs)
        return self.adapt(pending, *args, **kwargs)

    def _adapters_to_apply(self) -> list[str]:
        present = self._get_available_adapters()
        return [name for name in self.active_adapters if name in present and name not in self.merged_adapters]

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refuse to merge: `check_merge` says why."""
        self.check_merge()

    def check_merge(self) -> None:
        """Refuse to merge: a nonlinear adapter has no equivalent in the wrapped module's weights.

        Raises:
            UnsupportedError: Always, here. Layers that can merge derive from `MergingLayer`.
        """
        raise UnsupportedError(
            f"{type(self).__name__} cannot be merged: what it computes is not a change of the backbone's "
            "weights; serve the backbone with the adapter attached (PeftModel.from_pretrained)"
        )

    def unmerge(self) -> None:
        """Do nothing: an adapter that never merges is never merged."""

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        """Move the adapter, and leave its dtype alone: peft would cast it to that of the wrapped module."""
        for name in (*self.adapter_layer_names, *self.other_param_names):
            container: Any = getattr(self, name)
            if (
                not isinstance(container, (nn.ModuleDict, nn.ParameterDict, BufferDict))
                or adapter_name not in container
            ):
                continue
            if not any(tensor.is_meta for tensor in (*container.parameters(), *container.buffers())):
                container.to(device or self.adapter_device)

    def delete_adapter(self, adapter_name: str) -> None:
        """Delete an adapter from this layer, and forget what it shared."""
        self.ties = [tie for tie in self.ties if adapter_name not in tie[0].path.split(".")]
        super().delete_adapter(adapter_name)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer" or name.startswith("__"):
                raise
            return getattr(super().__getattr__("base_layer"), name)


class WrappingTuner(BaseTuner):
    """Replaces each listed module by a `WrappingLayer` around it."""

    tuner_layer_cls: type[WrappingLayer]
    target_module_mapping: dict[str, list[str]] = {}

    def check_targets(self, peft_config: Any, model: nn.Module) -> None:
        """Check every target before the first is replaced, so that a refusal leaves the model as it was."""
        modules = dict(model.named_modules())
        for name in peft_config.target_modules:
            require_known(name, modules)
            self.check_target(peft_config, name, modules[name])

    def check_target(self, peft_config: Any, name: str, target: nn.Module) -> None:
        """Refuse a module that cannot be wrapped; here, all but linear modules and norms.

        Raises:
            UnsupportedError: The module is not of a kind that this tuner adapts.
        """
        output_width(target, name)

    def modules_to_wrap(self, peft_config: Any) -> list[str]:
        """Return the full names of the modules to wrap; the targets, unless a tuner needs more or others."""
        return list(peft_config.target_modules)

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Inject as peft does, and keep the placement as it was given.

        From twenty names on, peft condenses `target_modules` to the shortest suffixes that match the same
        modules. Names that are matched exactly must not be condensed.
        """
        config: Any = self.peft_config[adapter_name]
        names = list(config.target_modules)
        self.check_targets(config, model)
        config.__dict__["exact_names"] = frozenset(self.modules_to_wrap(config))
        self.__dict__["shared_by_layers"] = Shared()
        try:
            super().inject_adapter(model, adapter_name, *args, **kwargs)
        finally:
            config.target_modules = names

    @staticmethod
    def _check_target_module_exists(peft_config: Any, key: str) -> bool:
        return key in peft_config.__dict__["exact_names"]

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        site = self.site(peft_config, current_key)
        if isinstance(target, self.tuner_layer_cls):
            target.update_layer(adapter_name, peft_config, site)
            return
        layer = self.wrap(peft_config, adapter_name, target, site)
        if adapter_name not in self.active_adapters:
            for container in layer.adapter_layer_names:
                getattr(layer, container).requires_grad_(False)
        setattr(innermost(parent), target_name, layer)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        """Put a module in its place; ours are on the right device already, and some have no weight to go by."""
        setattr(innermost(parent), child_name, new_module)

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Unload as peft does, and then what was inside the blocks that were unloaded."""
        model: nn.Module = super()._unload_and_optionally_merge(*args, **kwargs)
        while any(isinstance(module, BaseTunerLayer) for module in model.modules()):
            model = super()._unload_and_optionally_merge(*args, **kwargs)
        return model

    @property
    def shared(self) -> Shared:
        """What the layers of the adapter that is being injected share."""
        shared: Shared = self.__dict__["shared_by_layers"]
        return shared

    def site(self, peft_config: Any, name: str) -> Site:
        """Return the place of an adapter."""
        return Site(name, self.shared)

    def wrap(self, peft_config: Any, adapter_name: str, target: nn.Module, site: Site) -> WrappingLayer:
        """Return the layer that takes this module's place."""
        return self.tuner_layer_cls(target, adapter_name, peft_config, site)

    @classmethod
    def _get_adapter_state_dict(cls, model: nn.Module, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return the adapter's tensors, one that layers share only once."""
        repeated = repeated_keys(model)
        state = super()._get_adapter_state_dict(model, *args, **kwargs)
        return {key: tensor for key, tensor in state.items() if key not in repeated}

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        """Translate a name in the model to the name in the file, also where a container holds whole blocks."""
        for container in cls.tuner_layer_cls.adapter_layer_names:
            before, found, after = key.partition(f".{container}.{adapter_name}.")
            if found:
                return f"{before}.{container}.{after}"
        translated: str = super()._remove_adapter_name_from_key(key, adapter_name)
        return translated

    @classmethod
    def _remap_adapter_state_dict_for_load(cls, model: nn.Module, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return the state under the names of this model, a shared tensor under all of its names."""
        state = super()._remap_adapter_state_dict_for_load(model, *args, **kwargs)
        repeats = {later: state[first] for later, first in repeated_keys(model).items() if first in state}
        return {**state, **repeats}

    def _check_merge_allowed(self) -> None:
        """Ask every layer before the first one is merged, so that a refusal leaves the model as it was."""
        super()._check_merge_allowed()
        for module in self.model.modules():
            if isinstance(module, WrappingLayer):
                module.check_merge()


def require_known(name: str, modules: Mapping[str, nn.Module]) -> None:
    """Refuse the name of a module that is not in the backbone, or no longer by this name.

    Raises:
        PlacementError: It is not there.
    """
    if name in modules:
        return
    nested = [key for key in modules if key.replace(".base_layer", "") == name]
    if nested:
        raise PlacementError(
            f"target module {name!r} is inside a module that another adapter wraps (it is {nested[0]!r} "
            "now): attach the inner part first"
        )
    raise PlacementError(f"target module {name!r} is not in the backbone{did_you_mean(name, modules)}")


def cast_like(x: Tensor, reference: Tensor) -> Tensor:
    """Return `x` in the dtype of `reference`."""
    return x if x.dtype == reference.dtype else x.to(reference.dtype)
