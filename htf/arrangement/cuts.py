"""Balanced cuts of a graph of similarities, again and again, so that alike features come to lie near each other."""

from __future__ import annotations

import numpy as np

from htf.arrangement.layout import Layout

# Largest weight of an edge for METIS, which takes integers.
_LARGEST = 1000
CUTS = ("auto", "metis", "spectral")


def chosen_cut(cut: str) -> str:
    """The kind of cut that is made, by what is installed.

    Raises
    ------
    ModuleNotFoundError
        If METIS is asked for by name and pymetis is not installed.
    """
    if cut not in CUTS:
        raise ValueError(f"cut is {cut!r}; expected one of {', '.join(CUTS)}")
    if cut == "spectral":
        return cut
    try:
        import pymetis  # noqa: F401
    except ModuleNotFoundError as error:
        if cut == "metis":
            raise ModuleNotFoundError(
                "cut is 'metis' and pymetis is not installed; install htf-tensors[arrange], or take cut='spectral'",
                name="pymetis",
            ) from error
        return "spectral"
    return "metis"


def nearest(weights: np.ndarray, count: int) -> np.ndarray:
    """Weights of edges that are among the largest so many of either end, ties included; 0 of others.

    Far features may depend on each other, and together outweigh near ones; their edges are weaker one by one.
    """
    if count >= len(weights):
        return weights
    least = np.partition(weights, len(weights) - count, axis=1)[:, len(weights) - count]
    return np.where((weights >= least[:, None]) | (weights >= least), weights, 0.0)


def placed(weights: np.ndarray, layout: Layout, cut: str, seed: int) -> np.ndarray:
    """Features at the cells of a layout, by recursive minimum cuts.

    Parameters
    ----------
    weights : array (n, n)
        Similarities of features, as many as cells.
    layout : Layout
    cut : {"metis", "spectral"}
    seed : int
        Of METIS.

    Notes
    -----
    Each part is cut by METIS or along the Fiedler vector, brought to the sizes of the layout, and improved by exchanges
    of pairs (Kernighan & Lin 1970).  Features outside the part pull towards the half that is nearer to where they are
    by then (terminal propagation, Dunlop & Kernighan 1985): this is what turns the halves the right way round.
    """
    found = np.arange(len(weights))
    places = np.tile(layout.cells.mean(0), (len(weights), 1))
    for start, middle, stop in layout.cuts:
        part = found[start:stop]
        ends = layout.cells[start:middle].mean(0), layout.cells[middle:stop].mean(0)
        outside = np.ones(len(weights), dtype=bool)
        outside[part] = False
        near, far = (np.linalg.norm(places[outside] - end, axis=1) for end in ends)
        # What it costs a feature to be in the first half in place of the second, in units of an edge that is cut.
        pull = weights[np.ix_(part, outside)] @ ((near - far) / np.linalg.norm(ends[0] - ends[1]))
        first = _halved(weights[np.ix_(part, part)], pull, middle - start, cut, seed)
        found[start:stop] = np.concatenate([part[first], part[~first]])
        places[found[start:middle]], places[found[middle:stop]] = ends
    return found


def _halved(weights: np.ndarray, pull: np.ndarray, count: int, cut: str, seed: int) -> np.ndarray:
    """Whether each feature is among the `count` of the first half."""
    n = len(weights)
    if n == 2:
        return np.array([pull[0] <= pull[1], pull[0] > pull[1]])
    split = _metis(weights, count, seed) if cut == "metis" and n > 8 else None
    if split is None:
        # Fiedler vectors have no direction: it is that in which the pull is less.
        position = fiedler(weights, 1)[:, 0]
        split = np.zeros(n, dtype=bool)
        split[np.argsort(position, kind="stable")[:count]] = True
        other = np.zeros(n, dtype=bool)
        other[np.argsort(-position, kind="stable")[:count]] = True
    else:
        other = ~split
    split, other = (_balanced(weights, pull, each.copy(), count) for each in (split, other))
    return min(
        (_exchanged(weights, pull, each) for each in (split, other)), key=lambda each: _cost(weights, pull, each)
    )


