"""The backbone: loaded once, frozen, and copied for each candidate without copying its tensors."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import nn

from evaluators.builtin import minilm_l6
from evaluators.loftq import remember
from evaluators.quantization import quantization_config, settle
from evaluators.shared_weights import are_of, key_of, weight_files, written_once
from evaluators.spec import ModelSpec
from evaluators.task_switch import take_tasks, with_tasks
from search_space.errors import DataError, UnsupportedError

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

_HUB_NAMES = {"builtin:minilm-l6": "sentence-transformers/all-MiniLM-L6-v2"}
_KEYS_AND_VALUES = ("PREFIX_TUNING", "CARTRIDGE")
_RUNS_CODE = ("auto_map", "trust_remote_code", "custom_pipelines")


@dataclass(frozen=True)
class Backbone:
    """A frozen model with its tokenizer.

    Attributes:
        model: A sequence classifier; its parameters need no gradients and are never modified.
        tokenizer: Its tokenizer.
        device: Where it is.
        dtype: Type of its weights.
    """

    model: nn.Module
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype

    @cached_property
    def addresses(self) -> frozenset[int]:
        """Addresses of the values of its parameters."""
        return frozenset(parameter.data_ptr() for parameter in self.model.parameters())

    @cached_property
    def storages(self) -> frozenset[int]:
        """Addresses of the backbone's storages and quantised weights: whatever else a copy holds is the candidate's."""
        # Quantised weights are known by their parameters: torchao has no storage for one, bitsandbytes moves
        # its 8-bit ones. peft makes new parameters of 4-bit ones over the same storage, which stays (`settle`).
        parameters = list(self.model.parameters())
        quantised = {id(parameter) for parameter in parameters if type(parameter) is not nn.Parameter}
        stay = [one for one in parameters if id(one) not in quantised or type(one).__name__ == "Params4bit"]
        return frozenset(quantised | {one.untyped_storage().data_ptr() for one in (*stay, *self.model.buffers())})


@dataclass(frozen=True)
class Machine:
    """Where and how a model runs on this machine."""

    device: torch.device
    dtype: torch.dtype
    attention: str


def choose_machine(spec: ModelSpec) -> Machine:
    """Choose device, type and attention for a model spec.

    On a CPU that multiplies bfloat16 in hardware (AMX or AVX-512), it is two to three times as fast as float32, with
    eager attention; on other CPUs it does not pay. What is trained is stepped in float32 (`optimisation.Optimiser`).
    What is said here of attention is a rule, for where nothing was measured.

    Raises:
        UnsupportedError: The device that the spec asks for is not there.
    """
    device = _choose_device(spec.device)
    pays = _bfloat16_pays(device)
    dtype = torch.bfloat16 if spec.dtype == "bfloat16" or (spec.dtype == "auto" and pays) else torch.float32
    eager = device.type == "cpu" and dtype == torch.bfloat16
    usual = "eager" if eager else "sdpa"
    return Machine(device, dtype, usual if spec.attention == "auto" else spec.attention)


def fit_attention(machine: Machine, spec: ModelSpec, config: Any) -> Machine:
    """Return a machine with an implementation of attention that a model has: the plain one, where it has no other.

    Args:
        machine: Where it would run.
        spec: The model.
        config: Its configuration.

    Raises:
        UnsupportedError: The spec asks for one that the model does not have.
    """
    kind = transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    if machine.attention != "sdpa" or getattr(kind, "_supports_sdpa", True):
        return machine
    if spec.attention == "sdpa":
        raise UnsupportedError(f"model.attention: {config.model_type} has no sdpa; set it to eager or auto")
    return replace(machine, attention="eager")


def _choose_device(wanted: str) -> torch.device:
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return torch.device(next(name for name, is_there in there.items() if is_there))
    if not there[wanted]:
        names = ", ".join(name for name, is_there in there.items() if is_there)
        raise UnsupportedError(f"model.device: {wanted} is not available on this machine; it has {names}")
    return torch.device(wanted)


def _bfloat16_pays(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and has_bfloat16_products()


def has_bfloat16_products() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware: by tiles (AMX) or by vectors (AVX-512 BF16)."""
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def avoid_attention_plans() -> None:
    """Let torch compute attention in this process by other kernels than cuDNN's.

    Those make a plan for each number of rows and tokens that is new: on an H100 0.06 s before a forward pass and 0.08 s
    before its way back, longer than a step of MiniLM-L6. Batches by length have new shapes for many steps.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def load(spec: ModelSpec, classes: int, tasks: int = 1, shared: Path | None = None) -> Backbone:
    """Load a backbone with a fresh classification head, frozen and in evaluation mode.

    Args:
        spec: Which model.
        classes: How many, of all tasks.
        tasks: How many; a model of several takes the number of the task as `task_ids`.
        shared: A folder where processes share weights that are of another type than the file's: on a CPU, the first
            one writes them there and all map them. None converts them in this process's own memory.

    Raises:
        DataError: The model cannot be read, or has no safetensors.
        UnsupportedError: It would run code of its own, or has no classification head, or not the attention asked for.
    """
    avoid_attention_plans()
    machine = choose_machine(spec)
    config = load_config(spec, classes, tasks)
    machine = fit_attention(machine, spec, config)
    tokenizer = load_tokenizer(spec)
    weights = None if shared is None else _shared_weights(spec, config, machine, shared)
    model, _ = _read(spec, config, machine, weights)
    if tokenizer.pad_token_id is not None:
        model.config.pad_token_id = tokenizer.pad_token_id  # decoders read the class at the last token that is another
    if spec.quantization == "none":
        model.to(machine.device)
    model.eval().requires_grad_(False)
    take_tasks(model)
    if spec.quantization != "none":
        settle(model)
        remember(model, _source(spec), spec.revision or "main")
    return Backbone(model, tokenizer, machine.device, machine.dtype)


def _read(spec: ModelSpec, config: Any, machine: Machine, weights: Path | None = None) -> tuple[Any, frozenset[str]]:
    """Read a model, from its own files or from a folder with a copy of its weights. Raises DataError.

    Returns:
        The model, and the names of the tensors that the files lack or have in another size, which are drawn.
    """
    try:
        model, report = transformers.AutoModelForSequenceClassification.from_pretrained(
            str(weights or _source(spec)),
            config=config,
            revision=spec.revision or "main",
            dtype=machine.dtype,
            attn_implementation=machine.attention,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # a head of another task; every candidate's head is new
            output_loading_info=True,
            **_quantised(spec, config, machine),
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise DataError(f"model {spec.name!r} cannot be loaded: {error}") from error
    model.name_or_path = model.config.name_or_path = _source(spec)  # a copy's folder is nobody's name
    mismatched = {key for key, *_ in report["mismatched_keys"]}
    _refuse_other_sizes(spec.name, mismatched, head_of(model))
    return model, frozenset(mismatched | set(report["missing_keys"]))


def _shared_weights(spec: ModelSpec, config: Any, machine: Machine, shared: Path) -> Path | None:
    """Return the folder of a copy in the machine's type, None where the model's own files do. Raises DataError."""
    quantised = spec.quantization != "none" or getattr(config, "quantization_config", None) is not None
    if quantised or machine.device.type != "cpu":
        return None
    try:
        files = weight_files(_source(spec), spec.revision or "main")
        if are_of(files, machine.dtype):
            return None
        key = key_of(files, machine.dtype, config.to_json_string())
    except (OSError, SafetensorError):  # what is wrong with a file is said where it is loaded
        return None
    return written_once(shared, key, lambda folder: _write_converted(spec, config, machine, folder))


def _write_converted(spec: ModelSpec, config: Any, machine: Machine, folder: Path) -> bool:
    """Write what a model's files hold, converted. Returns whether it reads back as the same, to the bit.

    What is drawn is left out, so that it is drawn again wherever the copy is loaded.
    """
    with torch.random.fork_rng(devices=[]):
        model, drawn = _read(spec, copy.deepcopy(config), machine)
        held = {name: tensor for name, tensor in model.state_dict().items() if name not in drawn}
        model.save_pretrained(folder, state_dict=dict(held))
        again, missing = _read(spec, copy.deepcopy(config), machine, folder)
    there = again.state_dict()
    return missing == drawn and all(
        there[name].dtype == one.dtype and torch.equal(there[name], one) for name, one in held.items()
    )


def _quantised(spec: ModelSpec, config: Any, machine: Machine) -> dict[str, Any]:
    if spec.quantization == "none":
        return {}
    quantization = quantization_config(
        spec.quantization, machine.dtype, head_of(build_on_meta(config, machine.attention)), machine.device
    )
    return {"quantization_config": quantization, "device_map": {"": str(machine.device)}}


def _refuse_other_sizes(name: str, mismatched: Iterable[str], heads: tuple[str, ...]) -> None:
    beside = tuple(f"{head}." for head in heads)
    if odd := sorted(key for key in mismatched if not key.startswith(beside)):
        raise DataError(f"model {name!r} has weights of other sizes than its configuration says: {', '.join(odd[:3])}")


def load_tokenizer(spec: ModelSpec) -> Any:
    """Load a model's tokenizer; one without a padding token pads with its end token. Raises DataError."""
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            _source(spec), revision=spec.revision or "main", trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise DataError(f"model {spec.name!r} has no readable tokenizer: {error}") from error
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # what transformers makes of a folder without its files
        raise DataError(f"model {spec.name!r} has no readable tokenizer: it knows no words")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_config(spec: ModelSpec, classes: int, tasks: int = 1) -> Any:
    """Load a model's configuration, and refuse one that names code to run.

    Args:
        spec: Which model.
        classes: Outputs of its head, of all tasks.
        tasks: How many.

    Raises:
        DataError: It cannot be read.
        UnsupportedError: It would run code of its own.
    """
    source = _source(spec)
    try:
        raw, _ = transformers.PreTrainedConfig.get_config_dict(source, revision=spec.revision or "main")
        _refuse_code(spec.name, raw)
        config = transformers.AutoConfig.from_pretrained(
            source, revision=spec.revision or "main", num_labels=classes, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"model {spec.name!r} has no readable configuration: {error}") from error
    return with_tasks(config, tasks)


