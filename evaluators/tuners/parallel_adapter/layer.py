"""The layer of parallel bottleneck adapters."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from evaluators.tuners.bottleneck import bottleneck, down_projection, up_projection
from evaluators.tuners.parallel_adapter.config import ParallelAdapterConfig
from evaluators.tuners.shapes import block_widths
from evaluators.tuners.streams import first_input, with_first_output
from evaluators.tuners.wrapping import Site, WrappingLayer


class ParallelAdapterLayer(WrappingLayer):
    """y = base(x) + s W_up f(W_down x) (He et al. 2022, table 1; scaled when s is not 1)."""

    adapter_layer_names = ("parallel_adapter_down", "parallel_adapter_up")
    other_param_names = ("parallel_adapter_config", "parallel_adapter_site")

    def _make_containers(self) -> None:
        self.parallel_adapter_down = nn.ModuleDict()
        self.parallel_adapter_up = nn.ModuleDict()
        self.parallel_adapter_config: dict[str, ParallelAdapterConfig] = {}
        self.parallel_adapter_site: dict[str, Site] = {}

    def add_adapter(self, adapter_name: str, config: ParallelAdapterConfig, site: Site) -> None:
        """Create W_down, as wide as what the adapter reads, and W_up, as wide as what it adds to."""
        width, device = site.input_width or block_widths(self, site.name)[0], self.adapter_device
        self.parallel_adapter_down[adapter_name] = down_projection(width, config.r, device)
        self.parallel_adapter_up[adapter_name] = up_projection(config.r, block_widths(self, site.name)[1], device)
        self.parallel_adapter_config[adapter_name] = config
        self.parallel_adapter_site[adapter_name] = site

    def adapt(self, adapter_names: list[str], *args: Any, **kwargs: Any) -> Any:
        """Run the wrapped module and add what every adapter makes of the input."""
        added = [self._bottleneck(name, self._input_of(name, args, kwargs)) for name in adapter_names]
        return with_first_output(self.base_layer(*args, **kwargs), lambda hidden: sum(added, hidden))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the adapted output, and let go of the tensors that taps put on the board."""
        output = super().forward(*args, **kwargs)
        for site in self.parallel_adapter_site.values():
            site.shared.board.pop(site.name, None)
        return output

    def _input_of(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        site = self.parallel_adapter_site[name]
        tapped: Tensor | None = site.shared.board.get(site.name)
        return first_input(args, kwargs) if tapped is None else tapped

    def _bottleneck(self, name: str, x: Tensor) -> Tensor:
        config = self.parallel_adapter_config[name]
        down, up = self.parallel_adapter_down[name], self.parallel_adapter_up[name]
        return config.scaling * bottleneck(x, down, config.activation, up)
