"""Who dominates whom: non-domination, hypervolume, spread, knee and confidence, on plain arrays.

In all of them `values` has shape (n, m): n candidates in rows, m objectives in columns, and `directions` says for each
column which way is better. One row *dominates* another when it is at least as good in every column and better in one;
so equal rows do not dominate each other and share their rank. A row that holds a NaN or an infinity is *broken*: it
dominates nothing, is never non-dominated, ranks behind all others and adds no volume. Nothing depends on chance but
what is drawn, which is seeded; ties are broken by the earlier row. `values` is never changed.

All raise ValueError for a shape that is not (n, m), or for directions that are not m words of `Direction`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from evaluators.score import Direction

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

LEAST_BULGE = 0.05
"""How far a knee stands out from the chord, as a share of the front's extent; below it a front counts as straight."""


def non_dominated(values: npt.ArrayLike, directions: Sequence[Direction]) -> BoolArray:
    """Return which rows no other row dominates, shape (n,). Equal rows are kept together."""
    costs = oriented(values, directions)
    mask = np.zeros(len(costs), dtype=np.bool_)
    usable = _usable(costs)
    mask[usable] = _minimal(costs[usable])
    return mask


def ranks(values: npt.ArrayLike, directions: Sequence[Direction]) -> IntArray:
    """Return the non-domination rank of each row, shape (n,): 0 for the front, 1 for the front without it, and so on.

    Broken rows share the rank behind the last. (Non-dominated sorting: Deb et al. 2002, section III-A.)
    """
    costs = oriented(values, directions)
    layers = _layers(costs)
    found = np.full(len(costs), len(layers), dtype=np.int64)
    for rank, rows in enumerate(layers):
        found[rows] = rank
    return found


def order(values: npt.ArrayLike, directions: Sequence[Direction]) -> IntArray:
    """Return the rows from best to worst, shape (n,): by rank, and within a rank by spread.

    Within a rank comes first the row that is best in the first objective, then again and again the row that is
    farthest from those taken (an epsilon-net), each objective scaled to its extent in that rank. So the first k rows
    are as good and as varied as k rows can be. (Schmucker et al. 2021, arXiv:2106.12639, section 3.)
    """
    costs = oriented(values, directions)
    broken = np.flatnonzero(~np.isfinite(costs).all(axis=1))
    return np.concatenate([*(_spread(costs, rows) for rows in _layers(costs)), broken]).astype(np.int64)


def is_among_first(row: int, count: int, values: npt.ArrayLike, directions: Sequence[Direction]) -> bool:
    """Return whether a usable row is among the first `count` of `order`, without ordering more rows than that takes."""
    costs = oriented(values, directions)
    left = _usable(costs)
    while left.size and count > 0:
        minimal = _minimal(costs[left])
        layer = left[minimal]
        if row in layer:
            return len(layer) <= count or row in _spread(costs, layer)[:count]
        left, count = left[~minimal], count - len(layer)
    return False


def hypervolume(values: npt.ArrayLike, reference: npt.ArrayLike, directions: Sequence[Direction]) -> float:
    """Return the volume that the rows dominate, up to a reference point of shape (m,). Exact, for one to three columns.

    A row that is not better than the reference in every column adds nothing; no row at all gives 0.

    Raises:
        ValueError: More than three columns, or a reference that is not finite.
    """
    costs = oriented(values, directions)
    corner = _corner(reference, directions)
    inside = costs[_usable(costs)]
    inside = inside[(inside < corner).all(axis=1)]
    front = np.unique(inside[_minimal(inside)], axis=0)
    return _volume(front, corner)


def normalized_hypervolume(
    values: npt.ArrayLike, reference: npt.ArrayLike, ideal: npt.ArrayLike, directions: Sequence[Direction]
) -> float:
    """Return the hypervolume as a share of the box from `reference` to `ideal`, in [0, 1].

    What is better than the ideal counts as equal to it.

    Raises:
        ValueError: As `hypervolume`, or an ideal that is not better than the reference in every column.
    """
    corner, best = _corner(reference, directions), _corner(ideal, directions)
    if not (best < corner).all():
        raise ValueError("the ideal point must be better than the reference point in every objective")
    shares = np.maximum((oriented(values, directions) - best) / (corner - best), 0.0)
    return hypervolume(shares, np.ones(len(corner)), _minimized(shares))


