"""Models of new modules over the same tensors: to attach to, and to look at."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast
from weakref import ref

from torch import nn

from evaluators.quantization import hidden_tensors

_CONTAINERS = (dict, OrderedDict, set, list)


def copy_of(model: nn.Module) -> nn.Module:
    """Return a model of new modules and new Parameter objects over the same tensors.

    What is attached to the copy, replaced in it or assigned to its parameters' `.data` leaves the original as it was;
    only writing into a tensor in place would not, and no tuner does that.
    """
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        # A subclass of Parameter is a quantised weight, whose scales a new Parameter would lose: it is shared itself.
        plain = type(parameter) is nn.Parameter
        memo[id(parameter)] = nn.Parameter(parameter.data, requires_grad=False) if plain else parameter
    for tensor in (*model.buffers(), *hidden_tensors(model)):
        memo[id(tensor)] = tensor
    modules = list(model.modules())
    if any(map(_copies_itself, map(type, modules))):
        return copy.deepcopy(model, memo)
    memo |= {id(module): type(module).__new__(type(module)) for module in modules}
    for module in modules:
        held = vars(module).items()
        vars(memo[id(module)]).update((name, _copied(value, memo)) for name, value in held)
    return cast("nn.Module", memo[id(model)])


def outline_of(model: nn.Module, left_out: Iterable[str] = ()) -> nn.Module:
    """Return a model of new modules over the same tensors that has all else in common with the original.

    It is made much faster than a copy. It serves to look at the shapes of what is attached to it, and not to be run.

    Args:
        model: The original.
        left_out: Names of modules that stand in it as empty ones.
    """
    empty = {id(model.get_submodule(name)) for name in left_out}
    outline: Any = _outlined(model, empty, {})
    outline.config = copy.copy(model.config)
    itself: Callable[[], Any] = ref(outline)  # an outline that held itself would not be freed when it is dropped
    outline.named_modules = lambda *given, **named: named_modules(itself(), *given, **named)
    outline.named_parameters = lambda *given, **named: named_parameters(itself(), *given, **named)
    return cast("nn.Module", outline)


def _outlined(module: nn.Module, empty: set[int], known: dict[int, Any]) -> nn.Module:
    """Return an outline of a module; what was outlined before, modules and parameters, is known by its identity."""
    if id(module) in known:
        return cast("nn.Module", known[id(module)])
    if id(module) in empty:
        return nn.Module()
    twin = known[id(module)] = type(module).__new__(type(module))
    held = vars(twin)
    for name, value in vars(module).items():
        held[name] = value.copy() if type(value) in _CONTAINERS else value
    for name, one in module._parameters.items():
        if type(one) is nn.Parameter:
            if id(one) not in known:
                known[id(one)] = nn.Parameter(one.data, requires_grad=False)
            held["_parameters"][name] = known[id(one)]
    for name, child in module._modules.items():
        if child is not None:
            held["_modules"][name] = _outlined(child, empty, known)
    return twin


def named_modules(
    model: nn.Module, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
) -> Iterator[tuple[str, nn.Module]]:
    """Yield what `nn.Module.named_modules` yields, in the same order.

    That passes each module up through all levels above it, and a tuner walks through a model a dozen times.
    """
    memo = set() if memo is None else memo
    if model in memo:
        return
    if remove_duplicate:
        memo.add(model)
    yield prefix, model
    levels = [(f"{prefix}." if prefix else "", iter(model._modules.items()))]
    while levels:
        before, children = levels[-1]
        for name, module in children:
            if module is None or module in memo:
                continue
            if remove_duplicate:
                memo.add(module)
            yield before + name, module
            if module._modules:
                levels.append((f"{before}{name}.", iter(module._modules.items())))
                break
        else:
            levels.pop()


def named_parameters(
    model: nn.Module, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield what `nn.Module.named_parameters` yields, in the same order, and faster."""
    known: set[int] = set()
    modules = named_modules(model, None, prefix, remove_duplicate) if recurse else ((prefix, model),)
    for before, module in modules:
        for name, one in module._parameters.items():
            if one is not None and id(one) not in known:
                if remove_duplicate:
                    known.add(id(one))
                yield f"{before}.{name}" if before else name, one


def _copies_itself(kind: type) -> bool:
    """Whether a class says itself how it is copied. What `nn.Module` says for all is to leave out what was compiled."""
    own = getattr(kind, "__getstate__", None)
    usual = (getattr(object, "__getstate__", None), getattr(nn.Module, "__getstate__", None))
    return hasattr(kind, "__deepcopy__") or own not in usual


def _copied(value: object, memo: dict[int, Any]) -> object:
    """Return a deep copy. The short ways are what most attributes of modules are: deepcopy takes thrice as long."""
    if isinstance(value, bool | int | float | str | None):
        return value
    if type(value) in (dict, OrderedDict, set) and not value:
        return type(value)()
    return copy.deepcopy(value, memo)
