"""Tries what methods promise, alone and together, on tiny models: attach, train, count, reload, merge, convert.

A probe answers with the reason why something cannot be done, and with nothing where it can. Whatever the tuners of
others raise is such a reason.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import product
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from peft.tuners.lora.conversion import convert_to_lora
from torch import Tensor, nn

from evaluators.anatomy import anatomy_of
from evaluators.attach import Attached, attach
from evaluators.backbone import Backbone, head_of
from evaluators.exported import as_peft_model, is_peft
from evaluators.hook import Schooling
from evaluators.hooks import hooks_of, load_trained
from evaluators.merged import TOLERANCE as MERGED
from evaluators.merged import merged_model
from evaluators.model_copies import copy_of
from evaluators.optimisation import build_optimiser, loss_of
from evaluators.quantization import is_bookkeeping, settle, stored_tensors
from evaluators.specimens import batch_of, logits_of, tiny, tiny_quantised, without_weights
from evaluators.task_switch import tasks_of
from search_space.candidate import Candidate, KnobValue, Part, Recipe
from search_space.capability import PAIR_FAMILIES, TO_TRAIN, setting
from search_space.errors import ParetuneError
from search_space.placement import Anatomy, Layers, Placement
from search_space.registry import PER_TASK, Method, is_choice, method

_STEPS = 4
_EQUAL = 1e-5
_ROUNDED = 0.02
"""Tolerance in bfloat16 where peft keeps its adapters in float32."""
_LORA_RANK = 32
_QUANTISED = "llama"
"""The architecture that quantised weights are tried on."""
ARITHMETIC = {"cpu": (torch.float32, torch.bfloat16), "cuda": (torch.bfloat16,)}
"""What is computed in with quantised weights, by device; on CUDA torchao's 4-bit kernel knows one type."""


class CannotError(Exception):
    """A probe found that something cannot be done; the message is the reason."""


def probe_method(name: str, family: str, device: str = "cpu") -> dict[str, str]:
    """Try everything that a method promises, at its defaults, on a tiny model.

    Args:
        name: The method.
        family: The architecture.
        device: Where the model is: `cpu` or `cuda`.

    Returns:
        The reason why not, by check, for every check in `CHECKS` that fails; that it cannot be attached stands alone.
    """
    return probe_part(method(name).default_part(), family, device)


def probe_part(part: Part, family: str, device: str = "cpu") -> dict[str, str]:
    """Try everything that a method promises as `probe_method`, with the knobs and the placement of a part."""
    return _probe(part, family, *tiny(family, _tasks(part.method), device))


def probe_quantised(name: str, kind: str, device: str = "cpu") -> dict[str, Any]:
    """Try everything that a method promises on quantised weights, in every arithmetic that a study may have there.

    Args:
        name: The method.
        kind: How the weights are quantised.
        device: Where they are: `cpu` or `cuda`.

    Returns:
        As `probe_method`; what fails in any arithmetic fails. Where the method can be trained, under `knobs` why a flag
        or a word cannot be, by `name=value`.
    """
    rule = method(name)
    failed = _probe_arithmetics(rule.default_part(), kind, device)
    if failed.keys() & set(TO_TRAIN):
        return dict(failed)
    knobs: dict[str, str] = {}
    for knob, value in _settings(rule):
        part = rule.default_part()
        part = replace(part, knobs=tuple({**dict(part.knobs), knob: value}.items()))
        reasons = _probe_arithmetics(part, kind, device)
        if reason := next((reasons[check] for check in TO_TRAIN if check in reasons), ""):
            knobs[setting(knob, value)] = reason
    return {**failed, **({"knobs": knobs} if knobs else {})}


def _settings(rule: Method) -> Iterator[tuple[str, KnobValue]]:
    """Yield the flags and words of a method that are not its defaults, with their knobs."""
    for knob in filter(is_choice, rule.knobs):
        yield from ((knob.name, value) for value in knob.values if value != knob.default)


def _probe_arithmetics(part: Part, kind: str, device: str) -> dict[str, str]:
    tasks = _tasks(part.method)
    tiny_ones = [tiny_quantised(_QUANTISED, kind, dtype, tasks, device) for dtype in ARITHMETIC[device]]
    found = [_probe(part, _QUANTISED, *one) for one in tiny_ones]
    failed = {check: reason for one in reversed(found) for check, reason in one.items()}
    return {"attaches": failed["attaches"]} if "attaches" in failed else failed


def _probe(part: Part, family: str, model: nn.Module, anatomy: Anatomy) -> dict[str, str]:
    before = _contents(model)
    if anatomy.quantization != "none":
        settle(model)  # as a study has it: reading a state dict may lay weights out anew
    try:
        candidate = _alone(part)
        attached = _reason(attach, model, anatomy, candidate)
    except CannotError as error:
        return {"attaches": str(error)}
    failed: dict[str, str] = {}
    steps: dict[str, Callable[[], None]] = {
        "trains": lambda: _train_alone(attached, family, model, before),
        "counts": lambda: _count(attached, candidate, family, anatomy, _tasks(part.method)),
        "reloads": lambda: _reload(attached, model, anatomy, family),
        "merges": lambda: _merge(attached, model, anatomy, family),
    }
    for check, step in steps.items():
        try:
            _reason(step)
        except CannotError as error:
            failed[check] = str(error)
    return failed


