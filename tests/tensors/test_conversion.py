"""CP, Tucker, tensor train and ConvAC networks, to HT tensors and back."""

import numpy as np
import pytest
import tensorly as tl
import torch
from dense import all_indices, dense_ht

import htf
from htf import tensors

Tree = htf.DimensionTree
TREES = [None, Tree.balanced(4), Tree.linear(4), Tree.balanced(4, arity=4), Tree.interleaved(4), Tree.balanced(4, 3)]


@pytest.mark.parametrize("tree", TREES)
def test_cp_there_and_back(tree):
    cp = tl.random.random_cp((3, 4, 5, 2), 3, random_state=0)
    cp.weights = np.array([1.0, -2.0, 0.5])
    x = tensors.cp_to_ht(cp, tree)
    assert x.tree == (Tree.balanced(4) if tree is None else tree)
    np.testing.assert_allclose(x.to_tensor(), cp.to_tensor(), atol=1e-12)
    back = tensors.ht_to_cp(x)
    assert back.rank == 3
    np.testing.assert_allclose(back.to_tensor(), cp.to_tensor(), atol=1e-12)


def test_any_tensor_expands_into_components():
    x = htf.random_ht((3, 4, 2), 2, random_state=0)
    cp = tensors.ht_to_cp(x)
    assert cp.rank == 8
    np.testing.assert_allclose(cp.to_tensor(), x.to_tensor(), atol=1e-12)
    with pytest.raises(ValueError, match="exact expansions end at 65536"):
        tensors.ht_to_cp(htf.random_ht((4,) * 16, 4, random_state=0))


@pytest.mark.parametrize("tree", TREES)
def test_tucker_there_and_back(tree):
    tucker = tl.random.random_tucker((3, 4, 5, 2), (2, 3, 2, 2), random_state=0)
    x = tensors.tucker_to_ht(tucker, tree)
    assert x.tree == (Tree.balanced(4, arity=4) if tree is None else tree)
    np.testing.assert_allclose(x.to_tensor(), tucker.to_tensor(), atol=1e-12)
    back = tensors.ht_to_tucker(x)
    assert back.rank == (2, 3, 2, 2)
    np.testing.assert_allclose(back.to_tensor(), tucker.to_tensor(), atol=1e-12)


@pytest.mark.parametrize("tree", TREES)
def test_tensor_train_there_and_back(tree):
    tt = tl.random.random_tt((3, 4, 5, 2), (1, 2, 3, 2, 1), random_state=0)
    x = tensors.tt_to_ht(tt, tree)
    np.testing.assert_allclose(x.to_tensor(), tt.to_tensor(), atol=1e-12)
    back = tensors.ht_to_tt(x)
    assert back.rank == (1, 2, 3, 2, 1)
    np.testing.assert_allclose(back.to_tensor(), tt.to_tensor(), atol=1e-12)


def test_vectors_are_converted_too():
    x = htf.random_ht((4,), 1, random_state=0)
    for there, back in (
        (tensors.ht_to_cp, tensors.cp_to_ht),
        (tensors.ht_to_tt, tensors.tt_to_ht),
    ):
        np.testing.assert_allclose(back(there(x)).to_tensor(), x.to_tensor())
    core, factor = np.arange(1.0, 3.0), np.arange(8.0).reshape(4, 2)
    np.testing.assert_allclose(tensors.tucker_to_ht((core, [factor])).to_tensor(), factor @ core)
    with pytest.raises(ValueError, match="a Tucker tensor has two modes at least"):
        tensors.ht_to_tucker(x)


def test_what_cannot_be_converted():
    several = htf.random_ht((3, 4), 2, random_state=0, outputs=2)
    for there in (tensors.ht_to_cp, tensors.ht_to_tucker, tensors.ht_to_tt):
        with pytest.raises(ValueError, match="2 outputs"):
            there(several)
    with pytest.raises(ValueError, match="tree has 3 modes; the tensor has 2"):
        tensors.cp_to_ht((None, [np.ones((3, 1))] * 2), Tree.balanced(3))
    with pytest.raises(ValueError, match="factor of mode 1 has shape"):
        tensors.cp_to_ht((None, [np.ones((3, 1)), np.ones((3, 2))]))
    with pytest.raises(ValueError, match=r"factor of mode 0 has shape \(3,\)"):
        tensors.cp_to_ht((None, [np.ones(3), np.ones((3, 2))]))
    with pytest.raises(ValueError, match="core 1 has shape"):
        tensors.tt_to_ht([np.ones((1, 2, 2)), np.ones((3, 2, 1))])
    with pytest.raises(ValueError, match="factor 0 has shape"):
        tensors.tucker_to_ht((np.ones((2, 2)), [np.ones((3, 1)), np.ones((3, 2))]))


