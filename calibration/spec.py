"""The `calibration` section of a study. Not imported by the package itself, which needs numpy and scipy only."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class CalibrationSpec(BaseModel):
    """How probabilities are calibrated and scored.

    Attributes:
        method: What is fitted on the calibration split of every fully trained candidate: one of the calibrators of
            `calibration.calibrators`, `auto` for the one of least cross-fitted NLL among those that the rows can
            carry, or none.
        scarce: With fewer rows than that in the calibration split, validation is fitted on as well, cross-fitted.
        folds: Folds of every cross-fitting.
        predictors: What else is made of the finalists: ensembles of their seeds or of the front, MC-dropout, Laplace
            on the last layer, or on the whole adapter, which takes a pass back for each class.
        passes: Forward passes of MC-dropout.
        least_subgroup: Rows below which a subgroup is scored with the other small ones.
        alpha: Miss rate that the finalists' conformal sets promise.
        bins: Bins of the expected calibration error.
        floor_draws: Draws of the perfect-model floor.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    method: Literal["auto", "temperature", "bias_corrected", "platt", "vector", "histogram", "isotonic", "none"] = (
        "temperature"
    )
    scarce: Annotated[int, Field(ge=0, le=1_000_000)] = 100
    folds: Annotated[int, Field(ge=2, le=20)] = 5
    predictors: tuple[Literal["seeds", "front", "dropout", "laplace", "laplace_diagonal", "laplace_kronecker"], ...] = (
        "seeds",
        "front",
        "dropout",
        "laplace",
    )
    passes: Annotated[int, Field(ge=2, le=1000)] = 10
    least_subgroup: Annotated[int, Field(ge=2, le=1_000_000)] = 50
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.1
    bins: Annotated[int, Field(ge=2, le=100)] = 15
    floor_draws: Annotated[int, Field(ge=100, le=100_000)] = 1000

    @field_validator("predictors", mode="before")
    @classmethod
    def _from_list(cls, given: Any) -> Any:
        return tuple(given) if isinstance(given, list) else given