def probe_conversion(name: str) -> float | str:
    """Turn a trained method into a plain LoRA of rank 32 on a tiny BERT.

    Returns:
        How much of what training changed in the logits the conversion gets wrong, from 0 on, or why there is none.
    """
    model, anatomy = tiny("bert", _tasks(name))
    try:
        attached = _reason(attach, model, anatomy, _alone(method(name).default_part()))
        _require_peft(attached)
        _reason(train, attached, "bert")
        backbone = Backbone(model, None, torch.device("cpu"), torch.float32)
        arguments = backbone, anatomy, attached.candidate, attached.state(backbone.storages), "tiny"
        held = _reason(as_peft_model, *arguments)
        config, state = _reason(convert_to_lora, held, _LORA_RANK)
        found: float = _reason(_error_of, held, model, config, state)
    except CannotError as error:
        return str(error)
    return found


def probe_pair(first: str, second: str, layers: str, family: str = "bert") -> str:
    """Try two methods on one model. Returns the reason why not, or nothing.

    Args:
        first: The method that is attached first.
        second: The other.
        layers: `shared` for the same modules of the same layers where both can go there, `disjoint` for one layer each.
        family: The architecture of the tiny model.
    """
    return probe_hybrid(pair_of(method(first), method(second), layers), family)


def pair_of(one: Method, other: Method, layers: str) -> Candidate:
    """Return two methods at their defaults, on modules as `probe_pair` puts them."""
    parts = _shared(one, other) if layers == "shared" else (_in(one, "first:1"), _in(other, "top:1"))
    return Candidate(parts, Recipe((one.learning_rate.default, other.learning_rate.default)))


def probe_per_task(name: str) -> str:
    """Give each of two tasks an adapter of its own, on the first model that carries the method.

    Returns:
        The reason why not, or nothing: also where it cannot be asked for, or no model here carries the method.
    """
    part = method(name).default_part()
    family = next((one for one in PAIR_FAMILIES if not probe_hybrid(_alone(part), one, 2)), None)
    if PER_TASK.name not in dict(part.knobs) or family is None:
        return ""
    each = replace(part, knobs=tuple({**dict(part.knobs), PER_TASK.name: True}.items()))
    return probe_hybrid(_alone(each), family, 2)


def probe_hybrid(candidate: Candidate, family: str, tasks: int = 1) -> str:
    """Attach, count, train and reload a candidate on a tiny model. Returns the reason why not, or nothing."""
    tasks = max(tasks, *(_tasks(part.method) for part in candidate.parts))
    model, anatomy = tiny(family, tasks)
    try:
        attached = _reason(attach, model, anatomy, candidate)
        _reason(_count, attached, candidate, family, anatomy, tasks)
        _reason(train, attached, family)
        _reason(_reload, attached, model, anatomy, family)
    except CannotError as error:
        return str(error)
    return ""


