"""HT tensors in safetensors files, the tree as JSON beside the factors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from htf._files import read_tensors, write_tensors
from htf.linalg.backend import backend_of, is_complex
from htf.tensors.ht_tensor import HTTensor, RawHT, as_ht
from htf.tree import DimensionTree

_WHAT = "HTTensor"


def save(ht_tensor: HTTensor | RawHT, path: str | Path) -> None:
    """Write an HT tensor to a safetensors file.

    Parameters
    ----------
    ht_tensor : HTTensor or (tree, factors)
        Of NumPy arrays or PyTorch tensors; those of other backends are written as NumPy arrays.
    path : str or Path
        Written beside and then renamed, so that a file of that name is replaced whole or not at all.

    Raises
    ------
    OSError
        If the file cannot be written; what was there is kept.

    See Also
    --------
    htf.load : reads it.
    htf.models.load : files of fitted models.

    Examples
    --------
    >>> import tempfile, htf
    >>> x = htf.random_ht((4, 5, 6), rank=2, random_state=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     htf.save(x, f"{folder}/x.safetensors")
    ...     again = htf.load(f"{folder}/x.safetensors")
    >>> again.shape, bool((again.factors[0] == x.factors[0]).all())
    ((4, 5, 6), True)
    """
    x = as_ht(ht_tensor)
    B = backend_of(x.factors[0])
    about = {
        "what": _WHAT,
        "backend": B.backend_name,
        "order": x.tree.order,
        "children": [list(x.tree.children(node)) for node in x.tree.inner_nodes],
    }
    tensors = {
        f"factor.{node}": f if isinstance(f, torch.Tensor) else _in_torch(B.to_numpy(f))
        for node, f in enumerate(x.factors)
    }
    if is_complex(x.factors[0]):
        # The format has no complex128: real and imaginary parts are a last axis.
        about["complex"] = True
        tensors = {name: torch.view_as_real(f.detach().resolve_conj()) for name, f in tensors.items()}
    write_tensors(Path(path), tensors, about, f"an {_WHAT}")


def _in_torch(array: np.ndarray) -> torch.Tensor:
    # PyTorch takes no negative strides, and warns of arrays that are only read.
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def load(path: str | Path, backend: str | None = None) -> HTTensor:
    """Read an HT tensor that `save` wrote; nothing in the file is executed.

    Files of htf 0.1, which carry no checksum, are read too.

    Parameters
    ----------
    path : str or Path
    backend : str, optional
        Name of the TensorLy backend of the factors; that of the tensor that was saved by default.

    Returns
    -------
    HTTensor

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, so that its content does not match its checksum, or holds something else, or its backend
        is not installed (name another).

    See Also
    --------
    htf.save : writes it.
    htf.models.load : files of fitted models.

    Examples
    --------
    >>> import tempfile, htf
    >>> x = htf.random_ht((4, 5, 6), rank=2, random_state=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     htf.save(x, f"{folder}/x.safetensors")
    ...     again = htf.load(f"{folder}/x.safetensors", backend="pytorch")
    >>> type(again.factors[0]).__name__, again.rank
    ('Tensor', (2, 2, 2, 2, 1))
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there")
    tensors, about = read_tensors(path, sealed=False)
    if about.get("what") != _WHAT:
        raise ValueError(f"{path} holds no HTTensor")
    try:
        tree = _tree_of(about, len(tensors))
        if about.get("complex"):
            tensors = {name: torch.view_as_complex(f) for name, f in tensors.items()}
        x = HTTensor((tree, [tensors[f"factor.{node}"] for node in range(tree.n_nodes)]))
        saved = str(about["backend"])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    name = saved if backend is None else backend
    if name == "pytorch":
        return x
    try:
        return x.to_backend(name)
    except (ImportError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds {x.dtype} factors of {saved!r} and cannot give them as {name!r}") from error


def _tree_of(about: dict[str, Any], n_factors: int) -> DimensionTree:
    order, children = about["order"], about["children"]
    # Before a tree is built, so that no file can ask for one that its factors do not call for.
    if not isinstance(order, int) or order + len(children) != n_factors:
        raise ValueError(f"there are {n_factors} factors for {order} modes and {len(children)} inner nodes")
    if not all(type(child) is int for group in children for child in group):
        raise ValueError("the tree's children are not integers")
    return DimensionTree(order, children)
