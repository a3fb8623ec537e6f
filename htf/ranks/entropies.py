"""Entanglement entropies of every edge of the tree, from Gramians and differentiable."""

from __future__ import annotations

from collections.abc import Iterable

from htf.linalg.backend import Array, Backend, adjoint, asarray, conj, constant, real_part
from htf.ranks.frames import Frames, Ranked, check_edges
from htf.ranks.spectrum import shannon


def entanglement_entropies(x: Ranked, edges: Iterable[int] | None = None, run: int = 0) -> dict[int, Array]:
    r"""Entanglement (von Neumann) entropy across every edge of the tree.

    .. math:: S_\nu = -\sum_i p_i \log p_i, \qquad p_i = \sigma_i^2 / \sum_j \sigma_j^2,

    for the singular values :math:`\sigma_i` of the matricization of node :math:`\nu` against the rest.

    Parameters
    ----------
    x : HTTensor, (tree, factors), HTNetwork, CPNetwork or CPTensor
    edges : iterable of int, optional
        Nodes below the root to compute; all by default.
    run : int
        Which run of a network.

    Returns
    -------
    dict
        From each node to a 0-dimensional array in double precision, in nats: at least 0, at most the logarithm of the
        rank; 0 for a zero tensor.

    Raises
    ------
    IndexError
        If `run` or a node is out of range.
    TypeError, ValueError
        If `x` is nothing that has a tree, or has NaN or infinite entries.

    See Also
    --------
    htf.ranks.renyi2_entropies : in closed form, with gradients of any order.
    htf.ranks.spectra : the singular values themselves.
    htf.ranks.data_entanglement : entropies of data.

    Notes
    -----
    O(N R³) multiplications for ConvACs, O(N n r² + N r⁴) for HT tensors.  Gradients flow, and are right at repeated and
    zero singular values: the entropy is a smooth function of the tensor there, and only eigenvalues are differentiated.
    First derivatives only; `renyi2_entropies` has all of them.

    References
    ----------
    .. [1] Y. Levine, D. Yakira, N. Cohen, A. Shashua, "Deep learning and quantum entanglement: fundamental connections
       with implications to network design", ICLR 2018.

    Examples
    --------
    >>> import numpy as np, htf
    >>> x = htf.hierarchical_tucker(np.eye(3), tol=0)  # three equal singular values
    >>> entropies = htf.ranks.entanglement_entropies(x)
    >>> {node: round(float(entropy), 4) for node, entropy in entropies.items()}, round(float(np.log(3)), 4)
    ({0: 1.0986, 1: 1.0986}, 1.0986)
    """
    frames = Frames.of(x, run)
    B, chosen = frames.backend, check_edges(frames.tree, edges)
    # Overlaps with the frames as they stand, held constant: enough for bases of all row and column spaces, in which the
    # matricization keeps its nonzero singular values to first order.
    below, _ = frames.below(frames.constants, frames.factors)
    above = frames.above(frames.constants, frames.factors, below, chosen)
    return {node: _von_neumann(B, *_balanced(B, below[node], above[node])) for node in chosen}


