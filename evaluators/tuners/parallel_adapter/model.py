"""The model of parallel bottleneck adapters."""

from __future__ import annotations

from torch import nn

from evaluators.tuners.parallel_adapter.config import ParallelAdapterConfig
from evaluators.tuners.parallel_adapter.layer import ParallelAdapterLayer
from evaluators.tuners.shapes import block_widths, innermost
from evaluators.tuners.streams import InputTap
from evaluators.tuners.wrapping import Site, WrappingTuner, require_known


class ParallelAdapterModel(WrappingTuner):
    """Parallel adapters: a bottleneck beside each target, which starts as zero.

    He et al. 2022 (https://arxiv.org/abs/2110.04366) put a scaled one (s = 4) beside the feed-forward blocks; their
    MAM adapter adds prefix tuning. A target is a linear module or a whole block; of a block's output the hidden
    states are changed. Trainable parameters per target: r(d_in + d_out) + r + d_out. It is nonlinear, so it
    never merges.
    """

    prefix = "parallel_adapter_"
    tuner_layer_cls = ParallelAdapterLayer

    def check_target(self, peft_config: ParallelAdapterConfig, name: str, target: nn.Module) -> None:
        """Accept what has a linear module in it, and an input module that is there."""
        block_widths(target, name)
        source = peft_config.input_modules.get(name)
        if source is not None:
            modules = dict(self.model.named_modules())
            require_known(source, modules)
            block_widths(modules[source], source)

    def modules_to_wrap(self, peft_config: ParallelAdapterConfig) -> list[str]:
        """Return the targets and the modules whose inputs they read."""
        return [*peft_config.target_modules, *peft_config.input_modules.values()]

    def site(self, peft_config: ParallelAdapterConfig, name: str) -> Site:
        """Return the place of an adapter, with the width of what it reads."""
        source = peft_config.input_modules.get(name)
        width = None if source is None else block_widths(self.model.get_submodule(source), source)[0]
        return Site(name, self.shared, width)

    def _create_and_replace(
        self,
        peft_config: ParallelAdapterConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        for reader, source in peft_config.input_modules.items():
            if source == current_key:
                target = self._tap(peft_config, adapter_name, target, reader)
                setattr(innermost(parent), target_name, target)
        if current_key in peft_config.target_modules:
            super()._create_and_replace(
                peft_config, adapter_name, target, target_name, parent, current_key, parameter_name
            )

    def _tap(self, peft_config: ParallelAdapterConfig, adapter_name: str, target: nn.Module, reader: str) -> nn.Module:
        site = Site(reader, self.shared)
        if isinstance(target, InputTap):
            target.add_adapter(adapter_name, peft_config, site)
            return target
        return InputTap(target, adapter_name, peft_config, site)
