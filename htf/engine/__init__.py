"""The engine under every network: plan once which rows to compute, then contract along the tree.

`Layout` holds the shapes of a network's matrices, `Plan` what is shared, gathered and contracted for given inputs (made
by `htf.engine.build`, counted by `htf.engine.cost`), and `contract` does it.
"""

from htf.engine.contract import contract
from htf.engine.layout import Block, Layout
from htf.engine.plan import Plan

__all__ = ["Block", "Layout", "Plan", "contract"]
