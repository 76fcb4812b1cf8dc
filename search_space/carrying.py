"""Which methods a model carries, by the table of what was tried: refusals before training, with what would work."""

from __future__ import annotations

from search_space.capability import trains_quantised, why_not, why_not_quantised
from search_space.errors import UnsupportedError
from search_space.placement import Anatomy
from search_space.registry import Method, methods

_TO_TRAIN = ("attaches", "trains", "reloads")


def require_carried(rule: Method, anatomy: Anatomy) -> None:
    """Refuse a method that was tried on models of this architecture, or on weights quantised so, and cannot be trained.

    Raises:
        UnsupportedError: It cannot; the message says why, and what can.
    """
    require_quantised(rule, anatomy)
    quantised = trains_quantised(rule.name)
    for check in _TO_TRAIN:
        if not rule.quantised_only and (reason := why_not(rule.name, check, anatomy.architecture)):
            instead = instead_of(rule, anatomy.architecture)
            raise UnsupportedError(
                f"{rule.name} cannot be trained on {anatomy.architecture}: {_without_advice(reason)}; {instead} can"
            )
        if reason := why_not_quantised(rule.name, check, anatomy.quantization):
            instead = f"{rule.name} can on {' or '.join(('none', *quantised))}"
            raise UnsupportedError(
                f"{rule.name} cannot be trained on {anatomy.quantization} weights: {_without_advice(reason)}; {instead}"
            )


def require_quantised(rule: Method, anatomy: Anatomy) -> None:
    """Raise UnsupportedError where a method starts from quantised weights and there are none."""
    if rule.quantised_only and anatomy.quantization == "none":
        raise UnsupportedError(
            f"{rule.name} starts from what quantisation took away from the weights, and these are not quantised; "
            "set model.quantization, or use lora or pissa"
        )


def _without_advice(reason: str) -> str:
    """Return a reason of the table without what it says of other methods."""
    return "; ".join(part for part in reason.rstrip(".").split("; ") if not part.endswith(" can"))


def instead_of(rule: Method, architecture: str = "", kind: str = "") -> str:
    """Return some methods that can be trained on an architecture, or wrap a kind of module: of this family first."""
    able = [
        one
        for one in methods().values()
        if one.route == "inject"
        and not one.quantised_only
        and (not kind or kind in one.placement.kinds)
        and (not architecture or not any(why_not(one.name, c, architecture) for c in _TO_TRAIN))
    ]
    able.sort(key=lambda one: (one.family != rule.family, one.name != "lora"))
    return ", ".join(one.name for one in able[:3])