# -- networks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tree", [Tree.balanced(4), Tree.balanced(5, arity=3), Tree.linear(4)])
@pytest.mark.parametrize("outputs", [1, 3])
def test_a_network_is_its_tensor_and_comes_back_from_it(tree, outputs):
    dims = (2, 3, 2, 4, 3)[: tree.order]
    network = htf.nn.HTNetwork(tree, dims, [2, 3], outputs=outputs, seed=0, dtype=torch.float64)
    indices = all_indices(dims)
    for run in range(2):
        x = network.to_tensor(run)
        expected = dense_ht(tree, dims, network.parameters_for(run))
        torch.testing.assert_close(x.to_tensor(), expected.squeeze(-1))
        torch.testing.assert_close(x.entries(indices), network(indices)[:, run])
    back = htf.nn.HTNetwork.from_tensor([network.to_tensor(run) for run in range(2)])
    assert back.widths == network.widths
    torch.testing.assert_close(back(indices), network(indices))


def test_gradients_reach_the_networks_parameters():
    network = htf.nn.HTNetwork(Tree.balanced(3), 2, 3, seed=0, dtype=torch.float64)
    weight = torch.linspace(-1, 1, 8, dtype=torch.float64).view(2, 2, 2)
    ours = torch.autograd.grad((network.to_tensor().to_tensor() * weight).sum(), list(network.parameters()))
    outputs = network(all_indices(network.dims))[:, 0].view(2, 2, 2)
    expected = torch.autograd.grad((outputs * weight).sum(), list(network.parameters()))
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_full_transfer_tensors_take_products_of_ranks_as_widths():
    x = htf.random_ht((3, 2, 4, 3), 2, random_state=0).to_backend("pytorch")
    network = htf.nn.HTNetwork.from_tensor(x)
    assert network.widths == [{4: 4, 5: 4, 6: 4}]
    assert network.dtype == torch.float64
    torch.testing.assert_close(network(all_indices(x.shape))[:, 0].view(x.shape), x.to_tensor())
    torch.testing.assert_close(network.to_tensor().to_tensor(), x.to_tensor())


def test_a_tensor_of_zeros_is_a_network_of_width_one():
    x = (htf.random_ht((3, 2), 2, random_state=0) * 0).to_backend("pytorch")
    network = htf.nn.HTNetwork.from_tensor(x)
    assert network.widths == [{2: 1}]
    assert not network(all_indices(x.shape)).any()


def test_shared_weights_are_read_by_every_node():
    network = htf.nn.HTNetwork(Tree.balanced(4), 3, 2, shared=True, seed=0)
    torch.testing.assert_close(network.to_tensor().to_vec(), network(all_indices(network.dims))[:, 0])


def test_networks_from_what_does_not_fit():
    x = htf.random_ht((3, 2), 2, random_state=0)
    with pytest.raises(TypeError, match="a network takes PyTorch tensors"):
        htf.nn.HTNetwork.from_tensor(x)
    with pytest.raises(ValueError, match="tensors is empty"):
        htf.nn.HTNetwork.from_tensor([])
    with pytest.raises(ValueError, match="shapes"):
        htf.nn.HTNetwork.from_tensor([x.to_backend("pytorch"), htf.random_ht((3, 3), 2).to_backend("pytorch")])
    wide = htf.nn.HTNetwork(Tree.balanced(2), 2, 20_000, seed=0)
    wide_root = htf.nn.HTNetwork(Tree.balanced(4), 2, 2000, seed=0)
    with pytest.raises(ValueError, match=r"transfer tensor of 4\.0e\+08 entries"):
        wide.to_tensor()
    with pytest.raises(ValueError, match="node 4 of width 2000"):
        wide_root.to_tensor()


def test_parts_that_are_missing_or_too_many():
    with pytest.raises(ValueError, match="there are 2 factors for a core of 3 axes"):
        tensors.tucker_to_ht((np.ones((2, 2, 2)), [np.ones((3, 2))] * 2))
    with pytest.raises(ValueError, match="cp_tensor has no factors"):
        tensors.cp_to_ht((None, []))
    with pytest.raises(ValueError, match="tt_tensor has no cores"):
        tensors.tt_to_ht([])
    with pytest.raises(ValueError, match=r"weights have shape \(3,\); expected \(2,\)"):
        tensors.cp_to_ht((np.ones(3), [np.ones((4, 2))] * 2))
    with pytest.raises(TypeError, match="mixes dtypes float32 and float64"):
        tensors.cp_to_ht((np.ones(2), [np.ones((4, 2), dtype=np.float32)] * 2))
    vector = htf.random_ht((3,), 1, Tree.balanced(1), like=torch.zeros(0))
    torch.testing.assert_close(tensors.ht_to_cp(vector).factors[0][:, 0], vector.to_tensor())
