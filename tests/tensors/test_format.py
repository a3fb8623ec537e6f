"""HTTensor as a TensorLy citizen: construction, errors, ranks, pytrees, storage."""

import copy
import json
import pickle

import numpy as np
import pytest
import tensorly as tl
import torch
from safetensors.numpy import save_file
from tensorly._factorized_tensor import FactorizedTensor

import htf
from htf import tensors
from htf.tensors import HTTensor, random_ht, rank_bounds, validate_ht_rank

Tree = htf.DimensionTree


def test_it_is_a_factorized_tensor_that_unpacks():
    x = random_ht((4, 5, 6), 3, random_state=0)
    assert isinstance(x, FactorizedTensor)
    tree, factors = x
    assert tree == Tree.balanced(3)
    assert len(x) == 2
    assert [f.shape for f in factors] == [(4, 3), (5, 3), (6, 3), (3, 3, 3), (3, 3, 1)]
    assert HTTensor(x).rank == x.rank == (3, 3, 3, 3, 1)
    assert (x.order, x.ndim, x.outputs, x.n_parameters) == (3, 3, 1, 45 + 27 + 9)
    assert HTTensor(x).factors[0] is x.factors[0]


def test_several_outputs_are_a_last_axis():
    x = random_ht((4, 5), 2, random_state=0, outputs=3)
    assert (x.shape, x.dims, x.ndim, x.outputs) == ((4, 5, 3), (4, 5), 3, 3)
    assert random_ht((4, 5, 3), 2, Tree.balanced(2), random_state=0).shape == (4, 5, 3)


def test_repr_shows_the_tree_with_ranks():
    text = repr(random_ht((4, 5, 6), 3, random_state=0))
    assert "shape (4, 5, 6), 81 parameters, float64" in text
    assert "├─ {0, 1}  rank 3" in text
    assert "└─ {2}  dimension 6, rank 3" in text
    assert len(repr(random_ht((2,) * 500, 2, random_state=0)).splitlines()) < 50


def test_truth_and_arrays_on_the_left_are_refused():
    x = random_ht((4, 5), 2, random_state=0)
    with pytest.raises(TypeError, match="ambiguous"):
        bool(x)
    with pytest.raises(TypeError):
        np.ones((4, 5)) * x
    np.testing.assert_allclose((np.float64(2) * x).to_tensor(), 2 * x.to_tensor())


def test_pickle_copy_and_deepcopy_keep_the_tensor():
    x = random_ht((4, 5, 6), 3, random_state=0)
    for y in (pickle.loads(pickle.dumps(x)), copy.copy(x), copy.deepcopy(x), x.copy()):
        assert y.tree == x.tree
        np.testing.assert_array_equal(y.to_tensor(), x.to_tensor())
    assert copy.deepcopy(x).factors[0] is not x.factors[0]


def test_backends_dtypes_and_gradients_are_set_as_a_whole():
    x = random_ht((4, 5), 2, random_state=0)
    y = x.to_backend("pytorch").to(torch.float32)
    assert y.dtype == torch.float32
    assert y.device == torch.device("cpu")
    assert x.device is None
    assert y.requires_grad_().requires_grad
    assert not y.detach().requires_grad
    with pytest.raises(TypeError, match="only PyTorch tensors record gradients"):
        x.requires_grad_()
    assert tl.get_backend() == "numpy"


