"""Where a model drops out: in modules of their own, and in rates that its layers keep as plain numbers."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn


def set_dropout(model: nn.Module, rate: float) -> None:
    """Give every dropout of a model one rate; where a layer has a plain number of 0 the model has no dropout."""
    for module in model.modules():
        for name in list(_rates(module)):
            setattr(module, name, rate)


def drops_out(module: nn.Module) -> bool:
    """Whether this module itself drops out while it trains."""
    return any(getattr(module, name) > 0 for name in _rates(module))


def _rates(module: nn.Module) -> Iterator[str]:
    """Yield the names of a module's rates: `p` of dropouts, and numbers such as BART's `activation_dropout`."""
    if isinstance(module, nn.Dropout):
        yield "p"
    for name, value in vars(module).items():
        if name.endswith("dropout") and type(value) is float and value > 0:
            yield name