def renyi2_entropies(x: Ranked, edges: Iterable[int] | None = None, run: int = 0) -> dict[int, Array]:
    r"""Rényi-2 entropy across every edge of the tree, in closed form.

    .. math:: -\log \frac{\sum_i \sigma_i^4}{(\sum_i \sigma_i^2)^2} = -\log \frac{\operatorname{tr}((M G)^2)}
        {\operatorname{tr}(M G)^2}

    for the Gramians M of the frame of the node and G of the rest of the tensor: the logarithm of purity, negated.

    Parameters
    ----------
    x : HTTensor, (tree, factors), HTNetwork, CPNetwork or CPTensor
    edges : iterable of int, optional
        Nodes below the root to compute; all by default.
    run : int
        Which run of a network.

    Returns
    -------
    dict
        From each node to a 0-dimensional array in double precision, in nats: at least 0, at most
        `entanglement_entropies`; 0 for a zero tensor.

    Raises
    ------
    IndexError
        If `run` or a node is out of range.
    TypeError, ValueError
        If `x` is nothing that has a tree, or has NaN or infinite entries.

    See Also
    --------
    htf.ranks.entanglement_entropies : von Neumann entropies, which are larger.
    htf.regularizers.TreeEntropy : a term of a loss made of them.

    Notes
    -----
    Products and sums alone, so that gradients of any order are right everywhere but at zero.  O(N R³) multiplications
    for ConvACs, O(N n r² + N r⁴) for HT tensors.

    References
    ----------
    .. [1] Y. Levine, D. Yakira, N. Cohen, A. Shashua, "Deep learning and quantum entanglement: fundamental connections
       with implications to network design", ICLR 2018.

    Examples
    --------
    >>> import htf
    >>> net = htf.nn.HTNetwork(htf.DimensionTree.balanced(4), dims=3, width=3, seed=0)
    >>> renyi, entropy = htf.ranks.renyi2_entropies(net), htf.ranks.entanglement_entropies(net)
    >>> all(0 <= renyi[node] <= entropy[node] for node in net.tree.levels[0])
    True
    >>> sum(renyi.values()).backward()  # a loss
    """
    frames = Frames.of(x, run)
    B, chosen = frames.backend, check_edges(frames.tree, edges)
    below, _ = frames.below(frames.factors, frames.factors)
    above = frames.above(frames.factors, frames.factors, below, chosen)
    return {node: _renyi2(B, *_balanced(B, below[node], above[node])) for node in chosen}


def _balanced(B: Backend, below: Array, above: Array) -> tuple[Array, Array]:
    """Columns of the frame and of the rest scaled to norms alike, by constants: their products are what counts.

    Columns of products of many factors differ by so many orders of magnitude that they would be lost to rounding.
    """
    m, g = (B.sqrt(B.abs(B.diag(constant(overlap)))) for overlap in (below, above))
    scale = B.sqrt(B.where((m > 0) & (g > 0), g, m * 0 + 1) / B.where((m > 0) & (g > 0), m, m * 0 + 1))
    outer = B.reshape(scale, (-1, 1)) * scale
    return below * outer, above / outer


def _renyi2(B: Backend, below: Array, above: Array) -> Array:
    # For X = U Aᵀ, X Xᴴ is U times the conjugate of Aᴴ A, times Uᴴ.
    product = B.matmul(below, conj(above))
    trace = real_part(product.trace())
    if not float(constant(trace)) > 0:
        return asarray(B, 0.0, real_part(below))
    product = product / trace
    return -B.log(real_part(B.sum(product * product.T)))


def _von_neumann(B: Backend, below: Array, above: Array) -> Array:
    """From the overlaps U₀ᴴ U and A₀ᴴ A of a node's frame and of the rest with themselves held constant.

    With orthonormal bases U₀ S and A₀ T, the matricization U Aᵀ is (Sᴴ U₀ᴴ U)(Tᴴ A₀ᴴ A)ᵀ in coordinates.
    """
    left = B.matmul(adjoint(_whitening(B, constant(below))), below)
    right = B.matmul(adjoint(_whitening(B, constant(above))), above)
    matrix = B.matmul(left, right.T)
    if 0 in matrix.shape:
        return asarray(B, 0.0, real_part(below))
    small = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    values = B.eigh(B.matmul(small, adjoint(small)))[0]
    total = B.sum(values)
    return shannon(B, values / total) if float(constant(total)) > 0 else asarray(B, 0.0, real_part(below))


def _whitening(B: Backend, gramian: Array) -> Array:
    """S with Sᴴ (U₀ᴴ U₀) S = 1, on the range of the Gramian."""
    values, vectors = B.eigh((gramian + adjoint(gramian)) / 2)
    kept = values > float(B.eps(values.dtype)) * values.shape[0] * max(float(values[-1]), 0.0)
    return vectors[:, kept] / B.sqrt(values[kept])