def train(attached: Attached, family: str) -> None:
    """Train a few steps. Raises CannotError unless the loss moves, and the trainable tensors and no others."""
    tasks, device = tasks_of(attached.model), next(attached.model.parameters()).device
    batches = [batch_of(family, seed, tasks, device) for seed in range(_STEPS)]
    hooks = hooks_of(attached)
    trained = hooks.begin(attached, Schooling(_STEPS, batches[:2], lambda model, batch: _loss(model, *batch)))
    optimiser = build_optimiser(trained)
    before, started = _contents(trained.model), [one.detach().clone() for one in optimiser.stepped]
    ours = {tensor.data_ptr() for tensor in trained.trainable if tensor.numel()}
    first = _loss(trained.model, *batches[0]).item()
    trained.model.train()
    for step, batch in enumerate(batches, start=1):
        loss = hooks.penalised(_loss(trained.model, *batch))
        optimiser.update(loss, 1.0, lambda step=step: hooks.after_step(step))  # type: ignore[misc]
    trained.model.eval()
    after = dict(_stored(trained.model))
    ours |= {tensor.data_ptr() for tensor in trained.trainable}  # MiSS may move them
    moved = {after[name].data_ptr() for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    if strangers := [name for name in before if after[name].data_ptr() in moved - ours]:
        raise CannotError(f"training changes {strangers[0]}, which is not trainable")
    names = {id(parameter): name for name, parameter in trained.model.named_parameters()}
    for parameter, one, was in zip(trained.trainable, optimiser.stepped, started, strict=True):
        if one.numel() and torch.equal(one, was):
            raise CannotError(f"training does not change {names[id(parameter)]}")
    if _loss(trained.model, *batches[0]).item() == first:
        raise CannotError("training does not change the loss")


def _train_alone(attached: Attached, family: str, model: nn.Module, before: Mapping[str, Tensor]) -> None:
    """Train, and see that the backbone is what it was before anything was attached."""
    train(attached, family)
    after = dict(_stored(model))
    if changed := [key for key, tensor in before.items() if not torch.equal(tensor, after[key])]:
        raise CannotError(f"it writes into the shared backbone's {changed[0]}")


def _count(attached: Attached, candidate: Candidate, family: str, anatomy: Anatomy, tasks: int) -> None:
    if anatomy.quantization != "none":  # counting has no weights
        return
    bare = without_weights(family, tasks)
    predicted = attach(bare, anatomy_of(bare), candidate).trainable_params
    if predicted != attached.trainable_params:
        raise CannotError(f"{predicted} parameters were predicted from shapes, but it has {attached.trainable_params}")


def _reload(attached: Attached, model: nn.Module, anatomy: Anatomy, family: str) -> None:
    storages = _storages(model)
    again = attach(model, anatomy, attached.candidate, seed=1)
    load_trained(again, attached.state(storages), storages)
    _require_equal(logits_of(attached.model, family), logits_of(again.model, family), _EQUAL, "the reloaded candidate")


def _merge(attached: Attached, model: nn.Module, anatomy: Anatomy, family: str) -> None:
    _require_peft(attached)
    backbone = Backbone(model, None, next(model.parameters()).device, torch.float32)
    held = as_peft_model(backbone, anatomy, attached.candidate, attached.state(_storages(model)), "tiny")
    if not hasattr(held.base_model, "merge_and_unload"):
        raise CannotError("it is not in the weights")
    wanted = logits_of(attached.model, family)
    equal, merged = (_EQUAL, MERGED) if held.dtype == torch.float32 else (_ROUNDED, _ROUNDED)
    _require_equal(wanted, logits_of(held, family), equal, "peft's model")
    _require_equal(wanted, logits_of(merged_model(held), family), merged, "the merged model")


def _require_peft(attached: Attached) -> None:
    if not is_peft(attached.candidate):
        raise CannotError("peft does not know it")


def _error_of(held: Any, model: nn.Module, config: LoraConfig, state: dict[str, Tensor]) -> float:
    """Return the largest error of the converted model's logits, as a share of the largest that the adapter changes."""
    config.modules_to_save = list(head_of(model))
    lora = get_peft_model(copy_of(model), config)
    heads = {key: tensor for key, tensor in held.state_dict().items() if ".modules_to_save." in key}
    lora.load_state_dict(heads, strict=False)
    set_peft_model_state_dict(lora, state)
    wanted, got = logits_of(held), logits_of(lora)
    with held.disable_adapter(), torch.inference_mode():
        inputs = batch_of("bert", 99)[0]
        hidden = held.get_base_model().bert(**inputs).pooler_output
        head = next(p for n, p in held.named_modules() if n.endswith("classifier.modules_to_save.default"))
        before = head(hidden)
    return round(float((wanted - got).abs().max() / (wanted - before).abs().max()), 4)


def _require_equal(wanted: Tensor, got: Tensor, tolerance: float, what: str) -> None:
    difference = (wanted - got).abs().max().item()
    if not difference <= tolerance:
        raise CannotError(f"the logits of {what} differ")


def _shared(one: Method, other: Method) -> tuple[Part, Part]:
    """Put two methods on the same modules where both can go, else each where it goes by default."""
    options = product(_placements(one), _placements(other))
    overlapping = (pair for pair in options if set(pair[0].projections) & set(pair[1].projections))
    default = one.placement.default, other.placement.default
    first, second = next(overlapping, default)
    return _placed(one, first), _placed(other, second)


def _placements(rule: Method) -> Iterator[Placement]:
    yield rule.placement.default
    yield from (Placement.parse(text) for text in rule.placement.projections)


def _in(rule: Method, layers: str) -> Part:
    some = rule.placement.layers and rule.route == "inject"  # prompts of two stacks stand before all layers
    chosen = Layers.parse(layers) if some else Layers()
    return _placed(rule, Placement(rule.placement.default.projections, chosen))


def _placed(rule: Method, placement: Placement) -> Part:
    return Part(rule.name, rule.default_part().knobs, placement)


def _alone(part: Part) -> Candidate:
    return Candidate((part,), Recipe((method(part.method).learning_rate.default,)))


def _reason(call: Callable[..., Any], *arguments: Any) -> Any:
    """Call, and turn whatever it raises into a reason: anything at all may go wrong in the tuners of others."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return call(*arguments)
    except CannotError:
        raise
    except ParetuneError as error:
        raise CannotError(_one_line(error)) from error
    except Exception as error:
        raise CannotError(f"{type(error).__name__}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _tasks(name: str) -> int:
    """Return how many tasks a method is tried with."""
    return 2 if method(name).several_tasks else 1


def _loss(model: nn.Module, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
    return loss_of(model(**inputs).logits, labels, 0.0)


def _contents(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in _stored(model)}


def _stored(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of a state dict by name, and the parts of quantised ones."""
    for name, tensor in model.state_dict().items():
        if is_bookkeeping(name):
            continue
        for number, part in enumerate(stored_tensors(tensor)):
            yield f"{name}.{number}" if number else name, part


def _storages(model: nn.Module) -> frozenset[int]:
    return Backbone(model, None, torch.device("cpu"), torch.float32).storages
