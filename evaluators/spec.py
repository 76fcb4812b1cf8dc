"""The parts of a study's spec that say what is trained, on what, and for how long."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from search_space.errors import did_you_mean, one_of
from search_space.quantities import parse_bytes
from search_space.strict import Strict

BUILTIN_MODELS = ("minilm-l6",)
BUILTIN_DATA = ("trec", "movie", "amazon", "nyt", "tweets")
ROLES = ("train", "validation", "calibration", "test")
BUILTIN = "builtin:"

Text = Annotated[str, Field(min_length=1, max_length=512)]
TaskName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,31}$")]
Role = Annotated[str, Field(min_length=1, max_length=128)] | Annotated[float, Field(gt=0, lt=1)]


def _check_builtin(value: str, known: tuple[str, ...]) -> str:
    name = value.removeprefix(BUILTIN)
    if value.startswith(BUILTIN) and name not in known:
        allowed = [BUILTIN + one for one in known]
        raise ValueError(f"there is no {value!r}; allowed: {one_of(allowed)}{did_you_mean(value, allowed)}")
    return value


def _bytes_or_none(value: object) -> int:
    return 0 if type(value) is int and value == 0 else parse_bytes(value)


class ModelSpec(Strict):
    """The backbone.

    Attributes:
        name: A hub name, a local folder, or `builtin:minilm-l6`.
        revision: Branch, tag or commit on the hub.
        dtype: Type of the frozen weights and of the arithmetic; `auto` is bfloat16 where it pays, else float32.
        device: Where it runs; `auto` is cuda, then mps, then cpu.
        attention: How attention is computed; `auto` is what a study measures to be the fastest when it starts.
        quantization: Of the frozen linear weights: 8-bit integers or NF4 by bitsandbytes, 8- or 4-bit integers by
            torchao.
    """

    name: Text
    revision: Text | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    attention: Literal["auto", "eager", "sdpa"] = "auto"
    quantization: Literal["none", "int8", "nf4", "torchao_int8", "torchao_int4"] = "none"

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, data: Any) -> Any:
        return {"name": data} if isinstance(data, str) else data

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        return _check_builtin(name, BUILTIN_MODELS)


class SplitSpec(Strict):
    """Which examples play which role.

    Each role is the name of a split of the source, or a share of what the source calls train. A role that is not
    given takes the source's split of that name, or else its default share: 15 % for each but train, which gets what
    is left. Shares are drawn stratified by label and grouped, with `seed`.

    Attributes:
        train: What candidates are trained on.
        validation: What the search sees.
        calibration: What calibrators are fitted on.
        test: Read once, for finalists.
        seed: Seed of the drawing.
    """

    train: Role | None = None
    validation: Role | None = None
    calibration: Role | None = None
    test: Role | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    @model_validator(mode="after")
    def _leave_some(self) -> SplitSpec:
        shares = [value for role in ROLES if isinstance(value := getattr(self, role), float)]
        if sum(shares) > 1 + 1e-9:
            raise ValueError(f"the shares add up to {sum(shares):g}; at most 1 is allowed")
        return self


class SourceSpec(Strict):
    """A data set, and how it is read and divided.

    Attributes:
        dataset: A hub name, a file (CSV, TSV, JSON Lines, Parquet), or a builtin such as `builtin:trec`.
        config: Configuration of a hub data set.
        revision: Revision of a hub data set.
        files: Files by split name, instead of `dataset`.
        text: Column of the text, or columns that are joined as a pair.
        label: Column of the label.
        group: Column whose equal values stay in one role, such as a document; equal texts always do.
        subgroup: Column that names the subgroup of each example, which is scored by itself too.
        length_bands: So many bands of length, about alike in training examples, as the subgroups.
        splits: Which examples play which role.
        max_train: Most training examples that are used, drawn stratified.
        max_evaluation: Most examples of each other role that are used.
    """

    dataset: Text | None = None
    config: Text | None = None
    revision: Text | None = None
    files: dict[Text, Text] | None = None
    text: Annotated[tuple[Text, ...], Field(min_length=1, max_length=2)] = ("text",)
    label: Text = "label"
    group: Text | None = None
    subgroup: Text | None = None
    length_bands: Annotated[int, Field(ge=2, le=10)] | None = None
    splits: SplitSpec = Field(default_factory=SplitSpec)
    max_train: Annotated[int, Field(ge=10)] | None = None
    max_evaluation: Annotated[int, Field(ge=10)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, data: Any) -> Any:
        return {"dataset": data} if isinstance(data, str) else data

    @field_validator("text", mode="before")
    @classmethod
    def _columns(cls, value: Any) -> Any:
        if isinstance(value, str):
            return (value,)
        return tuple(value) if isinstance(value, list) else value

    @field_validator("dataset")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        return name and _check_builtin(name, BUILTIN_DATA)

    @field_validator("length_bands")
    @classmethod
    def _one_kind_of_subgroups(cls, bands: int | None, info: ValidationInfo) -> int | None:
        if bands is not None and info.data.get("subgroup") is not None:
            raise ValueError("subgroups are those of a column or bands of length; give one of the two")
        return bands

    @property
    def has_subgroups(self) -> bool:
        """Whether examples belong to subgroups."""
        return self.subgroup is not None or self.length_bands is not None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        self._require_source()
        return self

    def _require_source(self) -> None:
        if (self.dataset is None) == (self.files is None):
            raise ValueError("give either `dataset` or `files`")


class TaskSpec(SourceSpec):
    """What is learnt, and from which data: one task, or several that share the backbone.

    Attributes:
        type: The kind of task.
        tasks: Several tasks by name, each with a data set of its own, instead of one here.
    """

    type: Literal["text_classification"] = "text_classification"
    tasks: Annotated[dict[TaskName, SourceSpec], Field(min_length=2, max_length=64)] | None = None

    @property
    def sources(self) -> dict[str, SourceSpec]:
        """Every data set by the name of its task; under an empty name where there is one task."""
        return self.tasks or {"": self}

    @property
    def data(self) -> str:
        """The data, for people."""
        each = (one.dataset or ", ".join((one.files or {}).values()) for one in self.sources.values())
        return " and ".join(each)

    def _require_source(self) -> None:
        if self.tasks is None:
            super()._require_source()
        elif odd := [
            name
            for name, one in SourceSpec.model_fields.items()
            if getattr(self, name) != one.get_default(call_default_factory=True)
        ]:
            raise ValueError(f"{one_of(odd)} belongs to each of `tasks`, not beside them")
        elif grouped := [name for name, one in self.tasks.items() if one.has_subgroups]:
            raise ValueError(f"{one_of(grouped)}: subgroups are scored in studies of one task; take them out here")


class TrainingSpec(Strict):
    """How every candidate is trained.

    Attributes:
        steps: Optimiser steps of full training; overrides `epochs`.
        epochs: Passes over the training examples of full training.
        batch_size: Examples of a training step.
        accumulate: Parts that a step's examples are divided into, one after another, their gradients added up; `auto`
            is the fewest with which a candidate keeps `budgets.memory`.
        evaluation_batch_size: Examples of a forward pass without gradients.
        max_length: Most tokens of an example; longer ones are cut.
        warmup: Share of the steps in which the learning rate rises.
        max_grad_norm: Gradients are scaled down to this norm.
        prefix_cache: Most bytes on disk for what the frozen layers below a candidate give; 0 computes it every time.
        gradient_checkpointing: Keep only the inputs of layers, and compute the rest again for the way back: less
            memory, more time.
    """

    steps: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    epochs: Annotated[float, Field(gt=0, le=1000)] = 2.0
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 32
    accumulate: Annotated[int, Field(ge=1, le=65536)] | Literal["auto"] = 1
    evaluation_batch_size: Annotated[int, Field(ge=1, le=65536)] = 128
    max_length: Annotated[int, Field(ge=4, le=1_048_576)] = 128
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.06
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    prefix_cache: Annotated[int, BeforeValidator(_bytes_or_none)] = 2 * 2**30
    gradient_checkpointing: bool = False


class SyntheticSpec(Strict):
    """A closed-form evaluator: it trains nothing and answers at once. For trying out the orchestration.

    Attributes:
        step_seconds: Time that a training step takes.
        faults: What goes wrong, by the notation of a part's method: `raise`, `nan`, `oom`, `exit`, `hang`.
    """

    step_seconds: Annotated[float, Field(ge=0, le=10)] = 0.0
    faults: dict[str, Literal["raise", "nan", "oom", "exit", "hang"]] = Field(default_factory=dict)
