"""HT weights in tensorly-torch."""

import importlib.util
import subprocess
import sys
import warnings

import pytest
import tensorly as tl
import torch
from torch import nn

import htf

if importlib.util.find_spec("tltorch") is None:
    pytest.skip("tensorly-torch is not installed", allow_module_level=True)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    # First, as it leaves TensorLy's backend to the other tests as it was.
    import htf.tltorch
from tltorch import FactorizedConv, FactorizedEmbedding, FactorizedLinear, FactorizedTensor, TensorizedTensor

OUT, IN = (2, 3, 2), (3, 2, 4)


def layer(implementation="reconstructed", rank=4, **kwargs):
    torch.manual_seed(0)
    return FactorizedLinear(
        IN, OUT, factorization="ht", rank=rank, implementation=implementation, dtype=torch.float64, **kwargs
    )


@pytest.mark.parametrize("implementation", ["reconstructed", "factorized"])
def test_layer_is_its_dense_weight(implementation):
    linear = layer(implementation)
    x = torch.randn(5, 24, dtype=torch.float64)
    weight = linear.weight.to_matrix()
    assert weight.shape == (12, 24)
    torch.testing.assert_close(linear(x), nn.functional.linear(x, weight, linear.bias))
    linear(x).square().sum().backward()
    flow = [p.grad for p in linear.weight.parameters()]
    assert len(flow) == linear.weight.tree.n_nodes
    expected = torch.autograd.grad(
        nn.functional.linear(x, linear.weight.to_matrix(), linear.bias).square().sum(),
        list(linear.weight.parameters()),
    )
    torch.testing.assert_close(flow, list(expected))


def test_from_linear_at_full_rank_is_the_layer():
    plain = nn.Linear(24, 12, dtype=torch.float64)
    bounds = htf.tensors.rank_bounds(htf.tltorch.paired_tree((OUT, IN)), (*OUT, *IN))
    copy = FactorizedLinear.from_linear(
        plain,
        auto_tensorize=False,
        in_tensorized_features=IN,
        out_tensorized_features=OUT,
        rank=bounds,
        factorization="ht",
    )
    x = torch.randn(5, 24, dtype=torch.float64)
    torch.testing.assert_close(copy(x), plain(x))
    assert copy.weight.rank == bounds
    for p in copy.weight.parameters():
        assert p.dtype == torch.float64
        assert p.requires_grad


def test_kronecker_products_have_rank_one_on_the_default_tree():
    factors = [torch.randn(o, i, dtype=torch.float64) for o, i in zip(OUT, IN, strict=True)]
    matrix = torch.kron(torch.kron(factors[0], factors[1]), factors[2])
    found = TensorizedTensor.from_matrix(matrix, OUT, IN, rank={}, factorization="ht")
    torch.testing.assert_close(found.to_matrix(), matrix)
    pairs = {frozenset((k, k + 3)): k for k in range(3)}
    for node in found.tree.edges:
        if frozenset(found.tree.modes(node)) in pairs:
            assert found.rank[node] == 1


@pytest.mark.parametrize(
    ("shape", "nested"),
    [
        (((2, 2), (2, 2)), ((0, 2), (1, 3))),
        (((2, 2, 2), (2, 2, 2)), (((0, 3), (1, 4)), (2, 5))),
        ((5, (2, 2), (2, 2)), (0, ((1, 3), (2, 4)))),
        (((2,), (2, 2)), ((0, 1), 2)),
        (((4,), (3,)), (0, 1)),
    ],
)
def test_default_tree_pairs_rows_with_columns(shape, nested):
    tree = htf.tltorch.paired_tree(shape)
    assert tree == htf.DimensionTree.from_nested(nested)


def test_another_tree():
    tree = htf.DimensionTree.linear(6)
    weight = htf.tltorch.HTTensorized.new((OUT, IN), rank=3, tree=tree, dtype=torch.float64).normal_(0, 0.1)
    linear = FactorizedLinear(IN, OUT, factorization=weight, dtype=torch.float64)
    assert linear.weight.tree == tree
    assert linear(torch.randn(2, 24, dtype=torch.float64)).shape == (2, 12)


