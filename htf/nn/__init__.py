"""Factorizations as torch modules."""

from htf.nn import init
from htf.nn.cp import CPNetwork
from htf.nn.ht import HTNetwork

__all__ = ["CPNetwork", "HTNetwork", "init"]
