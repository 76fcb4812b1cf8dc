"""The layer of full fine-tuning."""

from __future__ import annotations

from functools import partial
from typing import cast

import torch
from torch import nn

from evaluators.tuners.full.config import FullConfig
from evaluators.tuners.merging import Deltas, sharing_copy
from evaluators.tuners.weights import WeightLayer
from evaluators.tuners.wrapping import Site


class FullLayer(WeightLayer):
    """y = base(x) computed with trained copies of the module's own parameters, which start as those of the base.

    Copies are float32 whatever the base is, and used in its dtype: master weights, as mixed precision has them.
    Modules that share a parameter in the backbone (tied embeddings) share its copy.
    """

    adapter_layer_names = ("full_tuning_parameters",)
    other_param_names = ("full_tuning_site", "full_tuning_sources")

    def _make_containers(self) -> None:
        self.full_tuning_parameters = nn.ModuleDict()
        self.full_tuning_site: dict[str, Site] = {}
        self.full_tuning_sources: dict[str, dict[str, nn.Parameter]] = {}

    def add_adapter(self, adapter_name: str, config: FullConfig, site: Site) -> None:
        """Copy the parameters that the module itself holds; those of its submodules are theirs to copy."""
        copies = nn.ParameterDict()
        self.full_tuning_parameters[adapter_name] = copies
        self.full_tuning_site[adapter_name] = site
        sources = dict(self.get_base_layer().named_parameters(recurse=False))
        self.full_tuning_sources[adapter_name] = sources
        for name, parameter in sources.items():
            copies[name] = site.shared.parameter(id(parameter), partial(_copy, parameter))
            site.shared.hold(id(parameter), self, f"full_tuning_parameters.{adapter_name}.{name}")

    def deltas(self, adapter_name: str) -> Deltas:
        """Return the trained parameters less those of the base."""
        base, copies = self.get_base_layer(), self._copies(adapter_name)
        return {name: copy - base.get_parameter(name).to(copy.dtype) for name, copy in copies.items()}

    def _changed(self, adapter_names: list[str]) -> dict[str, torch.Tensor]:
        if len(adapter_names) > 1:
            return super()._changed(adapter_names)
        base, copies = self.get_base_layer(), self._copies(adapter_names[0])
        return {name: copy.to(base.get_parameter(name).dtype) for name, copy in copies.items()}

    def merged_into(self, module: nn.Module, adapter_name: str) -> nn.Module:
        """Return a copy of the module with the trained parameters, exactly; where others were merged, with the sum."""
        sources = self.full_tuning_sources[adapter_name]
        if any(module.get_parameter(name) is not source for name, source in sources.items()):
            return super().merged_into(module, adapter_name)
        result, merged = sharing_copy(module), self.full_tuning_site[adapter_name].shared.merged
        for name, copy in self._copies(adapter_name).items():
            if copy not in merged:
                trained = copy.detach().to(sources[name].dtype, copy=True)
                merged[copy] = nn.Parameter(trained, requires_grad=False)
            result._parameters[name] = merged[copy]
        return result

    def _copies(self, adapter_name: str) -> dict[str, nn.Parameter]:
        return dict(cast(nn.ParameterDict, self.full_tuning_parameters[adapter_name]).items())

    def _unmerge_one(self, name: str) -> None:
        super()._unmerge_one(name)
        for copy in self._copies(name).values():
            self.full_tuning_site[name].shared.merged.pop(copy, None)


def _copy(source: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(source.detach().to(torch.float32, copy=True))