def _cost(weights: np.ndarray, pull: np.ndarray, first: np.ndarray) -> float:
    return float(weights[np.ix_(first, ~first)].sum() + pull[first].sum())


def _gains(weights: np.ndarray, pull: np.ndarray, first: np.ndarray) -> np.ndarray:
    """By how much the cost falls as each feature alone moves to the other half."""
    side = np.where(first, 1.0, -1.0)
    return -side * (weights @ side) + side * pull


def _balanced(weights: np.ndarray, pull: np.ndarray, first: np.ndarray, count: int) -> np.ndarray:
    """Features moved, those that cost least first, until so many are in the first half."""
    while (surplus := int(first.sum()) - count) != 0:
        gains = _gains(weights, pull, first)
        movable = first if surplus > 0 else ~first
        best = int(np.argmax(np.where(movable, gains, -np.inf)))
        first[best] = not first[best]
    return first


def _exchanged(weights: np.ndarray, pull: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Pairs exchanged across the cut, the best first, as long as the cost falls."""
    gains = _gains(weights, pull, first)
    tolerance = 1e-9 * (1 + float(np.abs(gains).max()))
    for _ in range(4 * len(first)):
        own, others = np.flatnonzero(first), np.flatnonzero(~first)
        total = gains[own, None] + gains[others] - 2 * weights[np.ix_(own, others)]
        best = int(np.argmax(total))
        if total.flat[best] <= tolerance:
            break
        i, j = own[best // len(others)], others[best % len(others)]
        first[i], first[j] = False, True
        # Of the others, only the edges to the two changed sides.
        side = np.where(first, 1.0, -1.0)
        gains += 2 * side * (weights[:, i] - weights[:, j])
        gains[[i, j]] = -side[[i, j]] * (weights[[i, j]] @ side) + side[[i, j]] * pull[[i, j]]
    return first


def _metis(weights: np.ndarray, count: int, seed: int) -> np.ndarray | None:
    """Halves by METIS; None if it puts all into one, as it may with very few."""
    import pymetis

    n = len(weights)
    integers = np.rint(weights * (_LARGEST / (weights.max() or 1.0))).astype(np.int64)
    rows, columns = np.nonzero(integers)
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n))])
    # Its seed is a 32-bit integer, and 0 one like others.
    options = pymetis.Options(seed=seed % (2**31 - 1))
    _, halves = pymetis.part_graph(
        2,
        pymetis.CSRAdjacency(adj_starts=starts.tolist(), adjacent=columns.tolist()),
        eweights=integers[rows, columns].tolist(),
        tpwgts=[count / n, 1 - count / n],
        recursive=True,
        options=options,
    )
    first = np.asarray(halves) == 0
    return first if 0 < first.sum() < n else None


def fiedler(weights: np.ndarray, count: int) -> np.ndarray:
    """Eigenvectors of the normalized Laplacian after the constant one, (n, count), always with the same signs."""
    from scipy.linalg import eigh

    n = len(weights)
    # A little of all edges makes the graph connected.
    joined = weights + 1e-6 * (weights.mean() or 1.0)
    np.fill_diagonal(joined, 0)
    scale = 1 / np.sqrt(joined.sum(1))
    laplacian = np.eye(n) - joined * scale[:, None] * scale
    vectors = eigh(laplacian, subset_by_index=[1, min(count, n - 1)])[1] * scale[:, None]
    largest = vectors[np.argmax(np.abs(vectors) > 0.999 * np.abs(vectors).max(0), axis=0), np.arange(vectors.shape[1])]
    return vectors * np.sign(largest)


def spectral_places(weights: np.ndarray, layout: Layout) -> np.ndarray:
    """Features at the cells of a layout, each part sorted along the Fiedler vector, or the next one for rows."""
    vectors = fiedler(weights, 1 if layout.height == 1 or layout.width == 1 else 2)
    found = np.arange(len(weights))
    for start, _, stop in layout.cuts:
        sides = layout.cells[start:stop].max(0) - layout.cells[start:stop].min(0)
        axis = vectors.shape[1] - 1 if sides[0] > sides[1] else 0
        part = found[start:stop]
        found[start:stop] = part[np.argsort(vectors[part, axis], kind="stable")]
    return found
