"""What each method can do on each family of models, and which methods can share one: found by trying it.

`python -m evaluators.capabilities` tries everything on tiny random models and writes `search_space/capabilities.json`,
which `search_space.capability` reads. Nothing in that table is written by hand.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from evaluators.anatomy import anatomy_of
from evaluators.attach import Attached, attach
from evaluators.backbone import Backbone
from evaluators.exported import as_peft_model
from evaluators.hooks import Schooling, hooks_of, load_trained
from evaluators.optimisation import build_optimiser, loss_of, update
from search_space.candidate import Candidate, Part, Recipe
from search_space.capability import CHECKS, TABLE_FILE
from search_space.errors import ParetuneError
from search_space.files import atomic_write
from search_space.placement import Anatomy, Layers, Placement
from search_space.registry import Method, method, methods

FAMILIES = ("bert", "llama", "gpt2")
_STEPS = 4
_EQUAL = 1e-5
_MERGED = 1e-4
_SIZES = {"vocab_size": 64, "pad_token_id": 0, "num_labels": 3}
_WIDE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
_CONFIGS: dict[str, Callable[[], Any]] = {
    "bert": lambda: transformers.BertConfig(**_SIZES, **_WIDE, max_position_embeddings=128),
    "llama": lambda: transformers.LlamaConfig(**_SIZES, **_WIDE, max_position_embeddings=128),
    "gpt2": lambda: transformers.GPT2Config(**_SIZES, n_embd=64, n_layer=2, n_head=4, n_positions=128),
}


class CannotError(Exception):
    """A probe found that something cannot be done; the message is the reason."""


def probe_method(name: str, family: str) -> dict[str, str]:
    """Try everything that a method promises, at its defaults, on a tiny model.

    Returns:
        The reason why not, by check, for every check in `CHECKS` that fails; a check that was not reached has the
        reason of the one before it.
    """
    model, anatomy = tiny(family)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    try:
        candidate = _alone(method(name).default_part())
        attached = _reason(attach, model, anatomy, candidate)
    except CannotError as error:
        return dict.fromkeys(CHECKS, str(error))
    failed: dict[str, str] = {}
    steps: dict[str, Callable[[], None]] = {
        "trains": lambda: _train_alone(attached, anatomy, model, before),
        "counts": lambda: _count(attached, candidate, family),
        "reloads": lambda: _reload(attached, model, anatomy),
        "merges": lambda: _merge(attached, model, anatomy),
    }
    for check, step in steps.items():
        try:
            _reason(step)
        except CannotError as error:
            failed[check] = str(error)
    return failed


def probe_pair(first: str, second: str, layers: str, family: str = "bert") -> str:
    """Try two methods on one model. Returns the reason why not, or nothing.

    Args:
        first: The method that is attached first.
        second: The other.
        layers: `shared` for the same modules of the same layers where both can go there, `disjoint` for one layer each.
        family: The tiny model.
    """
    model, anatomy = tiny(family)
    one, other = method(first), method(second)
    parts = _shared(one, other) if layers == "shared" else (_in(one, "first:1"), _in(other, "top:1"))
    rates = one.learning_rate.default, other.learning_rate.default
    try:
        attached = _reason(attach, model, anatomy, Candidate(parts, Recipe(rates)))
        _reason(train, attached, anatomy)
        _reason(_reload, attached, model, anatomy)
    except CannotError as error:
        return str(error)
    return ""


def probe_everything() -> dict[str, Any]:
    """Return the whole table, as JSON data."""
    names = [name for name, one in methods().items() if one.route not in ("head", "full")]
    alone = {name: {family: probe_method(name, family) for family in FAMILIES} for name in names}
    carried = [name for name in names if not alone[name]["bert"].keys() & {"attaches", "trains", "reloads"}]
    pairs = {}
    for first, second in product(carried, repeat=2):
        reasons = {layers: probe_pair(first, second, layers) for layers in ("shared", "disjoint")}
        if any(reasons.values()):
            pairs[f"{first} + {second}"] = reasons
    return {"methods": alone, "refused_pairs": pairs}


@cache
def tiny(family: str) -> tuple[nn.Module, Anatomy]:
    """Return a tiny frozen classifier with random weights, the same at every call, and its anatomy."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForSequenceClassification.from_config(_config(family))
        for parameter in model.parameters():
            parameter.data += 0.02 * torch.randn(parameter.shape)  # biases and norms are not all alike
    model.eval().requires_grad_(False)
    return model, anatomy_of(model)


