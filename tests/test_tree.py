import pickle
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from strategies import nested_trees

from htf import DimensionTree


def test_balanced_joins_neighbours():
    assert DimensionTree.balanced(5).nested == (((0, 1), (2, 3)), 4)
    assert DimensionTree.balanced(7, arity=3).nested == ((0, 1, 2), (3, 4, 5), 6)


def test_interleaved_joins_far_modes_first():
    assert DimensionTree.interleaved(4).nested == ((0, 2), (1, 3))
    # The papers leave the middle mode of an odd number for last.
    assert DimensionTree.interleaved(5).nested == (((0, 3), 2), (1, 4))


def test_linear_is_the_tensor_train():
    assert DimensionTree.linear(4).nested == (((0, 1), 2), 3)


def test_grid_joins_square_patches():
    tree = DimensionTree.grid(4, 4)
    assert [tree.modes(n) for n in tree.levels[1]] == [(0, 1, 4, 5), (2, 3, 6, 7), (8, 9, 12, 13), (10, 11, 14, 15)]
    assert tree.depth == 2


@pytest.mark.parametrize(("height", "width", "depth"), [(28, 28, 5), (8, 8, 3), (3, 5, 3), (1, 6, 3), (1, 1, 0)])
def test_grid_of_any_size(height, width, depth):
    tree = DimensionTree.grid(height, width)
    assert sorted(tree.modes(tree.root)) == list(range(height * width))
    assert tree.depth == depth


def test_grid_window_per_level():
    tree = DimensionTree.grid(8, 8, window=[(1, 8), (8, 1)])
    assert [len(tree.children(n)) for n in tree.inner_nodes] == [8] * 9
    assert tree.modes(tree.levels[1][1]) == tuple(range(8, 16))


def test_grid_windows_of_any_sequence():
    for windows in ([(2, 1), (1, 2)], ((2, 1), (1, 2)), ([2, 1], [1, 2]), np.array([[2, 1], [1, 2]])):
        assert DimensionTree.grid(2, 2, windows).nested == ((0, 2), (1, 3))
    assert DimensionTree.grid(4, 4, np.int64(2)) == DimensionTree.grid(4, 4)
    # Two integers are one window in a tuple, and two in a list.
    assert DimensionTree.grid(2, 3, (2, 3)).depth == 1
    assert DimensionTree.grid(6, 6, [2, 3]) == DimensionTree.grid(6, 6, [2, 3, 3]) != DimensionTree.grid(6, 6, (2, 3))


def test_nodes_are_found_by_modes_of_any_library():
    tree = DimensionTree.balanced(4)
    for modes in ([1, 0], np.array([0, 1]), torch.tensor([0, 1])):
        assert tree.find(modes) == tree.node(modes) == 4
    assert tree.find([1, 2]) is None
    for find in (tree.find, tree.node):
        with pytest.raises(TypeError, match="float"):
            find([0.5])


def test_modes_parents_and_matricizations():
    tree = DimensionTree.from_nested(((2, 0), (1, 3)))
    node = tree.children(tree.root)[0]
    assert tree.modes(node) == (2, 0)
    assert tree.parent(node) == tree.root
    assert tree.parent(tree.root) is None
    assert tree.matricization(node) == ((0, 2), (1, 3))
    assert tree.matricization(1) == ((1,), (0, 2, 3))
    assert list(tree.edges) == [0, 1, 2, 3, 4, 5]


def test_iterates_by_level():
    assert list(DimensionTree.balanced(5)) == [(0, 1, 2, 3, 4), (5, 6), (7,), (8,)]


def test_by_level_spreads_widths():
    tree = DimensionTree.balanced(4)
    assert tree.by_level([3, 7]) == {4: 3, 5: 3, 6: 7}
    with pytest.raises(ValueError, match="values has 1 entries; the tree has 2 inner levels"):
        tree.by_level([3])


def test_prints_as_a_tree():
    assert str(DimensionTree.balanced(3)).splitlines() == [
        "{0, 1, 2}",
        "├─ {0, 1}",
        "│  ├─ {0}",
        "│  └─ {1}",
        "└─ {2}",
    ]
    assert "{0, 1}  rank 4" in DimensionTree.balanced(3).format({3: "rank 4"})


