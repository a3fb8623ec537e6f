"""What a network refuses, and what it says then."""

import numpy as np
import pytest
import torch

from htf import DimensionTree
from htf.nn import CPNetwork, HTNetwork, MatrixFactorization

MAKERS = {
    "cp": lambda **arguments: CPNetwork([2, 3], 2, **arguments),
    "ht": lambda **arguments: HTNetwork(DimensionTree.balanced(2), [2, 3], 2, **arguments),
    "matrix": lambda **arguments: MatrixFactorization((2, 3), 2, **arguments),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
class TestAnyNetwork:
    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"dtype": torch.int64}, TypeError, r"dtype is torch\.int64; expected real floating point"),
            ({"dtype": torch.complex64}, TypeError, r"dtype is torch\.complex64; expected real floating point"),
            ({"dtype": "float32"}, TypeError, "dtype is 'float32'; expected real floating point"),
            ({"seed": -1}, ValueError, "seed is -1; expected 0 or more"),
            ({"seed": True}, TypeError, "seed is True; expected an integer"),
            ({"seed": 1.5}, TypeError, "seed is 1.5; expected an integer"),
            ({"seed": [2, 1.5], "runs": 2}, TypeError, r"seed\[1\] is 1.5; expected an integer"),
            ({"seed": [2, -1], "runs": 2}, ValueError, r"seed\[1\] is -1; expected 0 or more"),
            ({"runs": True}, TypeError, "runs is True; expected an integer"),
            ({"runs": 0}, ValueError, "runs is 0; expected at least 1"),
        ],
    )
    def test_arguments(self, make, arguments, error, message):
        with pytest.raises(error, match=message):
            make(**arguments)

    def test_counts_are_kept_as_integers(self, make):
        runs = make(runs=2.0, seed=np.array([0, 1])).runs
        assert (runs, type(runs)) == (2, int)

    @pytest.mark.parametrize("shape", [(0, 7), (0, 2), (0, 3, 3), (0, 2, 2), (0,)])
    def test_empty_batches_of_another_shape_or_type(self, make, shape):
        with pytest.raises(ValueError, match="vectors has "):
            make()(torch.zeros(shape))

    def test_empty_indices_of_another_order(self, make):
        with pytest.raises(ValueError, match="indices has 7 columns; the network has order 2"):
            make()(torch.zeros(0, 7, dtype=torch.int64))


