"""The spec of a study: the parts' specs, composed. A bad spec is refused whole, with every problem at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, Field, ValidationError, ValidationInfo, field_validator, model_validator

from calibration.spec import CalibrationSpec
from evaluators.score import GAIN, METERED, METRICS, OF_SUBGROUPS, Direction, metric, task_of
from evaluators.spec import ModelSpec, SyntheticSpec, TaskSpec, TrainingSpec
from search_space.budgets import BudgetSpec
from search_space.errors import Problem, SpecError, did_you_mean, one_of
from search_space.spec import SpaceSpec
from search_space.strict import Strict

LOSS = "calibrated_nll"
"""The loss to select on and to stop on: raw NLL prefers what is trained too little, raw ECE prefers luck."""
_BETTER = {"maximize": "the higher it is", "minimize": "the lower it is"}
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]


class Objective(Strict):
    """A metric to make as large or as small as possible. Written `maximize: accuracy`; `loss` is `calibrated_nll`."""

    metric: str
    direction: Direction

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and len(data) == 1 and "metric" not in data:
            (direction, name), *_ = data.items()
            if direction not in get_args(Direction):
                raise ValueError(
                    f"{direction!r} is not 'maximize' or 'minimize'{did_you_mean(str(direction), get_args(Direction))}"
                )
            return {"metric": LOSS if name == "loss" else name, "direction": direction}
        return data

    @model_validator(mode="after")
    def _natural(self) -> Objective:
        natural = metric(self.metric).direction
        if self.metric == GAIN:
            raise ValueError(f"{GAIN} tells how candidates were trained, and cannot be searched on")
        if natural != self.direction:
            raise ValueError(f"{self.metric} is better {_BETTER[natural]}; write '{natural}: {self.metric}'")
        return self

    def to_json(self) -> dict[str, str]:
        """Return the short form."""
        return {self.direction: self.metric}


Looking = Literal["saliency", "adalora", "eva"]
"""Proposals for which the model is looked at."""

LOOKING: tuple[Looking, ...] = get_args(Looking)
Proposal = Literal["lora", "published"] | Looking
"""What may be tried before the sampler draws."""


class EarlyStopping(Strict):
    """When a candidate stops before the end of its training.

    Attributes:
        rule: Who goes on. With `freeze_thaw` no stop is final: each candidate pauses at every rung, and of paused and
            new ones the one goes on that is expected to add most to the front. With `reach` who would be dominated even
            after a gain that few had stops for good, with `halving` who is not among the best 1 / eta at a rung and
            dominated there (successive halving over several objectives). With one objective, or another sampler than
            the forest, `freeze_thaw` is `reach`; where rungs do not measure an objective nobody pauses.
        eta: From one rung to the next training is this many times as long.
        rungs: Number of rungs, the last being full training; 1 trains every candidate to the end.
        grace: Candidates that are trained to the end (`reach`) or pass a rung (`halving`) before one is stopped there.
        chance: With `reach`: share of those trained to the end whose gain was larger than what is hoped for. So it is
            decided with `freeze_thaw` about who still pauses when nothing new is begun any more.
        rows: Examples of validation that rungs before the last look at; all of them when None.
    """

    rule: Literal["freeze_thaw", "reach", "halving"] = "freeze_thaw"
    eta: Annotated[float, Field(gt=1, le=16)] = 3.0
    rungs: Annotated[int, Field(ge=1, le=10)] = 3
    grace: Annotated[int, Field(ge=1, le=1000)] = 3
    chance: Annotated[float, Field(gt=0, lt=1)] = 0.1
    rows: Annotated[int, Field(ge=30, le=10_000_000)] | None = None

    def steps(self, full: int) -> tuple[int, ...]:
        """Return the training steps of the rungs: full, full / eta, full / eta^2 ... in rising order, each once."""
        steps = {max(1, round(full / self.eta**back)) for back in range(self.rungs)}
        return tuple(sorted(steps))


class Finalists(Strict):
    """Who is trained again before the test split is read.

    Attributes:
        count: Most members of the front that are trained again.
        seeds: Fresh seeds for each of them.
    """

    count: Annotated[int, Field(ge=0, le=64)] = 4
    seeds: Annotated[int, Field(ge=1, le=20)] = 3


class SearchSpec(Strict):
    """How the space is searched.

    Attributes:
        sampler: One of Optuna's, or `forest`, ours.
        seed: Seed of everything that is drawn.
        startup_trials: Trials before the sampler learns: plain LoRA, then random ones; 5 when None, and 2 where
            candidates pause. `nsga2` begins with a population of its own size.
        early_stopping: Rungs.
        finalists: Re-training of the front.
        references: Fixed rows beside the search, not part of it.
        proposals: What is tried before the sampler draws: plain LoRA on each set of projections, published candidates,
            LoRA where gradients are largest, LoRA with AdaLoRA's or EVA's ranks.
        warm_start: A study of the same storage whose front is tried first.
    """

    sampler: Literal["tpe", "random", "nsga2", "gp", "forest"] = "forest"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    startup_trials: Annotated[int, Field(ge=1, le=10_000)] | None = None
    early_stopping: EarlyStopping = Field(default_factory=EarlyStopping)
    finalists: Finalists = Field(default_factory=Finalists)
    references: tuple[Literal["head", "full"], ...] = ("head", "full")
    proposals: tuple[Proposal, ...] = ()
    warm_start: Name | None = None


class ResourcesSpec(Strict):
    """What one trial may use, and how many run at once.

    Attributes:
        cpus: Cores of a trial; fractions are allowed.
        gpus: GPUs of a trial; fractions share one. `auto` is the fraction that its memory needs, as predicted, and 0
            where the device is no CUDA GPU. 0 reserves none: trials share what they see, and nothing is checked.
        concurrency: Trials at once; what the machine has room for when None.
        together: Most candidates of the search, or seeds of a finalist, that are trained in one forward pass, where
            that is measured to be faster.
    """

    cpus: Annotated[float, Field(gt=0, le=1024)] = 1.0
    gpus: Annotated[float, Field(ge=0, le=64)] | Literal["auto"] = "auto"
    concurrency: Annotated[int, Field(ge=1, le=1024)] | None = None
    together: Annotated[int, Field(ge=1, le=20)] = 1

    @property
    def reserved_gpus(self) -> float:
        """GPUs that are reserved for a trial: none while nobody has made a number of `auto`."""
        return self.gpus if isinstance(self.gpus, float) else 0.0


def meters_energy(objectives: Sequence[Objective], budgets: BudgetSpec | None) -> bool:
    """Whether a study limits or searches on what only a meter tells."""
    return is_about(METERED, objectives, budgets)


def is_about(metrics: Collection[str], objectives: Sequence[Objective], budgets: BudgetSpec | None) -> bool:
    """Whether a study limits or searches on any of some metrics."""
    limited = budgets.limits(1) if budgets is not None else {}
    return any(one in metrics for one in (*limited, *(objective.metric for objective in objectives)))


class StudySpec(Strict):
    """Everything that a study is.

    Attributes:
        name: Its name: lower-case letters, digits, `.`, `_` and `-`.
        model: The backbone.
        task: What is learnt, and from which data.
        space: What is searched.
        objectives: One for the best under the budgets, two or three for a front.
        budgets: Hard limits.
        search: How it is searched.
        training: How every candidate is trained.
        calibration: How probabilities are calibrated.
        resources: What a trial may use.
        synthetic: Replaces training by a closed form; for trying out the orchestration.
    """

    name: Name
    model: ModelSpec
    task: TaskSpec
    space: SpaceSpec = Field(default_factory=SpaceSpec)
    objectives: Annotated[tuple[Objective, ...], Field(min_length=1, max_length=3)] = (
        Objective(metric="accuracy", direction="maximize"),
        Objective(metric="trainable_params", direction="minimize"),
    )
    budgets: BudgetSpec = Field(default_factory=BudgetSpec)
    search: SearchSpec = Field(default_factory=SearchSpec)
    training: TrainingSpec = Field(default_factory=TrainingSpec)
    calibration: CalibrationSpec = Field(default_factory=CalibrationSpec)
    resources: ResourcesSpec = Field(default_factory=ResourcesSpec, validate_default=True)
    synthetic: SyntheticSpec | None = None

    @field_validator("objectives")
    @classmethod
    def _different(cls, objectives: tuple[Objective, ...]) -> tuple[Objective, ...]:
        names = [objective.metric for objective in objectives]
        if len(set(names)) != len(names):
            raise ValueError(f"an objective is listed twice in {one_of(names)}")
        if not any(METRICS[name].on_split for name in names):
            quality = one_of(name for name, one in METRICS.items() if one.on_split)
            raise ValueError(f"at least one objective must be about quality: {quality}")
        return objectives

    @field_validator("objectives")
    @classmethod
    def _have_subgroups(cls, objectives: tuple[Objective, ...], info: ValidationInfo) -> tuple[Objective, ...]:
        task = info.data.get("task")
        asked = [one.metric for one in objectives if one.metric.partition("/")[0] in OF_SUBGROUPS]
        if asked and task is not None and not task.has_subgroups:
            raise ValueError(
                f"{asked[0]} needs subgroups; name their column in task.subgroup, or give task.length_bands"
            )
        return objectives

    @field_validator("search")
    @classmethod
    def _begins_with_another(cls, search: SearchSpec, info: ValidationInfo) -> SearchSpec:
        name = info.data.get("name")
        if name is not None and search.warm_start == name:
            raise ValueError(f"warm_start names this study, {name!r}; name another one of the storage, or leave it out")
        return search

    @field_validator("training")
    @classmethod
    def _divided_by_a_limit(cls, training: TrainingSpec, info: ValidationInfo) -> TrainingSpec:
        budgets = info.data.get("budgets")
        if budgets is not None and budgets.memory is None and training.accumulate == "auto":
            raise ValueError("`accumulate: auto` divides steps until budgets.memory is kept; give that, or a number")
        return training

    @field_validator("objectives")
    @classmethod
    def _of_its_tasks(cls, objectives: tuple[Objective, ...], info: ValidationInfo) -> tuple[Objective, ...]:
        task = info.data.get("task")
        known = list(task.tasks or ()) if task is not None else []
        for name in (one.metric for one in objectives if task_of(one.metric)):
            if task is not None and task_of(name) not in known:
                names = one_of(known) or "none by a name"
                raise ValueError(f"{name}: the study's tasks are {names}{did_you_mean(task_of(name), known)}")
        return objectives

    @field_validator("resources")
    @classmethod
    def _one_on_the_meter(cls, resources: ResourcesSpec, info: ValidationInfo) -> ResourcesSpec:
        objectives = info.data.get("objectives", ())
        if meters_energy(objectives, info.data.get("budgets")) and resources.concurrency != 1:
            raise ValueError("a meter counts the whole device: a study about energy needs `concurrency: 1`")
        return resources

    @field_validator("synthetic")
    @classmethod
    def _has_gradients(cls, synthetic: SyntheticSpec | None, info: ValidationInfo) -> SyntheticSpec | None:
        search = info.data.get("search")
        looking = [one for one in search.proposals if one in LOOKING] if search is not None else []
        if synthetic is not None and looking:
            raise ValueError(f"it has no model to look at; take {one_of(looking)} out of search.proposals")
        return synthetic

    @field_validator("calibration")
    @classmethod
    def _measures_the_limit(cls, calibration: CalibrationSpec, info: ValidationInfo) -> CalibrationSpec:
        budgets = info.data.get("budgets")
        if budgets is not None and budgets.ece is not None and calibration.method == "none":
            raise ValueError("budgets.ece limits the error after calibration; give a method, or take that budget away")
        return calibration

    @property
    def pauses(self) -> bool:
        """Whether candidates pause at rungs, and go on when that is worth more than what is new."""
        rungs = self.search.early_stopping
        return len(self.objectives) > 1 and self.search.sampler == "forest" and rungs.rule == "freeze_thaw"

    @property
    def startup_trials(self) -> int:
        """Trials before the sampler learns."""
        return self.search.startup_trials or (2 if self.pauses else 5)

    def to_json(self) -> dict[str, Any]:
        """Return this spec as JSON data that `parse` reads back to an equal spec."""
        data = self.model_dump(mode="json", exclude_none=True)
        data["space"] = self.space.to_json()
        data["objectives"] = [objective.to_json() for objective in self.objectives]
        return data

    @property
    def sha256(self) -> str:
        """Identity of what a study is, apart from how much of it is bought.

        The budgets of trials, time and steps and the resources may differ between two runs of one study.
        """
        data = self.to_json()
        del data["resources"]
        for extendable in ("trials", "time", "steps", "trial_time"):
            data["budgets"].pop(extendable, None)
        text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


def parse(data: object, source: str = "study") -> StudySpec:
    """Check JSON data and return the spec.

    Raises:
        SpecError: With every problem: its path, what is allowed and a near name.
    """
    if not isinstance(data, Mapping):
        raise SpecError([Problem("", f"expected a mapping with {one_of(StudySpec.model_fields)}")], source)
    try:
        return StudySpec.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        raise SpecError(_problems(error), source) from None


def _problems(error: ValidationError) -> list[Problem]:
    found: dict[str, Problem] = {}
    for one in sorted(error.errors(), key=lambda one: one["type"] == "too_short"):
        path = [part for part in one["loc"] if not _is_union_tag(part)]
        where = ".".join(map(str, path))
        if one["type"] == "problems":
            found |= {f"{where}.{key}": Problem(f"{where}.{key}", text) for key, text in one["ctx"]["problems"]}
        elif one["type"] != "too_short" or not any(known.startswith(f"{where}.") for known in found):
            found.setdefault(where, _problem(one, path, where))
    return list(found.values())


def _problem(error: Any, path: list[Any], where: str) -> Problem:
    if error["type"] == "extra_forbidden":
        allowed = _keys_at(path[:-1])
        return Problem(where, f"unknown key; allowed here: {one_of(allowed)}{did_you_mean(str(path[-1]), allowed)}")
    if error["type"] == "missing":
        return Problem(where, "is missing")
    message = error["msg"].removeprefix("Value error, ")
    given = error["input"]
    ours = "error" in error.get("ctx", {})
    shown = "" if ours or isinstance(given, Mapping | list | tuple) else f", not {given!r}"[:120]
    return Problem(where, message[:1].lower() + message[1:] + shown)


def _is_union_tag(part: object) -> bool:
    return isinstance(part, str) and ("[" in part or part in ("int", "str", "float"))


def _keys_at(path: list[Any]) -> list[str]:
    """Return the keys that the model at a path takes."""
    model: Any = StudySpec
    for part in _without_task_names(path):
        if not isinstance(part, str) or part not in getattr(model, "model_fields", {}):
            return ["maximize", "minimize"] if path[0] == "objectives" else []
        annotation = model.model_fields[part].annotation
        model = next((one for one in _within(annotation) if isinstance(one, type) and issubclass(one, BaseModel)), None)
    return list(getattr(model, "model_fields", {}))


def _without_task_names(path: list[Any]) -> list[Any]:
    """Return a path without the name of one of several tasks, which stands where the keys of a data set begin."""
    return [*path[:2], *path[3:]] if path[:2] == ["task", "tasks"] else path


def _within(annotation: Any) -> Iterator[Any]:
    """Yield a type and what it is made of."""
    yield annotation
    for one in get_args(annotation):
        yield from _within(one)
