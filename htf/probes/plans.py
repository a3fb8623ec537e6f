"""Plans of a probe's batches, kept in its folder: they depend on the images alone, and take as long as some epochs."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from htf._files import read_tensors, write_tensors
from htf._version import __version__
from htf.engine import Plan
from htf.engine.stored import plans_from_parts, plans_to_parts
from htf.nn.networks.tree import TreeNetwork

PLANS_FOLDER = "plans"
KIND = "the plans of a probe"

TrainAndTest = tuple[list[Plan], list[Plan]]


def kept_plans(
    path: Path | None, about: dict[str, Any], network: TreeNetwork, make: Callable[[], TrainAndTest]
) -> TrainAndTest:
    """Plans of the train and test batches, read from a file, or made and written there.

    Parameters
    ----------
    path : Path or None
        None keeps nothing.
    about : dict
        What the plans depend on: digest of the data, twin, levels, batches and device, as JSON can hold it.
    network : CPNetwork or HTNetwork
        Which the plans have to serve.
    make : callable
        Makes them.

    Warns
    -----
    RuntimeWarning
        If the file is damaged or holds plans of something else, which are made anew and take its place; or if it cannot
        be written.
    """
    about = {**about, "htf": __version__}
    if path is None:
        return make()
    if path.exists():
        try:
            return _read(path, about, network)
        except ValueError as error:
            warnings.warn(f"{error}; the plans are made anew", RuntimeWarning, stacklevel=2)
    train, test = make()
    tensors, described = plans_to_parts([*train, *test])
    try:
        write_tensors(path, tensors, {"of": about, "train": len(train), "plans": described}, KIND)
    except OSError as error:
        warnings.warn(f"{error}; the next run makes these plans anew", RuntimeWarning, stacklevel=2)
    return train, test


def _read(path: Path, about: dict[str, Any], network: TreeNetwork) -> TrainAndTest:
    tensors, found = read_tensors(path, KIND)
    theirs = found.get("of")
    # Compare after a JSON round trip (tuples become lists).
    if theirs != json.loads(json.dumps(about)):
        raise ValueError(f"{path} holds the plans of {theirs}; here they are of {about}")
    try:
        plans = plans_from_parts(tensors, found["plans"], network.tree, network.device)
        for plan in plans:
            network.check_plan(plan)
        return plans[: found["train"]], plans[found["train"] :]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} does not hold plans of this version ({error!r})") from error
