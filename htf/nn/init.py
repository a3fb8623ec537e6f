"""Initializers of factorization networks; see `htf.nn.networks.init` for how to write one."""

from htf._moments import Moments
from htf.nn.networks.distributions import distributions
from htf.nn.networks.init import (
    Chain,
    Initializer,
    JointInitializer,
    TreeInitializer,
    balanced,
    gaussian,
    identity,
    scale_preserving,
)

__all__ = [
    "Chain",
    "Initializer",
    "JointInitializer",
    "Moments",
    "TreeInitializer",
    "balanced",
    "distributions",
    "gaussian",
    "identity",
    "scale_preserving",
]
