"""The model of full fine-tuning."""

from __future__ import annotations

from typing import Any

from torch import nn

from evaluators.tuners.full.config import FullConfig
from evaluators.tuners.full.layer import FullLayer
from evaluators.tuners.shapes import backbone_modules, innermost
from evaluators.tuners.weights import is_plain
from evaluators.tuners.wrapping import WrappingTuner, require_known
from search_space.errors import UnsupportedError


class FullModel(WrappingTuner):
    """Full fine-tuning of the targets, without a write to the backbone's tensors.

    Every module in a target that holds parameters gets trained copies of them. Trainable parameters: those of the
    targets, tied ones once. The state is the full weights. It merges exactly, ties included.
    """

    prefix = "full_tuning_"
    tuner_layer_cls = FullLayer

    def check_target(self, peft_config: FullConfig, name: str, target: nn.Module) -> None:
        """Accept whatever holds parameters, all of them floating-point."""
        parameters = [p for _, module in backbone_modules(target) for p in module.parameters(recurse=False)]
        if not parameters:
            raise UnsupportedError(f"module {name!r} has no parameters to train")
        if not all(is_plain(parameter) for parameter in parameters):
            raise UnsupportedError(f"module {name!r} has quantised parameters, which cannot be trained")

    def modules_to_wrap(self, peft_config: FullConfig) -> list[str]:
        """Return the modules in the targets that hold parameters themselves.

        Raises:
            PlacementError: One of them is inside a block that another adapter wraps.
        """
        names: dict[str, None] = {}
        known = dict(self.model.named_modules())
        for target in peft_config.target_modules:
            for name, module in backbone_modules(self.model.get_submodule(target), target):
                if next(innermost(module).parameters(recurse=False), None) is not None:
                    require_known(name, known)
                    names[name] = None
        return list(names)

    def _check_tied_modules(self, model: nn.Module, peft_config: Any) -> None:
        """Accept tied embeddings, of which peft warns: their copies are tied too."""

    def _get_tied_target_modules(self, model: nn.Module) -> list[str]:
        return []
