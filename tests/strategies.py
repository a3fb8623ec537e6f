"""Hypothesis strategies shared by the tests."""

from hypothesis import strategies as st


@st.composite
def nested_trees(draw, max_order=12):
    """Nested tuples over 2 to `max_order` modes, in any order and arity."""
    nodes = list(draw(st.permutations(range(draw(st.integers(2, max_order))))))
    while len(nodes) > 1:
        size = draw(st.integers(2, len(nodes)))
        start = draw(st.integers(0, len(nodes) - size))
        nodes[start : start + size] = [tuple(nodes[start : start + size])]
    return nodes[0]
