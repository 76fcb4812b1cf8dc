"""Configuration of Compacter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from evaluators.tuners.bottleneck import ACTIVATIONS
from evaluators.tuners.wrapping import WrappingConfig, require_one_of, require_positive
from search_space.errors import CandidateError


@dataclass
class CompacterConfig(WrappingConfig):
    """Configuration of `CompacterModel`.

    Attributes:
        r: Width of the bottleneck; a multiple of `n`.
        n: Number of terms in the sum of Kronecker products; it divides every width.
        shared: Whether all targets share the n small matrices A_i (the paper does).
        factorised: Whether each B_i is a product of two factors (the paper's low-rank layer, LPHM).
        factor_rank: Rank of that product (1 in the paper).
        activation: Nonlinearity inside the bottleneck, one of `ACTIVATIONS`.
        scaling: Factor on the adapter's output.
    """

    METHOD: ClassVar[str] = "compacter"

    r: int = 32
    n: int = 4
    shared: bool = True
    factorised: bool = True
    factor_rank: int = 1
    activation: str = "gelu"
    scaling: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self.METHOD, r=self.r, n=self.n, factor_rank=self.factor_rank, scaling=self.scaling)
        require_one_of(self.METHOD, "activation", self.activation, ACTIVATIONS)
        if self.r % self.n:
            raise CandidateError(f"{self.METHOD}: r must be a multiple of n, but {self.r} is none of {self.n}")