def test_the_current_backend_neither_matters_nor_changes():
    x = random_ht((4, 5), 2, random_state=0)
    tl.set_backend("pytorch", local_threadsafe=True)
    try:
        np.testing.assert_allclose(x.round(rank=1).to_tensor().shape, (4, 5))
        assert isinstance(random_ht((4, 5), 2, random_state=0).factors[0], torch.Tensor)
        assert tl.get_backend() == "pytorch"
    finally:
        tl.set_backend("numpy", local_threadsafe=True)


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda t, f: (t, f[:-1]), ValueError, "there are 4 factors; the tree has 5 nodes"),
        (lambda t, f: ("tree", f), TypeError, "the tree is a str; expected a DimensionTree"),
        (lambda t, f: (t, [f[0][0], *f[1:]]), ValueError, r"node 0 has shape \(2,\); expected a frame"),
        (lambda t, f: (t, [*f[:3], f[3][0], f[4]]), ValueError, r"node 3 has shape \(2, 2\); expected a transfer"),
        (lambda t, f: (t, [f[0][:, :1], *f[1:]]), ValueError, "node 0 has rank 1, but axis 0 .* parent 3 has length 2"),
        (lambda t, f: (t, [*f[:4], f[4][:, :1]]), ValueError, "node 2 has rank 2, but axis 1 .* parent 4 has length 1"),
        (lambda t, f: (t, [f[0][:0], *f[1:]]), ValueError, "mode 0 is empty"),
        (lambda t, f: (t, [f[0].astype(np.float32), *f[1:]]), TypeError, "mixes dtypes float32 and float64"),
        (lambda t, f: (t, [torch.ones(3, 2, dtype=torch.float64), *f[1:]]), TypeError, "mixes"),
        (lambda t, f: (t, [g.astype(int) for g in f]), TypeError, "expected float32, float64, complex64 or complex128"),
        (lambda t, f: (t, [g.astype(bool) for g in f]), TypeError, "factors has dtype bool"),
        (lambda t, f: (t, [f[0].tolist(), *f[1:]]), TypeError, "factor of node 0 is a list"),
        (lambda t, f: 3, TypeError, r"ht_tensor is a int; expected \(tree, factors\)"),
    ],
)
def test_what_does_not_fit_is_named(spoil, error, message):
    tree, factors = random_ht((3, 4, 5), 2, random_state=0)
    with pytest.raises(error, match=message):
        HTTensor(spoil(tree, factors))


def test_mixed_devices_are_refused():
    x = random_ht((3, 4), 2, random_state=0).to_backend("pytorch")
    elsewhere = [torch.empty(3, 2, dtype=torch.float64, device="meta"), *x.factors[1:]]
    with pytest.raises(ValueError, match="partly on meta and partly on cpu"):
        HTTensor((x.tree, elsewhere))


def test_pairs_that_cannot_be_combined():
    x = random_ht((3, 4, 5), 2, random_state=0)
    with pytest.raises(ValueError, match="different trees; bring one"):
        x + random_ht((3, 4, 5), 2, Tree.linear(3).from_nested((0, (1, 2))), random_state=0)
    with pytest.raises(ValueError, match=r"shapes \(3, 4, 5\) and \(3, 4, 6\)"):
        x * random_ht((3, 4, 6), 2, random_state=0)
    with pytest.raises(TypeError, match="mixes dtypes"):
        x.inner(x.to(np.float32))
    with pytest.raises(TypeError, match="mixes"):
        x + x.to_backend("pytorch")
    with pytest.raises(TypeError):
        x + None
    with pytest.raises(ValueError, match="both tensors have several outputs"):
        random_ht((2, 2), 1, outputs=2).outer(random_ht((2, 2), 1, outputs=2))