def test_training_lowers_the_loss():
    torch.manual_seed(1)
    linear = layer()
    x = torch.randn(64, 24, dtype=torch.float64)
    target = x @ torch.randn(24, 12, dtype=torch.float64) / 24
    optimizer = torch.optim.Adam(linear.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (linear(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_state_round_trip():
    first, second = layer(), layer()
    second.weight.normal_(0, 1)
    x = torch.randn(3, 24, dtype=torch.float64)
    assert not torch.allclose(first(x), second(x))
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(first(x), second(x))


def test_moves_to_another_dtype():
    linear = layer().to(torch.float32)
    assert {p.dtype for p in linear.parameters()} == {torch.float32}
    assert linear(torch.randn(2, 24)).dtype == torch.float32


@pytest.mark.parametrize("std", [0.0, 0.01, 3.0])
@pytest.mark.parametrize("shape", [(4, 5, 6), (2,) * 10])
def test_normal_sets_the_scale(shape, std):
    torch.manual_seed(0)
    weight = FactorizedTensor.new(shape, rank=3, factorization="ht", dtype=torch.float64)
    assert weight.normal_(0, std) is weight
    assert float(weight.to_tensor().detach().square().mean().sqrt()) == pytest.approx(std)


def test_normal_at_a_high_order():
    weight = htf.tltorch.HTFactorized.new((2,) * 400, rank=4).normal_(0, 1)
    entry = weight[(0,) * 400]
    assert bool(torch.isfinite(entry))


def test_factorized_tensor():
    torch.manual_seed(0)
    dense = torch.randn(3, 4, 5, dtype=torch.float64)
    weight = FactorizedTensor.from_tensor(dense, rank={}, factorization="HT")
    torch.testing.assert_close(weight.to_tensor(), dense)
    assert (weight.shape, weight.order, weight.ndim, weight.name) == ((3, 4, 5), 3, 3, "HT")
    tree, factors = weight.decomposition
    torch.testing.assert_close(htf.HTTensor((tree, factors)).to_tensor(), dense)
    torch.testing.assert_close(weight[1].to_tensor(), dense[1])
    torch.testing.assert_close(weight[1, 2, 3], dense[1, 2, 3])
    torch.testing.assert_close(weight[:, 1:3].to_tensor(), dense[:, 1:3])
    weight[1:].to_tensor().sum().backward()
    assert all(p.grad is not None for p in weight.parameters())


@pytest.mark.parametrize("mode", range(4))
def test_transduct_weights_components_along_a_new_mode(mode):
    torch.manual_seed(0)
    weight = FactorizedTensor.new((3, 4, 5), rank=3, factorization="ht", dtype=torch.float64).normal_(0, 1)
    dense, kept = weight.to_tensor().detach(), list(weight.factors)
    partner = min(mode, 2)
    new_factor = torch.randn(2, weight.rank[partner], dtype=torch.float64)
    assert weight.transduct(2, mode, new_factor) is weight
    assert weight.shape == (*(3, 4, 5)[:mode], 2, *(3, 4, 5)[mode:])
    assert weight.order == 4
    # Parameters are those from before, and two new ones.
    assert {id(p) for p in kept} < {id(p) for p in weight.parameters()}
    assert len(list(weight.parameters())) == len(kept) + 2
    for i in range(2):
        leaf = kept[partner].detach() * new_factor[i]
        factors = [leaf if node == partner else f.detach() for node, f in enumerate(kept)]
        expected = htf.HTTensor((htf.DimensionTree.balanced(3), factors)).to_tensor()
        torch.testing.assert_close(weight.to_tensor().select(mode, i), expected)
    # Ones repeat the tensor.
    again = FactorizedTensor.from_tensor(dense, rank={}, factorization="ht").transduct(3, mode)
    torch.testing.assert_close(again.to_tensor(), torch.stack([dense] * 3, mode))


def test_a_convolution_gains_a_dimension():
    torch.manual_seed(0)
    with tl.backend_context("pytorch"):
        convolution = FactorizedConv(3, 4, kernel_size=3, order=2, factorization="ht", implementation="reconstructed")
        convolution.weight.normal_(0, 0.1)
        image = torch.randn(1, 3, 6, 6)
        before = convolution(image).detach()
        convolution.transduct(1, mode=0)
        torch.testing.assert_close(convolution(image[:, :, None])[:, :, 0], before)


@pytest.mark.parametrize("name", ["ht", "complexht"])
def test_complex_weights(name):
    torch.manual_seed(0)
    weight = FactorizedTensor.new((3, 4, 5), rank=3, factorization=name, dtype=torch.complex128)
    weight.normal_(0, 0.5)
    dense = weight.to_tensor()
    assert dense.dtype == torch.complex128
    assert float(dense.detach().abs().square().mean().sqrt()) == pytest.approx(0.5)
    assert {p.is_complex() for p in weight.parameters()} == {name == "ht"}
    torch.testing.assert_close(weight[1:, :, 2].to_tensor(), dense[1:, :, 2])
    torch.testing.assert_close(weight[0, 1, 2], dense[0, 1, 2])
    weight.to_tensor().abs().square().sum().backward()
    assert all(p.grad is not None for p in weight.parameters())
    target = torch.randn(3, 4, 5, dtype=torch.complex128)
    whole = FactorizedTensor.from_tensor(target, rank={}, factorization=name)
    torch.testing.assert_close(whole.to_tensor(), target)
    assert type(whole[1:]) is type(whole)
    state = whole.state_dict()
    other = FactorizedTensor.from_tensor(target * 2, rank={}, factorization=name)
    other.load_state_dict(state)
    torch.testing.assert_close(other.to_tensor(), target)
    torch.testing.assert_close(whole.transduct(2, 1).to_tensor(), torch.stack([target] * 2, 1))
    assert FactorizedTensor.new((2, 3), rank=2, factorization=whole.name).name == whole.name


def test_init_from_tensor_keeps_ranks():
    weight = FactorizedTensor.new((3, 4, 5), rank=2, factorization="ht", dtype=torch.float64)
    low = htf.random_ht((3, 4, 5), rank=2, random_state=0).to_backend("pytorch").to_tensor()
    assert weight.init_from_tensor(low) is weight
    torch.testing.assert_close(weight.to_tensor(), low)
    assert weight.rank == (2, 2, 2, 2, 1)


def test_outer_indexing_of_matrices():
    weight = TensorizedTensor.new((2, OUT, IN), rank=3, factorization="ht", dtype=torch.float64).normal_(0, 1)
    dense = weight.to_matrix()
    assert weight.shape == (2, 12, 24)
    torch.testing.assert_close(weight[1].to_matrix(), dense[1])
    assert weight[1].tensorized_shape == (OUT, IN)
    torch.testing.assert_close(weight[1, :, 7].to_matrix(), dense[1, :, 7])
    torch.testing.assert_close(weight[:, [3, 1, 11]].to_matrix(), dense[:, [3, 1, 11]])
    torch.testing.assert_close(weight[0, 2:9:3, torch.tensor([4, -1])].to_matrix(), dense[0, 2:9:3][:, [4, -1]])
    torch.testing.assert_close(weight[0, -1, 5], dense[0, -1, 5])


def test_several_layers_in_one_tensor():
    torch.manual_seed(0)
    plain = [nn.Linear(24, 12) for _ in range(2)]
    tree = htf.tltorch.paired_tree((2, OUT, IN))
    joint = FactorizedLinear.from_linear_list(
        plain, IN, OUT, htf.tensors.rank_bounds(tree, (2, *OUT, *IN)), factorization="ht", decomposition_kwargs={}
    )
    x = torch.randn(3, 24)
    for k in range(2):
        torch.testing.assert_close(joint[k](x), plain[k](x), rtol=1e-4, atol=1e-5)


def test_other_layers():
    torch.manual_seed(0)
    embedding = FactorizedEmbedding(12, 8, factorization="ht", rank=4)
    tokens = torch.tensor([[1, 3], [11, 0]])
    torch.testing.assert_close(embedding(tokens), embedding.weight.to_matrix()[tokens])
    with tl.backend_context("pytorch"):
        convolution = FactorizedConv(3, 4, kernel_size=3, order=2, factorization="ht", implementation="reconstructed")
        convolution.weight.normal_(0, 0.1)
        image = torch.randn(1, 3, 6, 6)
        expected = nn.functional.conv2d(image, convolution.weight.to_tensor(), convolution.bias)
        torch.testing.assert_close(convolution(image), expected)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: layer().weight.normal_(1.0, 1.0), ValueError, "mean"),
        (lambda: layer().weight.normal_(0, -1.0), ValueError, "std is -1"),
        (lambda: layer().weight.init_from_tensor(torch.zeros(2, 2)), ValueError, r"tensor has shape \(2, 2\)"),
        (lambda: layer().weight[0, 0, 0], IndexError, "3 indices"),
        (lambda: layer().weight[12], IndexError, "index is 12"),
        (lambda: layer(rank=0), ValueError, "rank is 0"),
        (lambda: layer().weight.transduct(2), TypeError, "a tensorized matrix has no mode to add"),
        (lambda: htf.tltorch.HTFactorized.new((2, 2), 1).transduct(2, 3), IndexError, "mode is 3; expected 0 to 2"),
        (lambda: htf.tltorch.HTFactorized.new((2, 2), 1).transduct(0), ValueError, "new_dim is 0"),
        (
            lambda: htf.tltorch.HTFactorized.new((2, 2), 1).transduct(2, 0, torch.ones(2)),
            ValueError,
            r"new_factor has shape \(2,\); expected \(2, 1\)",
        ),
        (lambda: htf.tltorch.HTFactorized.new((2, 2), 1, fixed_rank_modes=[0]), ValueError, "fixed_rank_modes"),
        (
            lambda: htf.tltorch.HTTensorized(*htf.random_ht((2, 2), 1).to_backend("pytorch"), ((2,), (3,))),
            ValueError,
            "tensorized_shape",
        ),
    ],
)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()