def without_weights(family: str) -> nn.Module:
    """Return the tiny model on the `meta` device."""
    with torch.device("meta"):
        bare: nn.Module = transformers.AutoModelForSequenceClassification.from_config(_config(family))
    return bare.eval().requires_grad_(False)


def train(attached: Attached, anatomy: Anatomy) -> None:
    """Train a few steps. Raises CannotError unless the loss moves, and the trainable tensors and no others."""
    batches = [_batch(seed) for seed in range(_STEPS)]
    hooks = hooks_of(attached)
    trained = hooks.begin(attached, Schooling(_STEPS, batches[:2], lambda model, batch: _loss(model, *batch)))
    optimiser = build_optimiser(trained)
    before = {name: tensor.clone() for name, tensor in trained.model.state_dict().items()}
    ours = {tensor.data_ptr() for tensor in trained.trainable if tensor.numel()}
    first = _loss(trained.model, *batches[0]).item()
    trained.model.train()
    for step, batch in enumerate(batches, start=1):
        loss = hooks.penalised(_loss(trained.model, *batch))
        update(trained, optimiser, loss, 1.0, lambda step=step: hooks.after_step(step))  # type: ignore[misc]
    trained.model.eval()
    after = trained.model.state_dict()
    moved = {after[name].data_ptr() for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    if strangers := [name for name in before if after[name].data_ptr() in moved - ours]:
        raise CannotError(f"training changes {strangers[0]}, which is not trainable")
    names = {parameter.data_ptr(): name for name, parameter in trained.model.named_parameters()}
    if still := ours - moved:
        raise CannotError(f"training does not change {names[min(still)]}")
    if _loss(trained.model, *batches[0]).item() == first:
        raise CannotError("training does not change the loss")


def _train_alone(attached: Attached, anatomy: Anatomy, model: nn.Module, before: Mapping[str, Tensor]) -> None:
    """Train, and see that the backbone is what it was before anything was attached."""
    train(attached, anatomy)
    after = model.state_dict()
    if changed := [key for key, tensor in before.items() if not torch.equal(tensor, after[key])]:
        raise CannotError(f"it writes into the shared backbone's {changed[0]}")


def _count(attached: Attached, candidate: Candidate, family: str) -> None:
    bare = without_weights(family)
    predicted = attach(bare, anatomy_of(bare), candidate).trainable_params
    if predicted != attached.trainable_params:
        raise CannotError(f"{predicted} parameters were predicted from shapes, but it has {attached.trainable_params}")


def _reload(attached: Attached, model: nn.Module, anatomy: Anatomy) -> None:
    storages = _storages(model)
    again = attach(model, anatomy, attached.candidate)
    load_trained(again, attached.state(storages), storages)
    _require_equal(logits_of(attached.model), logits_of(again.model), _EQUAL, "the reloaded candidate")


def _merge(attached: Attached, model: nn.Module, anatomy: Anatomy) -> None:
    backbone = Backbone(model, None, torch.device("cpu"), torch.float32)
    held = as_peft_model(backbone, anatomy, attached.candidate, attached.state(_storages(model)), "tiny")
    if not hasattr(held.base_model, "merge_and_unload"):
        raise CannotError("it is not in the weights")
    _require_equal(logits_of(attached.model), logits_of(held), _EQUAL, "peft's model")
    _require_equal(logits_of(attached.model), logits_of(held.merge_and_unload()), _MERGED, "the merged model")


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
    chosen = Layers.parse(layers) if rule.placement.layers else Layers()
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


def _config(family: str) -> Any:
    config = _CONFIGS[family]()
    config.pad_token_id = 0
    return config


def _batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, 64, (4, 9), generator=generator), torch.randint(3, (4,), generator=generator)


def _loss(model: nn.Module, ids: Tensor, labels: Tensor) -> Tensor:
    return loss_of(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits, labels, 0.0)


def logits_of(model: nn.Module) -> Tensor:
    """Return what a model says of one batch, the same at every call."""
    model.eval()
    ids = _batch(99)[0]
    with torch.inference_mode():
        logits: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return logits


def _storages(model: nn.Module) -> frozenset[int]:
    return Backbone(model, None, torch.device("cpu"), torch.float32).storages


def main() -> None:
    """Write the table."""
    torch.set_num_threads(1)
    atomic_write(Path(TABLE_FILE), json.dumps(probe_everything(), indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
