"""Which methods a model carries, by the table of what was tried: refusals before training, with what would work."""

from __future__ import annotations

from collections.abc import Sequence

from search_space.candidate import KnobValue, Part
from search_space.capability import (
    TO_TRAIN,
    setting,
    trains_quantised,
    why_not,
    why_not_per_task,
    why_not_quantised,
    why_not_setting,
)
from search_space.errors import UnsupportedError
from search_space.placement import Anatomy
from search_space.registry import PER_TASK, Method, methods


def require_carried(rule: Method, anatomy: Anatomy) -> None:
    """Refuse a method that was tried on models of this architecture, or on weights quantised so, and cannot be trained.

    Raises:
        UnsupportedError: It cannot; the message says why, and what can.
    """
    require_quantised(rule, anatomy)
    quantised = trains_quantised(rule.name, anatomy.device)
    for check in TO_TRAIN:
        if not rule.quantised_only and (reason := why_not(rule.name, check, anatomy.architecture)):
            instead = instead_of(rule, anatomy.architecture)
            raise UnsupportedError(
                f"{rule.name} cannot be trained on {anatomy.architecture}: {_without_advice(reason)}; {instead} can"
            )
        if reason := why_not_quantised(rule.name, check, anatomy.quantization, anatomy.device):
            instead = f"{rule.name} can on {' or '.join(('none', *quantised))}"
            raise UnsupportedError(
                f"{rule.name} cannot be trained on {anatomy.quantization} weights: {_without_advice(reason)}; {instead}"
            )
    if rule.route == "prompt" and anatomy.untold:
        raise UnsupportedError(
            f"{rule.name} has to know the model's {' and '.join(anatomy.untold)}, which the configuration of "
            f"{anatomy.architecture} does not say; {instead_of(rule)} can, on modules by name (module:NAME)"
        )


def is_per_task(part: Part) -> bool:
    """Whether a part has an adapter for each task."""
    return dict(part.knobs).get(PER_TASK.name) is True


def require_per_task(rule: Method, anatomy: Anatomy) -> None:
    """Refuse an adapter for each task where there is one task, or where it was tried and cannot be.

    Raises:
        UnsupportedError: It cannot; the message says why.
    """
    require_several_tasks(Part(rule.name, ((PER_TASK.name, True),)), anatomy)
    if reason := why_not_per_task(rule.name):
        raise UnsupportedError(f"{rule.name}.per_task: it cannot have an adapter for each task: {reason}")


def require_setting(rule: Method, knob: str, value: KnobValue, anatomy: Anatomy) -> None:
    """Refuse a flag or a word that was tried on weights quantised so and cannot be trained.

    Raises:
        UnsupportedError: It cannot; the message says why.
    """
    if reason := why_not_setting(rule.name, knob, value, anatomy.quantization, anatomy.device):
        raise UnsupportedError(
            f"{rule.name}.{knob}: {setting(knob, value)} cannot be trained on {anatomy.quantization} weights: "
            f"{_without_advice(reason)}; leave it out"
        )


def require_several_tasks(part: Part, anatomy: Anatomy) -> None:
    """Raise UnsupportedError where a part tells tasks apart and there is one."""
    rule = methods()[part.method]
    if anatomy.tasks < 2 and rule.several_tasks:
        raise UnsupportedError(
            f"{rule.name} tells several tasks apart, and this study has one; list them under task.tasks, or use lora"
        )
    if not is_per_task(part):
        return
    if anatomy.tasks < 2:
        raise UnsupportedError(f"{rule.name}.per_task: this study has one task; list several under task.tasks")


def require_mergeable(part: Part, architecture: str) -> None:
    """Refuse to merge a part that is no change of the backbone's weights.

    Raises:
        UnsupportedError: It is none; the message says why, and what is.
    """
    rule = methods()[part.method]
    if reason := _why_not_merged(part, rule, architecture):
        raise UnsupportedError(
            f"{rule.name} cannot be merged into the weights of {architecture}: {reason}; "
            f"{instead_of(rule, architecture, checks=(*TO_TRAIN, 'merges'))} can"
        )


def _why_not_merged(part: Part, rule: Method, architecture: str) -> str:
    if is_per_task(part) or rule.several_tasks:
        return "what it adds turns with the task"
    if rule.route == "prompt":
        return "it is not in the weights"
    if rule.merges:
        return ""
    found = why_not(rule.name, "merges", architecture).split("; ")[0]
    return found.rpartition("cannot be merged: ")[2] or "what it computes is not a change of the backbone's weights"


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


def instead_of(rule: Method, architecture: str = "", kind: str = "", checks: Sequence[str] = TO_TRAIN) -> str:
    """Return some methods that can be trained on an architecture, or wrap a kind of module: of this family first.

    Args:
        rule: The method that cannot.
        architecture: Where the others pass the checks; anywhere when empty.
        kind: Of modules that they wrap; any when empty.
        checks: What they pass, of `capability.CHECKS`.
    """
    able = [
        one
        for one in methods().values()
        if one.route == "inject"
        and not one.quantised_only
        and not one.several_tasks
        and (not kind or kind in one.placement.kinds)
        and (not architecture or not any(why_not(one.name, check, architecture) for check in checks))
    ]
    able.sort(key=lambda one: (one.family != rule.family, one.name != "lora"))
    return ", ".join(one.name for one in able[:3])
