"""The layer of ladder side-tuning."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from evaluators.tuners.bottleneck import down_projection, up_projection
from evaluators.tuners.lst.config import LstConfig
from evaluators.tuners.lst.side import SideBlock, Visibility, visibility_of
from evaluators.tuners.shapes import block_widths
from evaluators.tuners.streams import first_input, first_output, with_first_output
from evaluators.tuners.wrapping import Site, WrappingLayer


class LstLayer(WrappingLayer):
    """One rung of the ladder (Sung et al. 2022, section 3.2).

    s_i = block_i(m_i s_(i-1) + (1 - m_i) D_i h_i) with m_i = sigmoid(a_i / T), where h_i is the output of the
    backbone's layer i and s_0 = D_0 h_0 is made of the first layer's input. After the last layer the hidden states
    become h_N + U LN(s_N), with U = 0 at the start.
    """

    adapter_layer_names = (
        "lst_first",
        "lst_down",
        "lst_gate",
        "lst_block",
        "lst_norm",
        "lst_up",
    )
    other_param_names = ("lst_config", "lst_site")

    def _make_containers(self) -> None:
        self.lst_first, self.lst_down, self.lst_block = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        self.lst_norm, self.lst_up, self.lst_gate = nn.ModuleDict(), nn.ModuleDict(), nn.ParameterDict()
        self.lst_config: dict[str, LstConfig] = {}
        self.lst_site: dict[str, Site] = {}

    @property
    def comes_back(self) -> bool:
        """Whether a side network joins the backbone here. Elsewhere the layer gives what it gives without a rung."""
        return bool(self.lst_up)

    def add_adapter(self, adapter_name: str, config: LstConfig, site: Site) -> None:
        """Create this rung: ladder, gate and block; for the first also D_0, for the last also the way back."""
        hidden, device, ladder = block_widths(self, site.name)[1], self.adapter_device, config.ladder(site.name)
        width = hidden // config.reduction
        self.lst_config[adapter_name], self.lst_site[adapter_name] = config, site
        if site.name == ladder[0]:
            self.lst_first[adapter_name] = down_projection(hidden, width, device)
        self.lst_down[adapter_name] = down_projection(hidden, width, device)
        self.lst_gate[adapter_name] = nn.Parameter(torch.zeros(1, device=device, dtype=torch.float32))
        heads = config.heads if config.side_block == "transformer" else None
        self.lst_block[adapter_name] = SideBlock(width, heads, device)
        if site.name == ladder[-1]:
            self.lst_norm[adapter_name] = nn.LayerNorm(width, device=device, dtype=torch.float32)
            self.lst_up[adapter_name] = up_projection(width, hidden, device)

    def adapt(self, adapter_names: list[str], *args: Any, **kwargs: Any) -> Any:
        """Run the backbone's layer, then this rung of every ladder."""
        sees = {name: self._visibility(name, args, kwargs) for name in adapter_names}
        for name in adapter_names:
            if name in self.lst_first:
                self._pass_on(name, self.lst_first[name](_tapped(first_input(args, kwargs))))
        output = self.base_layer(*args, **kwargs)
        for name in adapter_names:
            side = self._climb(name, first_output(output), sees[name])
            if name in self.lst_up:
                output = with_first_output(output, partial(torch.add, self.lst_up[name](self.lst_norm[name](side))))
            else:
                self._pass_on(name, side)
        return output

    def _climb(self, name: str, hidden: Tensor, visibility: Visibility) -> Tensor:
        below = self.lst_site[name].shared.board.pop(self._ladder(name))
        kept = torch.sigmoid(self.lst_gate[name] / self.lst_config[name].temperature)
        mixed = kept * below + (1 - kept) * self.lst_down[name](_tapped(hidden))
        climbed: Tensor = self.lst_block[name](mixed, visibility)
        return climbed

    def _pass_on(self, name: str, side: Tensor) -> None:
        self.lst_site[name].shared.board[self._ladder(name)] = side

    def _ladder(self, name: str) -> str:
        return self.lst_config[name].ladder(self.lst_site[name].name)[0]

    def _visibility(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Visibility:
        if self.lst_config[name].side_block == "feed_forward":
            return Visibility(None, causal=False)
        return visibility_of(self.get_base_layer(), args, kwargs)


def _tapped(hidden: Tensor) -> Tensor:
    """Return the backbone's hidden states cut from its graph: no gradient goes through the backbone."""
    return hidden.detach().to(torch.float32)