def test_arguments_of_contractions_and_reshapings():
    x = random_ht((3, 4, 5), 2, random_state=0)
    with pytest.raises(ValueError, match=r"operand of mode 1 has shape \(2, 3\); expected \(m, 4\) or \(4,\)"):
        x.mode_dot(np.ones((2, 3)), 1)
    with pytest.raises(IndexError, match="mode is 3; the tensor has modes 0 to 2"):
        x.sum(3)
    with pytest.raises(ValueError, match="expected each mode once"):
        x.sum([1, 1])
    with pytest.raises(ValueError, match="expected one axis"):
        x.contract({0: np.ones((2, 3))})
    with pytest.raises(ValueError, match="expected a permutation of 0 to 2"):
        x.permute([0, 1])
    with pytest.raises(ValueError, match="has 61 entries; the tensor has 60"):
        x.reshape([61])
    with pytest.raises(ValueError, match="tree has 4 modes; the tensor has 3"):
        x.change_tree(Tree.balanced(4))
    with pytest.raises(IndexError, match="node is 4; expected one of the nodes 0 to 3"):
        x.move_root(4)
    with pytest.raises(ValueError, match="mode 0 has dimension 3, mode 1 of the second tensor has 4"):
        x.tensordot(x, ([0], [1]))
    with pytest.raises(ValueError, match=r"indices has shape \(2,\); expected \(batch, 3\)"):
        x.entries([0, 1])
    with pytest.raises(TypeError, match="expected integers"):
        x.entries([[0.5, 1, 2]])
    with pytest.raises(IndexError, match="index 7 is out of range for mode 2"):
        x.entries([[0, 0, 7]])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: x.permute(None), TypeError, "modes is None; expected a permutation of 0 to 2"),
        (lambda x: x.reshape(None), TypeError, "shape is None; expected a sequence of dimensions"),
        (lambda x: x.reshape(np.array([[60, 1]])), TypeError, r"expected an integer"),
        (lambda x: x.tensordot(x, 2), TypeError, "modes is 2; expected two sequences of modes"),
        (lambda x: x.tensordot(x, (1, 1)), TypeError, "modes is 1; expected two sequences of modes"),
        (lambda x: x.tensordot(x, [[1]]), ValueError, r"modes is \[\[1\]\]; expected two sequences"),
        (lambda x: tensors.ht_multi_mode_dot(x, [np.ones(3)], 0), TypeError, "modes is 0; expected a sequence"),
        (lambda x: tensors.ht_multi_mode_dot(x, None), TypeError, "matrices_or_vectors is None; expected a sequence"),
        (lambda x: x.contract(3), TypeError, "vectors is 3; expected a vector or None for each mode"),
        (lambda x: x.move_root("1"), TypeError, "node is '1'; expected an integer"),
        (lambda x: tensors.ht_round_sum(3), TypeError, "ht_tensors is 3; expected a sequence of HTTensors"),
        (lambda x: tensors.ht_round_sum([x], 2.0), TypeError, "weights is 2.0; expected a sequence of numbers"),
        (lambda x: tensors.quasi_optimality(None), TypeError, "tree is a NoneType; expected a DimensionTree"),
        (lambda x: rank_bounds(x.tree, 4), TypeError, "dims is 4; expected a sequence of dimensions"),
        (lambda x: rank_bounds(x.tree, (3, 4, 0)), ValueError, r"dims\[2\] is 0; expected at least 1"),
        (lambda x: validate_ht_rank(7, 2), TypeError, "tensor_shape is 7; expected a sequence"),
        (lambda x: random_ht(7, 2), TypeError, "shape is 7; expected a sequence of dimensions"),
    ],
)
def test_arguments_that_are_no_sequences_and_others_that_are_none(call, error, message):
    with pytest.raises(error, match=message):
        call(random_ht((3, 4, 5), 2, random_state=0))


@pytest.mark.parametrize("yes", [True, np.True_, torch.tensor(True)], ids=["python", "numpy", "torch"])
@pytest.mark.parametrize(
    "call",
    [
        lambda x, yes: x.sum(yes),
        lambda x, yes: x.sum([yes, 0]),
        lambda x, yes: x.mode_dot(np.ones(4), yes),
        lambda x, yes: x.move_root(yes),
        lambda x, yes: x.round(rank=yes),
        lambda x, yes: x.round(tol=yes),
        lambda x, yes: x.sample(yes),
        lambda x, yes: x.sample(2, random_state=yes),
        lambda x, yes: random_ht((3, 4), 2, random_state=yes),
        lambda x, yes: random_ht((3, 4), 2, outputs=yes),
    ],
)
def test_truth_values_are_no_numbers(call, yes):
    with pytest.raises(TypeError, match=r"(mode|node|rank|tol|count|random_state|outputs) is .*; expected a"):
        call(random_ht((3, 4, 5), 2, random_state=0), yes)


def test_seeds_of_any_library_are_one_seed():
    expected = random_ht((3, 4), 2, random_state=3).to_tensor()
    for seed in (np.int64(3), np.uint8(3), np.array(3), torch.tensor(3), np.random.RandomState(3)):
        np.testing.assert_array_equal(random_ht((3, 4), 2, random_state=seed).to_tensor(), expected)
    for seed, error in ((-1, ValueError), (2**32, ValueError), (1.5, TypeError), (np.random.default_rng(0), TypeError)):
        with pytest.raises(error, match=r"random_state is .*; expected an integer"):
            random_ht((3, 4), 2, random_state=seed)


def test_too_large_to_write_out():
    with pytest.raises(ValueError, match=r"1\.2e\+18 entries, too many"):
        random_ht((2,) * 60, 2, random_state=0).to_tensor()