def knee(values: npt.ArrayLike, directions: Sequence[Direction]) -> int | None:
    """Return the row where the front bends most, or None where it does not bend.

    It is the row of the front farthest from the chord between the front's two ends, on the side of the ideal, after
    each objective is scaled to [0, 1] over the front (Das 1999). No knee: fewer than three different points, a front
    nearer to its chord than LEAST_BULGE, or another number of objectives than two. Scale a column (such as by its
    logarithm) before, where its ratios count.
    """
    costs = oriented(values, directions)
    front = np.flatnonzero(non_dominated(costs, _minimized(costs)))
    if costs.shape[1] != 2 or len(np.unique(costs[front], axis=0)) < 3:
        return None
    scaled = _scaled(costs[front])
    bulges = (1.0 - scaled.sum(axis=1)) / np.sqrt(2.0)
    best = int(np.argmax(bulges))
    return int(front[best]) if bulges[best] >= LEAST_BULGE else None


def probability_non_dominated(
    samples: Sequence[npt.ArrayLike], directions: Sequence[Direction], draws: int = 2000, seed: int = 0
) -> FloatArray:
    """Return for each candidate the share of draws of all true means in which its own is non-dominated, shape (n,).

    Means are drawn from where they may be, given a few seeds of each candidate: Student's t around the mean of its
    rows. The variance between seeds is taken to be the same for all candidates, and pooled over them, since each alone
    has two or three. The answer of a candidate with one seed is NaN, though its mean is drawn too; so is that of one
    with a broken value, which takes no part.

    Args:
        samples: For each candidate an array of shape (seeds, m).
        directions: Which way is better, for each of the m columns.
        draws: Number of draws.
        seed: Seed of the draws.
    """
    costs = [oriented(one, directions) for one in samples]
    if any(len(one) == 0 for one in costs):
        raise ValueError("every candidate needs at least one row of values")
    if not costs:
        return np.zeros(0)
    chances = 1.0 - _beaten(_drawn_means(costs, draws, np.random.default_rng(seed))).mean(axis=0)
    known = [len(one) > 1 and bool(np.isfinite(one).all()) for one in costs]
    return np.where(known, chances, np.nan)


