"""What keeps a calibrator from being judged on the rows that it learned from.

Every calibrator carries a `FittedRows`: a 64-bit key for each row of its fit. Everything here that turns a
calibrator into a score (`held_out_probabilities`, `report`, `ConformalFit.evaluate`) asks it first, and gets
`SeenRowsError` for rows that were fitted on. The other way to a score is cross-fitting, which fits on other rows.
There is no third.

Rows are known in one of two ways:

- **By ids** (`ids=` at the fit and at the score): exact. One shared id is a refusal.
- **By content** (no ids): the key is a hash of the row's logits, less their maximum, rounded to 12 significant bits, so
  that neither a shift nor a passage through a float32 file hides a row. Distinct examples may have equal logits by
  chance, in low precision often. So a row counts as recognised only when its content occurs exactly once in each
  set; for unrelated sets the expected share of such rows is at most 1/e (the maximum of x exp(-x)). A share of one
  half, of either set, is a refusal. The same set, a subset of it and a superset of it all come near 1. A collapsed
  model, whose rows are all alike, is never refused, and cannot be recognised: pass ids.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from calibration.documents import Fields
from calibration.errors import DocumentError, OptionError, SeenRowsError, ShapeError
from calibration.rows import FloatArray

Keys: TypeAlias = npt.NDArray[np.uint64]
Ids: TypeAlias = Sequence[str] | Sequence[int] | npt.NDArray[Any]

_REFUSED_SHARE = 0.5
_HALF, _KEPT = np.uint32(1 << 11), np.uint32(0xFFFFF000)
_SEED = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


@dataclass(frozen=True)
class FittedRows:
    """The rows of a fit, as sorted keys.

    Attributes:
        by: How rows are known: "ids", "content", or "nothing" (a calibrator typed in by hand).
        n: How many rows the fit had.
        keys: The keys that occur once, sorted, eight little-endian bytes each.
    """

    by: Literal["ids", "content", "nothing"] = "nothing"
    n: int = 0
    keys: bytes = field(default=b"", repr=False)

    @classmethod
    def of(cls, data: FloatArray, ids: Ids | None = None) -> FittedRows:
        """Return the record of a fit on these rows, shape (n, k).

        Raises:
            ShapeError: Another number of ids than of rows.
        """
        if ids is None:
            return cls("content", len(data), _occurring_once(content_keys(data)).astype("<u8").tobytes())
        return cls("ids", len(data), np.unique(_id_keys(ids, len(data))).astype("<u8").tobytes())

    def refuse(self, data: FloatArray, ids: Ids | None = None) -> None:
        """Raise SeenRowsError when these rows, about to be scored, are rows of the fit.

        Args:
            data: What would be scored, shape (n, k): logits for a calibrator, probabilities for a conformal fit.
            ids: Their ids; needed when the fit had ids, not used otherwise.

        Raises:
            SeenRowsError: One shared id; or by content, half of either set.
            OptionError: The fit had ids and none are given here.
        """
        if self.by == "ids":
            self._refuse_ids(data, ids)
        elif self.by == "content":
            self._refuse_content(data)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able document."""
        return {"by": self.by, "n": self.n, "keys": base64.b64encode(self.keys).decode("ascii")}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> FittedRows:
        """Return the record that `to_json` wrote.

        Raises:
            DocumentError: Something else.
        """
        fields = Fields(document, "fitted_on", {"by", "n", "keys"})
        by: Any = fields.choice("by", ("ids", "content", "nothing"))
        try:
            keys = base64.b64decode(fields.text("keys"), validate=True)
        except binascii.Error as error:
            raise DocumentError("fitted_on.keys is not base64; write the calibrator again with to_json.") from error
        if len(keys) % 8:
            raise DocumentError(f"fitted_on.keys hold {len(keys)} bytes; a multiple of eight is needed.")
        return cls(by, fields.integer("n", minimum=0), keys)

    def _array(self) -> Keys:
        return np.frombuffer(self.keys, dtype="<u8").astype(np.uint64)

    def _refuse_ids(self, data: FloatArray, ids: Ids | None) -> None:
        if ids is None:
            raise OptionError(
                "the calibrator knows its rows by id, and these rows have none: pass ids=, "
                "so that it can be told that none of them was fitted on."
            )
        shared = int(np.isin(_id_keys(ids, len(data)), self._array()).sum())
        if shared:
            raise SeenRowsError(
                f"{shared} of {len(data)} rows to be scored were fitted on (same id). Score on other rows, or use "
                "cross-fitting, which fits each row's calibrator on the others."
            )

    def _refuse_content(self, data: FloatArray) -> None:
        once = _occurring_once(content_keys(data))
        shared = int(np.isin(once, self._array()).sum())
        if shared >= _REFUSED_SHARE * min(self.n, len(data)):
            raise SeenRowsError(
                f"{shared} of {len(data)} rows to be scored are among the {self.n} that the calibrator was fitted on "
                "(same logits). Score on other rows, or use cross-fitting, which fits each row's calibrator on the "
                "others. If these are different examples with equal logits, pass ids= to the fit and to the score."
            )


def content_keys(data: FloatArray) -> Keys:
    """Return a 64-bit key for each row, equal for rows that differ by a shift, or in the last bits of float32."""
    with np.errstate(over="ignore"):
        gaps = (data - data.max(axis=1, keepdims=True)).astype(np.float32) + np.float32(0.0)
    bits = np.ascontiguousarray(gaps.T).view(np.uint32)
    columns = ((bits + _HALF) & _KEPT).astype(np.uint64)
    keys = np.full(len(data), _SEED)
    for column in columns:
        keys = _mixed(keys ^ column)
    return keys


def unit_uniforms(data: FloatArray, seed: int) -> FloatArray:
    """Return one number in [0, 1) for each row: a hash of its content and the seed, so the same in any batch."""
    keys = _mixed(content_keys(data) ^ _mixed(np.full(1, seed, dtype=np.uint64) + _SEED))
    return (keys >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mixed(keys: Keys) -> Keys:
    """Steele's splitmix64 finaliser: each bit of the input moves half the bits of the output."""
    keys = (keys ^ (keys >> np.uint64(30))) * _MIX_1
    keys = (keys ^ (keys >> np.uint64(27))) * _MIX_2
    mixed: Keys = (keys ^ (keys >> np.uint64(31))) + _SEED
    return mixed


def _id_keys(ids: Ids, n: int) -> Keys:
    if len(ids) != n:
        raise ShapeError(f"there are {len(ids)} ids for {n} rows; one per row is needed.")
    digests = (hashlib.blake2b(str(name).encode(), digest_size=8).digest() for name in ids)
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def _occurring_once(keys: Keys) -> Keys:
    unique, counts = np.unique(keys, return_counts=True)
    once: Keys = unique[counts == 1]
    return once