def end_token(spec: ModelSpec) -> int | None:
    """Return the token at whose place a model reads the class, as those of an encoder and a decoder do; else None.

    Raises what `load_config` raises.
    """
    config = load_config(spec, 2)
    end = getattr(config, "eos_token_id", None)
    return end if getattr(config, "is_encoder_decoder", False) and isinstance(end, int) else None


def build_on_meta(config: Any, attention: str | None = None, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Build the classifier of a configuration on the `meta` device: shapes without memory, frozen."""
    with torch.device("meta"):
        model = transformers.AutoModelForSequenceClassification.from_config(
            config, attn_implementation=attention, dtype=dtype
        )
    model.eval().requires_grad_(False)
    take_tasks(model)
    return model


def checkpoint_activations(model: Any) -> None:
    """Keep only the inputs of layers on the way up, and compute the rest again on the way back.

    Raises:
        UnsupportedError: The model's layers cannot, or a prefix before their keys and values would be lost.
    """
    if model.supports_gradient_checkpointing and getattr(model, "peft_type", None) in _KEYS_AND_VALUES:
        raise UnsupportedError(
            "training.gradient_checkpointing: layers that are computed again lose a prefix of keys and values; "
            "set it to false, or leave prefix_tuning and cartridge out"
        )
    if not model.supports_gradient_checkpointing:
        raise UnsupportedError(
            f"training.gradient_checkpointing: the layers of {model.config.model_type} cannot; set it to false"
        )
    again = any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())
    # transformers gave it another name after 5.3; the old one warns
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False, "preserve_rng_state": again})
    model.disable_input_require_grads()  # switched on by the line above; gradients would go down to the embeddings


def head_of(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the head's modules: what stands beside the base model and has parameters.

    The base model is the module that the model's class names; where there is none of that name (CLIP, Whisper), it is
    the largest.

    Raises:
        UnsupportedError: The model has no head of its own.
    """
    base = getattr(model, "base_model_prefix", "")
    children = {name: child for name, child in model.named_children() if next(child.parameters(), None) is not None}
    if children and base not in dict(model.named_children()):
        base = max(children, key=lambda name: sum(one.numel() for one in children[name].parameters()))
    names = tuple(name for name in children if name != base)
    if not names:
        raise UnsupportedError(f"{type(model).__name__} has no classification head beside {base!r}")
    return names


def _source(spec: ModelSpec) -> str:
    return str(minilm_l6()) if spec.name == "builtin:minilm-l6" else spec.name


def _refuse_code(name: str, raw: dict[str, Any]) -> None:
    for key, value in raw.items():
        if isinstance(value, dict):
            _refuse_code(name, value)
        if key in _RUNS_CODE or (key.startswith("_attn") and key.endswith("internal")):
            raise UnsupportedError(f"model {name!r} names code to run in its configuration ({key}); Paretune runs none")


def hub_name(name: str) -> str:
    """Return the hub's name of a model: a builtin's own, else the name as it is."""
    return _HUB_NAMES.get(name, name)