# -- ranks -----------------------------------------------------------------------------------------------


def test_bounds_are_the_smaller_sides_of_the_matricizations():
    assert rank_bounds(Tree.balanced(4), (2, 3, 4, 5)) == (2, 3, 4, 5, 6, 6, 1)
    assert rank_bounds(Tree.balanced(4), (2, 3, 4, 5), outputs=2) == (2, 3, 4, 5, 6, 12, 2)
    assert rank_bounds(Tree.balanced(1), (3,)) == (1,)


def test_same_and_fractions_meet_their_number_of_parameters():
    shape, tree = (8,) * 6, Tree.balanced(6)

    def parameters(ranks):
        return random_ht(shape, ranks, tree, random_state=0).n_parameters

    for fraction in (0.01, 0.1, 0.5):
        target = fraction * 8**6
        low = parameters(validate_ht_rank(shape, fraction, tree, rounding="floor"))
        high = parameters(validate_ht_rank(shape, fraction, tree, rounding="ceil"))
        near = parameters(validate_ht_rank(shape, fraction, tree))
        assert low <= target <= high
        assert abs(near - target) == min(abs(low - target), abs(high - target))
    assert validate_ht_rank(shape, "same", tree, "floor") == validate_ht_rank(shape, 1.0, tree, "floor")


def test_ranks_above_their_bounds_are_lowered_with_a_warning():
    tree = Tree.balanced(3)
    with pytest.warns(UserWarning, match="rank 9 of node 0 exceeds its bound 3"):
        assert validate_ht_rank((3, 4, 5), 9, tree) == (3, 4, 5, 5, 1)
    with pytest.warns(UserWarning, match="rank 6 of node 3 exceeds its bound 5"):
        assert validate_ht_rank((3, 4, 5), (3, 4, 5, 6, 1), tree) == (3, 4, 5, 5, 1)
    with pytest.warns(UserWarning, match="rank 5 of node 2 exceeds its bound 1"):
        assert validate_ht_rank((3, 4, 5), (1, 1, 5, 5, 1), tree) == (1, 1, 1, 1, 1)
    # One number for all is a limit: it is silent as long as some node can have it.
    assert validate_ht_rank((3, 4, 5), 5, tree) == (3, 4, 5, 5, 1)
    assert validate_ht_rank((3, 4, 5), {0: 2}, tree) == (2, 4, 5, 5, 1)


@pytest.mark.parametrize(
    ("rank", "ranks"),
    [
        (9, (9, 9, 9, 9, 1)),
        ((4, 2, 2, 2, 1), (4, 2, 2, 2, 1)),
        ({0: 2}, (2, 3, 3, 3, 1)),
        ({0: 9, 1: 1}, (9, 1, 3, 3, 1)),
        ("same", (2, 2, 2, 2, 1)),
        (0.5, (1, 1, 1, 1, 1)),
    ],
)
def test_random_ranks_above_their_bounds_on_request(rank, ranks):
    assert random_ht((3, 3, 3), rank, capped=False, random_state=0).rank == ranks


@pytest.mark.parametrize(
    ("rank", "error", "message"),
    [
        ("all", ValueError, "rank is 'all'"),
        (0, ValueError, "rank is 0"),
        (-0.5, ValueError, "fraction -0.5"),
        ((1, 2), ValueError, "rank has 2 entries"),
        ((1, 1, 1, 1, 2), ValueError, r"root \(node 4\) is 2; expected 1"),
        ((1, 1, 1, "x", 1), TypeError, "rank of node 3 is 'x'"),
    ],
)
def test_bad_ranks(rank, error, message):
    with pytest.raises(error, match=message):
        validate_ht_rank((3, 4, 5), rank, Tree.balanced(3))
    with pytest.raises(ValueError, match="rounding is 'up'"):
        validate_ht_rank((3, 4, 5), 0.5, Tree.balanced(3), rounding="up")
    with pytest.raises(ValueError, match="outputs is 0; expected at least 1"):
        validate_ht_rank((3, 4, 5), 2, Tree.balanced(3), outputs=0)


def test_whole_floats_above_one_are_ranks():
    assert validate_ht_rank((4, 4, 4), 2.0) == validate_ht_rank((4, 4, 4), 2) == (2, 2, 2, 2, 1)
    assert validate_ht_rank((4, 4, 4), 1.0) == validate_ht_rank((4, 4, 4), "same") != (1, 1, 1, 1, 1)