BEFORE = """
import threading, warnings
import tensorly as tl
from tensorly.backend import BackendManager
{setup}
local = BackendManager._THREAD_LOCAL_DATA.__dict__
state = lambda: (tl.get_backend(), BackendManager._backend, BackendManager._default_backend, dict(local))
before = state()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import htf.tltorch
assert state() == before, (before, state())
seen = []
thread = threading.Thread(target=lambda: seen.append(tl.get_backend()))
thread.start(); thread.join()
assert seen == [{elsewhere!r}], seen
layer = htf.tltorch.HTTensorized.new(((2, 2), (2, 2)), 2).normal_(0, 1)
layer.to_matrix().sum().backward()
assert state() == before
"""


@pytest.mark.parametrize(
    ("setup", "elsewhere"),
    [
        ("", "numpy"),
        ("tl.set_backend('pytorch')", "pytorch"),
        ("tl.set_backend('pytorch', local_threadsafe=True)", "numpy"),
        ("BackendManager._THREAD_LOCAL_DATA.__dict__.clear()", "numpy"),
    ],
)
def test_import_leaves_the_backend_alone(setup, elsewhere):
    code = BEFORE.format(setup=setup, elsewhere=elsewhere)
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_without_tltorch():
    code = """
import sys
sys.modules["tltorch"] = None
try:
    import htf.tltorch
except ImportError as error:
    assert "pip install -c constraints.txt '.[tltorch]'" in str(error), error
else:
    raise AssertionError("no error")
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