class TestBadInput:
    tree = DimensionTree.balanced(3)

    def net(self):
        return HTNetwork(self.tree, (2, 3, 2), 2, seed=0)

    @pytest.mark.parametrize("width", [0, -1])
    def test_rank_below_one(self, width):
        with pytest.raises(ValueError, match=f"width is {width}; expected at least 1"):
            HTNetwork(self.tree, 2, width)
        with pytest.raises(ValueError, match=f"rank is {width}; expected at least 1"):
            CPNetwork([2, 2], width)

    def test_rank_that_is_no_integer(self):
        with pytest.raises(TypeError, match=r"width is 1\.5"):
            HTNetwork(self.tree, 2, 1.5)
        with pytest.raises(TypeError, match=r"rank is 1\.5"):
            CPNetwork([2, 2], 1.5)

    def test_dims_of_another_order(self):
        with pytest.raises(ValueError, match="dims has 2 entries; the tree has 3 modes"):
            HTNetwork(self.tree, (2, 2), 2)

    def test_order_one(self):
        with pytest.raises(ValueError, match="order 1"):
            HTNetwork(DimensionTree.balanced(1), 2, 2)
        with pytest.raises(ValueError, match="order 1"):
            CPNetwork([2], 2)

    def test_width_mapping_that_misses_a_node(self):
        with pytest.raises(ValueError, match="no value for inner node"):
            HTNetwork(self.tree, 2, {3: 2})

    def test_runs_and_widths_that_disagree(self):
        with pytest.raises(ValueError, match="width has 2 values, one per run; runs is 3"):
            HTNetwork(self.tree, 2, [1, 2], runs=3)
        with pytest.raises(ValueError, match="runs is 0"):
            HTNetwork(self.tree, 2, 1, runs=0)
        with pytest.raises(ValueError, match="rank is empty"):
            CPNetwork([2, 2], [])

    def test_shared_matrices_of_unequal_shapes(self):
        with pytest.raises(ValueError, match="shared"):
            HTNetwork(self.tree, (2, 3, 2), 2, shared=True)

    def test_input_of_another_order(self):
        with pytest.raises(ValueError, match="indices has 4 columns; the network has order 3"):
            self.net()(torch.zeros(5, 4, dtype=torch.int64))
        with pytest.raises(ValueError, match="vectors has 4 modes; the network has order 3"):
            self.net()(torch.zeros(5, 4, 3))

    @pytest.mark.parametrize(("value", "mode"), [(3, 1), (-1, 0), (2, 2)])
    def test_indices_out_of_range(self, value, mode):
        indices = torch.zeros(5, 3, dtype=torch.int64)
        indices[2, mode] = value
        with pytest.raises(IndexError, match=f"mode {mode} .*{value}.*dimension is {(2, 3, 2)[mode]}"):
            self.net()(indices)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_encodings_that_are_not_finite(self, bad):
        x = torch.zeros(5, 3, 3)
        x[1, 2, 0] = bad
        with pytest.raises(ValueError, match="1 entries that are NaN or infinite"):
            self.net()(x)

    def test_integers_where_floats_are_meant(self):
        with pytest.raises(TypeError, match=r"vectors has dtype torch\.int64"):
            self.net()(torch.zeros(5, 3, 3, dtype=torch.int64))

    def test_floats_where_integers_are_meant(self):
        with pytest.raises(TypeError, match=r"indices has dtype torch\.float32"):
            self.net().plan(torch.zeros(5, 3))
        with pytest.raises(ValueError, match=r"expected \(batch, order, dim\)"):
            self.net()(torch.zeros(5, 3))

    def test_vectors_of_another_dtype_or_dimension(self):
        with pytest.raises(TypeError, match=r"vectors has dtype torch\.float64; the network has torch\.float32"):
            self.net()(torch.zeros(5, 3, 3, dtype=torch.float64))
        with pytest.raises(ValueError, match="vectors has dimension 2; the largest mode has 3"):
            self.net()(torch.zeros(5, 3, 2))

    def test_plan_of_another_network(self):
        plan = HTNetwork(DimensionTree.from_nested((0, (1, 2))), (2, 3, 2), 2).plan(
            torch.zeros(5, 3, dtype=torch.int64)
        )
        with pytest.raises(ValueError, match="plan of a network with another tree"):
            self.net()(plan)

    def test_dense_tensor_of_high_order(self):
        with pytest.raises(ValueError, match="too many for a dense one"):
            HTNetwork(DimensionTree.grid(28, 28), 2, 2).to_tensor().to_tensor()

    def test_plan_of_another_kind_of_network(self):
        other = MatrixFactorization((2, 2), depth=2, seed=0)
        with pytest.raises(TypeError, match="inputs is a MatrixPlan; expected a Tensor"):
            self.net()(other.plan(torch.zeros(1, 2, dtype=torch.int64)))

    def test_run_that_is_not_there(self):
        with pytest.raises(IndexError, match="run is 1"):
            self.net().to_tensor(1)

    @pytest.mark.parametrize("place", [-1, 99])
    def test_mode_or_node_that_is_not_there(self, place):
        with pytest.raises(IndexError, match=f"node is {place}; the network has nodes 0 to 4"):
            self.net().matrix(place)
        with pytest.raises(IndexError, match=f"mode is {place}; the network has modes 0 to 1"):
            CPNetwork([2, 2], 2, outputs=2).factor(place)

    def test_unknown_initializer(self):
        with pytest.raises(ValueError, match="balanced, gaussian, identity, scale_preserving"):
            HTNetwork(self.tree, 2, 2, init="zeros")

    def test_seeds_of_another_number(self):
        with pytest.raises(ValueError, match="seed has 2 values; the network has 3 runs"):
            CPNetwork([2, 2], [1, 2, 3], seed=[0, 1])