def test_large_trees_print_their_upper_levels():
    text = str(DimensionTree.grid(28, 28))
    assert len(text.splitlines()) <= 81
    assert text.endswith("more nodes)")
    assert len(str(DimensionTree.linear(1000)).splitlines()) <= 81


def test_immutable():
    tree = DimensionTree.balanced(3)
    with pytest.raises(AttributeError):
        tree._children = ()
    with pytest.raises(AttributeError):
        tree.order = 4
    with pytest.raises(AttributeError, match="cannot set levels"):
        tree.levels = ()
    with pytest.raises(AttributeError, match="cannot delete"):
        del tree.levels


def test_equal_structure_is_equal_whatever_the_numbering():
    one = DimensionTree(4, [(0, 1), (2, 3), (4, 5)])
    other = DimensionTree(4, [(2, 3), (0, 1), (5, 4)])
    assert one == other
    assert hash(one) == hash(other)
    assert one != DimensionTree.linear(4)
    assert one != "tree"


@given(nested_trees())
def test_laws_of_any_tree(structure):
    tree = DimensionTree.from_nested(structure)
    assert tree.nested == structure
    assert pickle.loads(pickle.dumps(tree)) == tree
    assert DimensionTree.from_nested(tree.nested) == tree
    for node in range(tree.n_nodes):
        children = tree.children(node)
        assert all(tree.parent(c) == node and c < node for c in children)
        if children:
            assert tree.modes(node) == sum((tree.modes(c) for c in children), ())
            assert tree.level(node) == 1 + max(tree.level(c) for c in children)
        else:
            assert tree.modes(node) == (node,)
        rows, columns = tree.matricization(node)
        assert sorted(rows + columns) == list(range(tree.order))


def test_very_deep_trees():
    tree = DimensionTree.linear(3000)
    assert tree.depth == 2999
    assert DimensionTree.from_nested(tree.nested) == tree


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        (((0, 1), (1, 2)), "mode 1 is repeated"),
        (((0, 1), (3,)), "at least two"),
        ((0, (1, 3)), "holds 3 but not 2"),
        (((), 0), "at least two"),
    ],
)
def test_bad_structures(structure, message):
    with pytest.raises(ValueError, match=message):
        DimensionTree.from_nested(structure)


def test_bad_arguments():
    with pytest.raises(TypeError, match="nested holds 'a'"):
        DimensionTree.from_nested(("a", 0))
    with pytest.raises(ValueError, match="order is 0"):
        DimensionTree.balanced(0)
    with pytest.raises(TypeError, match=r"order is 2\.5"):
        DimensionTree.balanced(2.5)
    with pytest.raises(ValueError, match="arity is 1"):
        DimensionTree.balanced(4, arity=1)
    with pytest.raises(ValueError, match="joins nothing"):
        DimensionTree.grid(4, 4, window=1)
    with pytest.raises(ValueError, match="never joins"):
        DimensionTree.grid(4, 4, window=[(1, 2)])
    for window in ([], ()):
        with pytest.raises(ValueError, match="window is empty"):
            DimensionTree.grid(4, 4, window=window)
    for window in ([(2, 1, 1)], (2, 1, 1)):
        with pytest.raises(ValueError, match=r"window is \(2, 1, 1\); expected an integer or a pair"):
            DimensionTree.grid(4, 4, window=window)
    with pytest.raises(TypeError, match="window is None; expected an integer"):
        DimensionTree.grid(4, 4, window=None)
    with pytest.raises(IndexError, match="node 9 is not in the tree"):
        DimensionTree.balanced(4).modes(9)
    with pytest.raises(ValueError, match="children come before their parent"):
        DimensionTree(3, [(0, 4), (1, 2)])
    with pytest.raises(ValueError, match="mode 3 is not joined"):
        DimensionTree(4, [(0, 1), (2, 4)])


def test_a_linear_tree_of_high_order_takes_memory_linear_in_it():
    tracemalloc.start()
    tree = DimensionTree.linear(5000)
    assert tree.modes(tree.root) == tuple(range(5000))
    assert tree.modes(6000) == tuple(range(1002))
    assert tree.node(range(1002)) == 6000
    assert tree.find(range(1, 1002)) is None
    assert tree.find([-1, 0]) is tree.find([5000]) is tree.find([]) is None
    assert len(str(tree).splitlines()) == 81  # and how many are left out
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # One number for every mode of every node would be 100 MB.
    assert peak < 2e7