def hypervolume_interval(
    samples: Sequence[npt.ArrayLike],
    reference: npt.ArrayLike,
    ideal: npt.ArrayLike,
    directions: Sequence[Direction],
    level: float = 0.95,
    draws: int = 400,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Return the normalised hypervolume of the candidates' means, and an interval of that of their true means.

    Means are drawn as `probability_non_dominated` draws them. The hypervolume of means that scatter is larger than that
    of what they scatter around, for the luckiest of equals counts. By as much as that of the draws is above that of the
    means, that of the means is above the truth; so the interval is what the draws differ by, taken off the other way
    round (the basic interval: Davison & Hinkley 1997, section 5.2). It always holds the value itself.

    Args:
        samples: For each candidate an array of finite values of shape (seeds, m), one of them with two seeds or more.
        reference: As for `normalized_hypervolume`.
        ideal: The same.
        directions: Which way is better, for each of the m columns.
        level: Coverage of the interval, in (0, 1).
        draws: Number of draws.
        seed: Seed of the draws.

    Raises:
        ValueError: As `normalized_hypervolume`, or there is no candidate.
    """
    if not samples:
        raise ValueError("a hypervolume needs at least one candidate")
    rows = [np.asarray(one, dtype=np.float64) for one in samples]
    drawn = _drawn_means(rows, draws, np.random.default_rng(seed))
    volumes = [normalized_hypervolume(one, reference, ideal, directions) for one in drawn]
    low, high = np.quantile(volumes, [(1 - level) / 2, (1 + level) / 2])
    whole = normalized_hypervolume([one.mean(axis=0) for one in rows], reference, ideal, directions)
    return whole, max(0.0, min(whole, 2 * whole - float(high))), min(1.0, max(whole, 2 * whole - float(low)))


def oriented(values: npt.ArrayLike, directions: Sequence[Direction]) -> FloatArray:
    """Return a copy of `values` in which less is better in every column."""
    array = np.array(values, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != len(directions):
        raise ValueError(f"expected values of shape (n, {len(directions)}), one column a direction, not {array.shape}")
    return array * _signs(directions)


def _signs(directions: Sequence[Direction]) -> FloatArray:
    wrong = [word for word in directions if word not in ("maximize", "minimize")]
    if wrong or not directions:
        raise ValueError(f"directions must be 'maximize' or 'minimize', at least one, not {list(directions)}")
    return np.array([-1.0 if word == "maximize" else 1.0 for word in directions])


def _minimized(costs: FloatArray) -> list[Direction]:
    return ["minimize"] * costs.shape[1]


def _usable(costs: FloatArray) -> IntArray:
    return np.flatnonzero(np.isfinite(costs).all(axis=1))


def _corner(point: npt.ArrayLike, directions: Sequence[Direction]) -> FloatArray:
    corner = np.asarray(point, dtype=np.float64) * _signs(directions)
    if corner.shape != (len(directions),) or not np.isfinite(corner).all():
        raise ValueError(f"expected a finite point of shape ({len(directions)},), not {point!r}")
    return corner


def _minimal(costs: FloatArray) -> BoolArray:
    """Mask the non-dominated among finite rows. The first in dictionary order is one, and drops what it dominates."""
    mask = np.zeros(len(costs), dtype=np.bool_)
    left = np.lexsort(costs.T[::-1])
    while left.size:
        first = costs[left[0]]
        mask[left[0]] = True
        rest = costs[left[1:]]
        left = left[1:][(rest < first).any(axis=1) | (rest == first).all(axis=1)]
    return mask


def _layers(costs: FloatArray) -> list[IntArray]:
    """Return the usable rows of each rank, the best rank first."""
    layers = []
    left = _usable(costs)
    while left.size:
        minimal = _minimal(costs[left])
        layers.append(left[minimal])
        left = left[~minimal]
    return layers


def _scaled(costs: FloatArray) -> FloatArray:
    """Scale each column to [0, 1]; a constant column becomes 0."""
    low, high = costs.min(axis=0), costs.max(axis=0)
    # Halved before subtracting, since the extent of two huge finite numbers may not be finite.
    extent = np.where(high > low, high / 2 - low / 2, 1.0)
    return np.asarray((costs / 2 - low / 2) / extent, dtype=np.float64)


def _spread(costs: FloatArray, rows: IntArray) -> IntArray:
    """Order the rows of one rank by greedy farthest-point traversal."""
    if len(rows) < 3 or not np.isfinite(costs[rows]).all():
        return rows[np.lexsort(costs[rows].T[::-1])]
    scaled = _scaled(costs[rows])
    nearest = np.full(len(rows), np.inf)
    taken = [int(np.lexsort(scaled.T[::-1])[0])]
    while len(taken) < len(rows):
        nearest = np.minimum(nearest, np.square(scaled - scaled[taken[-1]]).sum(axis=1))
        nearest[taken[-1]] = -1.0
        taken.append(int(np.argmax(nearest)))
    return rows[taken]


def _volume(front: FloatArray, corner: FloatArray) -> float:
    """Volume of a front of finite rows below `corner`, sorted by the first column, without equal rows."""
    if not len(front):
        return 0.0
    if len(corner) == 1:
        return float(corner[0] - front[0, 0])
    if len(corner) == 2:
        heights = np.append(corner[1], front[:-1, 1]) - front[:, 1]
        return float(((corner[0] - front[:, 0]) * heights).sum())
    if len(corner) == 3:
        return _volume_by_slices(front, corner)
    raise ValueError(f"hypervolume takes one to three objectives, not {len(corner)}")


def _volume_by_slices(front: FloatArray, corner: FloatArray) -> float:
    """Add up the areas between neighbouring values of the first column."""
    total = 0.0
    ends = np.append(front[1:, 0], corner[0])
    for position, depth in enumerate(ends - front[:, 0]):
        seen = front[: position + 1, 1:]
        area = np.unique(seen[_minimal(seen)], axis=0)
        total += depth * _volume(area, corner[1:])
    return total


def _drawn_means(samples: Sequence[FloatArray], draws: int, generator: np.random.Generator) -> FloatArray:
    """Return drawn means of all candidates, shape (draws, n, m); NaN for a candidate with a broken value.

    The columns of a candidate vary together as they do between seeds. What is common to all candidates is how large
    the pooled variance truly is, which a draw settles once. Without two seeds of any there is no variance at all.
    """
    whole = [one if np.isfinite(one).all() else np.full_like(one, np.nan) for one in samples]
    deviations = np.concatenate([one - one.mean(axis=0) for one in whole])
    deviations = deviations[np.isfinite(deviations).all(axis=1)]
    counts = np.array([len(one) for one in whole], dtype=np.float64)
    freedom = len(deviations) - sum(bool(np.isfinite(one).all()) for one in whole)
    means = np.stack([one.mean(axis=0) for one in whole])
    if freedom < 1:
        return np.broadcast_to(means, (draws, *means.shape))
    scatter = generator.standard_normal((draws, len(means), len(deviations))) @ deviations
    scale = np.sqrt(generator.chisquare(freedom, size=(draws, 1, 1)) * counts[:, None])
    return np.asarray(means + scatter / scale, dtype=np.float64)


def _beaten(means: FloatArray) -> BoolArray:
    """Mask which candidates are dominated in each draw: (draws, n, m) to (draws, n). NaN dominates nothing."""
    one, other = means[:, :, None, :], means[:, None, :, :]
    dominates = np.all(other <= one, axis=-1) & np.any(other < one, axis=-1)
    return np.asarray(np.any(dominates, axis=2), dtype=np.bool_)
