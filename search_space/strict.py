"""The base of every part of a study's spec: unknown keys, NaN, `true` for a number and "8" for 8 are errors."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """A frozen pydantic model that takes nothing it does not know and converts nothing silently."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)