# -- torch.func ------------------------------------------------------------------------------------------


# PyTorch's own forward-mode rules are still compiled by the deprecated torch.jit.script.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_torch_func_takes_a_tensor_as_a_whole():
    x = random_ht((3, 4, 2), 2, random_state=0).to_backend("pytorch")
    gradient = torch.func.grad(lambda z: z.inner(z))(x)
    assert isinstance(gradient, HTTensor)
    for f, g in zip(x.factors, gradient.factors, strict=True):
        torch.testing.assert_close((f * g).sum(), 2 * x.inner(x))
    _, tangent = torch.func.jvp(lambda z: z.to_tensor(), (x,), (x,))
    # Each of the five factors enters the tensor once.
    torch.testing.assert_close(tangent, 5 * x.to_tensor())


def test_vmap_runs_over_stacked_factors():
    x, y = (random_ht((3, 4, 2), 2, random_state=s).to_backend("pytorch") for s in (0, 1))
    stacked = [torch.stack(pair) for pair in zip(x.factors, y.factors, strict=True)]
    norms = torch.func.vmap(lambda *f: tensors.ht_norm((x.tree, f)))(*stacked)
    torch.testing.assert_close(norms, torch.stack([x.norm(), y.norm()]))
    roots = torch.func.vmap(lambda *f: tensors.ht_to_tensor((x.tree, f)))(*stacked)
    torch.testing.assert_close(roots[1], y.to_tensor())


def test_gradcheck_of_the_dense_tensor_and_second_derivatives():
    x = random_ht((2, 3, 2), 2, random_state=0).to_backend("pytorch").requires_grad_()
    assert torch.autograd.gradcheck(lambda *f: HTTensor((x.tree, f)).to_tensor(), x.factors)
    assert torch.autograd.gradgradcheck(lambda *f: HTTensor((x.tree, f)).norm(), x.factors)


# -- files -----------------------------------------------------------------------------------------------


def test_files_that_are_something_else_or_damaged(tmp_path):
    x = random_ht((3, 4, 5), 2, random_state=0)
    path = tmp_path / "x.safetensors"
    with pytest.raises(FileNotFoundError, match="is not there"):
        htf.load(path)
    htf.save(x, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="safetensors"):
        htf.load(path)
    path.write_text("not a tensor")
    with pytest.raises(ValueError, match="safetensors"):
        htf.load(path)
    save_file({"weight": np.ones(3)}, path)
    with pytest.raises(ValueError, match="safetensors"):
        htf.load(path)
    save_file({"weight": np.ones(3)}, path, {"about": json.dumps({"epoch": 3})})
    with pytest.raises(ValueError, match="holds no HTTensor"):
        htf.load(path)
    about = {"what": "HTTensor", "backend": "numpy", "order": 2, "children": [[0, 1]]}
    save_file({"factor.0": np.ones((3, 1)), "factor.1": np.ones((3, 2)), "factor.2": np.ones((1, 1, 1))}, path,
              {"about": json.dumps(about)})  # fmt: skip
    with pytest.raises(ValueError, match=r"damaged: node 1 has rank 2"):
        htf.load(path)
    save_file({"factor.0": np.ones((3, 1))}, path, {"about": json.dumps(about)})
    with pytest.raises(ValueError, match="damaged"):
        htf.load(path)


