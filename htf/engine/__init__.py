"""The engine under every network: plan once which rows to compute, then contract along the tree.

`Layout` says which matrices a network holds and which of them are alike, `Plan` says what is shared,
gathered and contracted for given inputs, and `contract` does it.
"""

from htf.engine.contract import contract
from htf.engine.layout import Block, Layout
from htf.engine.plan import Plan

__all__ = ["Block", "Layout", "Plan", "contract"]