def test_loading_into_another_backend(tmp_path):
    htf.save(random_ht((3, 4), 2, random_state=0), tmp_path / "x")
    assert isinstance(htf.load(tmp_path / "x", backend="pytorch").factors[0], torch.Tensor)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    from htf import _files

    x = random_ht((3, 4), 2, random_state=0)
    htf.save(x, tmp_path / "x")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_files.os, "fsync", full)
    with pytest.raises(OSError, match="what was saved before is kept"):
        htf.save(x * 2, tmp_path / "x")
    monkeypatch.undo()
    np.testing.assert_array_equal(htf.load(tmp_path / "x").to_tensor(), x.to_tensor())
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_numbers_of_other_types_do_not_change_the_dtype():
    x = random_ht((3, 4), 2, random_state=0).to(np.float32)
    for y in (x * np.float64(0.5), x / np.float64(2), tensors.ht_round_sum([x], weights=np.array([0.5]))):
        assert {f.dtype for f in y.factors} == {np.dtype("float32")}
    for y in (x * np.array(0.5), x / np.array(2), x.to_backend("pytorch") / np.array(2)):
        assert "float32" in str(y.factors[-1].dtype)
    for factor, error in ((np.ones(3), ValueError), ("1", TypeError), (np.True_, TypeError)):
        with pytest.raises(error, match="factor"):
            tensors.ht_scale(x, factor)
    with pytest.raises(ZeroDivisionError):
        x / np.float32(0)
    with pytest.raises(TypeError, match="has dtype int64; expected float32, float64, complex64 or complex128"):
        x.to(int)
    with pytest.raises(TypeError, match="like has dtype int64"):
        random_ht((3, 3), 2, like=np.zeros(1, dtype=int))


@pytest.mark.parametrize("number", [3, np.int8(3), np.float32(3), np.array(3), torch.tensor(3), torch.tensor(3.0)])
def test_quotients_have_the_precision_of_the_tensor(number):
    for x in (random_ht((3, 4), 2, random_state=0), random_ht((3, 4), 2, random_state=0).to_backend("pytorch")):
        np.testing.assert_allclose((x / number).to_tensor(), x.to_tensor() / 3, rtol=1e-13)


def test_numbers_keep_their_gradients():
    x = random_ht((3, 4), 2, random_state=0).to_backend("pytorch")
    for scale in (torch.tensor(2.0, requires_grad=True), torch.nn.Parameter(torch.tensor(2.0))):
        for y, expected in ((x * scale, x.norm()), (x / scale, -x.norm() / 4)):
            torch.testing.assert_close(*torch.autograd.grad(y.norm(), scale), expected.float())


@pytest.mark.parametrize("other", [True, np.True_, torch.tensor(True), "2", np.str_("2"), None])
def test_truth_values_and_other_things_are_no_factors(other):
    for x in (random_ht((3, 4), 2, random_state=0), random_ht((3, 4), 2, random_state=0).to_backend("pytorch")):
        with pytest.raises(TypeError):
            x * other


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_forward_derivatives_through_another_tree():
    x = tensors.cp_to_ht((None, [torch.randn(3, 2, dtype=torch.float64) for _ in range(4)]))
    tree = Tree.from_nested(((0, 2), (1, 3)))

    def values(top):
        return HTTensor((x.tree, [*x.factors[:-1], top])).change_tree(tree).to_tensor()

    direction = torch.randn_like(x.factors[-1])
    _, tangent = torch.func.jvp(values, (x.factors[-1],), (direction,))
    torch.testing.assert_close(tangent, HTTensor((x.tree, [*x.factors[:-1], direction])).to_tensor())


def test_frozen_factors_of_any_scale_survive_another_tree():
    x = random_ht((3, 3, 2, 3), 2, random_state=0).to_backend("pytorch")
    scale = torch.tensor([1e4, 1e-4], dtype=torch.float64)
    factors = [f.clone() for f in x.factors]
    factors[0], factors[1] = factors[0] * scale, factors[1] / scale
    factors[4] = factors[4] / scale[:, None, None] * scale[None, :, None]
    factors[3].requires_grad_()
    y = HTTensor((x.tree, factors)).change_tree(Tree.from_nested(((0, 2), (1, 3))))
    torch.testing.assert_close(y.to_tensor(), x.to_tensor())


def test_negative_slices_and_arrays_of_outputs():
    for backend in ("numpy", "pytorch"):
        x = random_ht((3, 4, 5), 2, random_state=0, outputs=3).to_backend(backend)
        whole = np.asarray(x.to_tensor())
        np.testing.assert_allclose(np.asarray(x[::-1, :, ::-2].to_tensor()), whole[::-1, :, ::-2])
        np.testing.assert_allclose(np.asarray(x[..., [0, 2]].to_tensor()), whole[..., [0, 2]])
        np.testing.assert_allclose(np.asarray(x[..., ::-1].to_tensor()), whole[..., ::-1])
        np.testing.assert_allclose(np.asarray(x[[0, 1], [1, 1], [2, 2], [0, 2]]), whole[[0, 1], [1, 1], [2, 2], [0, 2]])


def test_factors_that_share_memory_are_saved(tmp_path):
    frame = torch.randn(4, 2)
    x = tensors.cp_to_ht((None, [frame, frame, frame]))
    htf.save(x, tmp_path / "x")
    torch.testing.assert_close(htf.load(tmp_path / "x").to_tensor(), x.to_tensor())


@pytest.mark.parametrize(
    "about",
    [
        {"what": "HTTensor", "backend": "numpy", "order": 10**8, "children": [[0, 1]]},
        {"what": "HTTensor", "backend": "numpy", "order": 2, "children": [[0.5, 1.0]]},
        {"what": "HTTensor", "backend": "numpy", "order": True, "children": "x"},
        {"what": "HTTensor", "backend": "abacus", "order": 2, "children": [[0, 1]]},
    ],
)
def test_tampered_descriptions_are_refused(tmp_path, about):
    factors = {"factor.0": np.ones((3, 1)), "factor.1": np.ones((3, 1)), "factor.2": np.ones((1, 1, 1))}
    save_file(factors, tmp_path / "x.safetensors", {"about": json.dumps(about)})
    with pytest.raises(ValueError, match=r"x\.safetensors"):
        htf.load(tmp_path / "x.safetensors")


def test_trees_ranks_and_numbers_in_other_guises():
    with pytest.raises(TypeError, match="tree is a tuple; expected a DimensionTree, see"):
        random_ht((3, 4, 5), 2, ((0, 1), 2))
    with pytest.raises(TypeError, match="tree is a tuple"):
        htf.hierarchical_tucker(np.ones((3, 4, 5)), rank=1, tree=((0, 1), 2))
    x = random_ht((3, 4, 5), np.array([2, 2, 2, 2, 1]), random_state=0)
    assert x.round(tol=np.float32(0.5)).n_parameters <= x.n_parameters
    assert x.round(rank={np.int64(0): np.int64(1)}).rank[0] == 1
    assert x.sum(np.int64(0)).shape == (4, 5)
    assert x.reshape((12, -1)).shape == (12, 5)
    assert x.reshape(60).shape == (60,)
    with pytest.raises(ValueError, match="rank is 'same'; expected an integer"):
        x.round(rank="same")
    with pytest.raises(TypeError, match=r"mode is 1\.0; expected an integer"):
        x.mode_dot(np.ones((2, 4)), 1.0)
    # More entries than a float can count.
    assert validate_ht_rank((20,) * 300, "same")[:2] == (20, 20)


def test_deep_trees_are_contracted_without_recursion():
    x, y = (random_ht((2,) * 1100, 2, Tree.linear(1100), random_state=s, orthogonal=True) for s in (0, 1))
    x, y = (z / np.linalg.norm(z.factors[-1]) for z in (x, y))
    modes = list(range(1100))
    np.testing.assert_allclose(x.tensordot(y, (modes, modes)), x.inner(y), atol=1e-10)
    half = modes[:550]
    assert x.tensordot(y, (half, half)).order == 1100
    assert x[(slice(None), [0, 1], [0, 1])].order == 1099


@pytest.mark.parametrize("arity", [2, 3])
@pytest.mark.parametrize("backend", ["numpy", "pytorch"])
def test_parts_of_a_mode_are_joined_a_few_at_a_time(backend, arity):
    dense = np.random.default_rng(0).standard_normal((64, 24, 5))
    x = htf.hierarchical_tucker(dense, tol=0).to_backend(backend)
    shape = (2, 2, 2, 2, 2, 2, 3, 2, 4, 5)
    fine = x.reshape(shape, arity=arity)
    np.testing.assert_allclose(np.asarray(fine.to_tensor()), dense.reshape(shape), atol=1e-12)
    assert max(len(fine.tree.children(node)) for node in fine.tree.inner_nodes) == arity
    assert fine.n_parameters < 3 * x.n_parameters
    whole = x.reshape(-1).reshape((2,) * 7 + (3, 4, 5), arity)  # one mode that is the root
    np.testing.assert_allclose(np.asarray(whole.to_tensor()), dense.reshape((2,) * 7 + (3, 4, 5)), atol=1e-12)
    with pytest.raises(ValueError, match="arity is 1; expected at least 2"):
        x.reshape(shape, arity=1)
