"""Formats of weights: labels, ranks, decompositions, searches."""

import math
import warnings

import opt_einsum
import pytest
import tensorly as tl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from htf.nn.layers.factorized._paths import contract, count, operations
from htf.nn.layers.factorized._stages import Geometry
from htf.nn.layers.factorized.choice import NAMES, balanced_factors, check_shape, kernel_format, matrix_format
from htf.tensors import ht_to_tensor

SVD_FORMATS = [name for name in NAMES if name != "cp"]


@st.composite
def layouts(draw, names=NAMES, largest=4):
    """A format of a matrix or of a kernel."""
    name = draw(st.sampled_from(names))
    size = st.integers(1, largest)
    if draw(st.booleans()):
        return kernel_format(name, (draw(size), draw(size), draw(st.integers(1, 3)), draw(st.integers(1, 3))))
    if name == "matrix":
        return matrix_format(name, ((draw(size),), (draw(size),)))
    modes = st.lists(size, min_size=1, max_size=3).map(tuple)
    return matrix_format(name, (draw(modes), draw(modes)))


def tensor_of(layout, seed=0):
    return torch.randn(layout.dims, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drawn(layout, rank, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [f.double() for f in layout.draw(layout.uniform(rank), 1.0, generator)]


def distance(layout, tensor, factors):
    return float((layout.dense(factors) - tensor).norm() / tensor.norm())


@given(layouts(), st.integers(1, 4))
@settings(deadline=None, max_examples=30)
def test_ranks_fit_their_factors(layout, rank):
    ranks = layout.uniform(rank)
    assert all(1 <= r <= min(rank, bound) for r, bound in zip(ranks, layout.bounds, strict=True))
    factors = drawn(layout, rank)
    assert layout.rank_of(factors) == ranks == layout.validate(ranks)
    assert [tuple(f.shape) for f in factors] == list(layout.shapes(ranks))
    assert layout.size(ranks) == sum(f.numel() for f in factors)
    assert layout.dense(factors).shape == layout.dims


@given(layouts(), st.floats(0.02, 1.0))
@settings(deadline=None, max_examples=30)
def test_a_share_is_kept_and_not_far_from_reached(layout, share):
    ranks = layout.validate(share)
    size = share * math.prod(layout.dims)
    assert layout.size(ranks) <= max(size, layout.size(layout.uniform(1)))
    uniform = [layout.size(layout.uniform(r)) for r in range(1, max(layout.bounds) + 1)]
    assert layout.size(ranks) >= max((n for n in uniform if n <= size), default=uniform[0])
    for k in range(len(ranks)):
        raised = (*ranks[:k], ranks[k] + 1, *ranks[k + 1 :])
        small = max(ranks) - min(ranks) <= 1 and ranks[k] == min(ranks)
        assert not small or layout.lowered(raised) != raised or layout.size(raised) > size


def test_a_share_is_used_up():
    layout = matrix_format("tucker", ((8, 8, 8), (7, 8, 14)))
    ranks = layout.validate(0.1)
    assert set(ranks) == {5, 6}
    assert 0.08 < layout.size(ranks) / (512 * 784) <= 0.1


@given(layouts(SVD_FORMATS))
@settings(deadline=None, max_examples=25)
def test_bounds_suffice_for_every_tensor(layout):
    tensor = tensor_of(layout)
    factors = layout.decompose(tensor, layout.lowered(layout.bounds))
    assert distance(layout, tensor, factors) < 1e-10
    assert layout.error(tensor, factors) < 1e-10


def test_a_generous_rank_of_cp_fits_a_small_tensor():
    layout = kernel_format("cp", (4, 3, 2, 2))
    tensor = tensor_of(layout)
    assert distance(layout, tensor, layout.decompose(tensor, layout.bounds)) < 0.02


@pytest.mark.parametrize("name", NAMES)
def test_what_has_low_rank_is_found_again(name):
    layout = matrix_format(name, ((4, 3), (3, 4)) if name != "matrix" else ((12,), (12,)))
    tensor = layout.dense(drawn(layout, 2, seed=3))
    factors = layout.for_error(tensor, 1e-3)
    assert layout.error(tensor, factors) <= 1e-3
    assert layout.size(layout.rank_of(factors)) <= layout.size(layout.uniform(2))
    means = torch.stack([f.square().mean().sqrt() for f in factors])
    torch.testing.assert_close(means, means[:1].expand_as(means))


@given(layouts(SVD_FORMATS, largest=5), st.floats(0.01, 0.9))
@settings(deadline=None, max_examples=30)
def test_errors_are_held(layout, tol):
    tensor = tensor_of(layout)
    factors = layout.for_error(tensor, tol)
    assert distance(layout, tensor, factors) <= tol * (1 + 1e-9)


@given(layouts(largest=5), st.floats(0.05, 1.5))
@settings(deadline=None, max_examples=25)
def test_sizes_are_held(layout, share):
    tensor, size = tensor_of(layout), int(share * math.prod(layout.dims))
    found = layout.for_size(tensor, size)
    if size < layout.size(layout.uniform(1)):
        assert found is None
    else:
        assert sum(f.numel() for f in found) <= size


def test_a_matrix_is_cut_as_its_svd_says():
    layout = matrix_format("matrix", ((7,), (9,)))
    tensor = tensor_of(layout)
    u, s, vh = torch.linalg.svd(tensor, full_matrices=False)
    torch.testing.assert_close(layout.dense(layout.decompose(tensor, (3,))), u[:, :3] * s[:3] @ vh[:3])
    tails = s.square().flip(0).cumsum(0).flip(0).sqrt() / s.norm()
    assert layout.rank_of(layout.for_error(tensor, float(tails[4]) + 1e-9)) == (4,)
    assert layout.rank_of(layout.for_error(tensor, float(tails[4]) - 1e-9)) == (5,)
    assert layout.rank_of(layout.for_size(tensor, 16 * 4)) == (4,)


@pytest.mark.parametrize("name", SVD_FORMATS)
def test_truncation_holds_its_measure_and_never_grows(name):
    layout = kernel_format(name, (6, 5, 3, 3))
    factors = drawn(layout, 3)
    tensor, before = layout.dense(factors), layout.rank_of(factors)
    for wanted in ({"tol": 0.3}, {"tol": 0.0}, {"rank": layout.uniform(2)}, {"size": 60}):
        found = layout.truncated(factors, **wanted)
        if found is None:
            assert wanted == {"tol": 0.0}
            continue
        assert all(r <= own for r, own in zip(layout.rank_of(found), before, strict=True))
        if "tol" in wanted:
            assert distance(layout, tensor, found) <= max(wanted["tol"], 1e-10)
        if "rank" in wanted:
            assert all(r <= 2 for r in layout.rank_of(found))
        if "size" in wanted:
            assert sum(f.numel() for f in found) <= 60


def test_cp_drops_what_is_small():
    layout = kernel_format("cp", (6, 5, 3, 3))
    factors = drawn(layout, 4)
    factors[0] = factors[0] * torch.tensor([1.0, 1e-3, 1.0, 1e-3], dtype=torch.float64)
    tensor = layout.dense(factors)
    found = layout.truncated(factors, tol=0.05)
    assert layout.rank_of(found) == (2,)
    assert distance(layout, tensor, found) <= 0.05
    assert layout.truncated(factors, tol=1e-9) is None
    assert layout.rank_of(layout.truncated(factors, rank=(3,))) == (3,)
    assert layout.rank_of(layout.truncated(factors, size=40)) == (2,)


@pytest.mark.parametrize("name", NAMES)
def test_zeros_stay_zeros(name):
    layout = kernel_format(name, (3, 4, 2, 2))
    zeros = torch.zeros(layout.dims)
    for factors in (
        layout.decompose(zeros, layout.uniform(2)),
        layout.for_error(zeros, 0.1),
        layout.for_size(zeros, 30),
    ):
        assert not layout.dense(factors).any()


def test_the_labels_are_those_of_tensorly_and_htf():
    dims = (3, 4, 2, 2)
    core, *matrices = drawn(kernel_format("tucker", dims), 2)
    ht, tt, cp = (kernel_format(name, dims) for name in ("ht", "tt", "cp"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = opt_einsum.contract("abcd,ia,jb,kc,ld->ijkl", core, *matrices)
    torch.testing.assert_close(kernel_format("tucker", dims).dense([core, *matrices]), expected)
    torch.testing.assert_close(ht.dense(drawn(ht, 2)), ht_to_tensor((ht.tree, drawn(ht, 2))))
    factors = drawn(cp, 3)
    torch.testing.assert_close(cp.dense(factors), torch.einsum("ir,jr,kr,lr->ijkl", *factors))
    cores = drawn(tt, 2)
    torch.testing.assert_close(tt.dense(cores), torch.einsum("zia,akb,blc,cjz->ijkl", *cores))
    blocks = matrix_format("tt", ((2, 3), (4, 2)))
    cores = drawn(blocks, 3)
    torch.testing.assert_close(blocks.dense(cores), torch.einsum("zija,aklz->ikjl", *cores))


def test_the_backend_of_tensorly_stays():
    layout = kernel_format("tucker", (3, 4, 2, 2))
    before = tl.get_backend()
    for name in ("cp", "tucker", "tt"):
        layout = kernel_format(name, (3, 4, 2, 2))
        layout.decompose(tensor_of(layout), layout.uniform(2))
    assert tl.get_backend() == before


@pytest.mark.parametrize("name", NAMES)
def test_entries_have_the_variance_that_was_asked(name):
    layout = kernel_format(name, (8, 8, 3, 3))
    generator = torch.Generator().manual_seed(0)
    means = []
    for _ in range(300):
        factors = layout.draw(layout.uniform(6), 0.25, generator)
        means.append(layout.dense(factors).square().mean())
    means = torch.stack(means)
    assert abs(means.mean() - 0.25) < 4 * means.std() / 300**0.5
    assert means.std() / 300**0.5 < 0.02


@pytest.mark.parametrize(
    ("number", "factors"),
    [(784, (7, 8, 14)), (128, (4, 4, 8)), (512, (8, 8, 8)), (13, (13,)), (1, (1,)), (10, (2, 5)), (12, (2, 2, 3))],
)
def test_balanced_factors(number, factors):
    assert balanced_factors(number) == factors


@given(st.integers(1, 5000))
def test_balanced_factors_multiply_to_the_number(number):
    factors = balanced_factors(number)
    assert math.prod(factors) == number
    assert len(factors) <= 3
    assert list(factors) == sorted(factors)


def test_operations_are_those_of_the_cheapest_order():
    shapes, labels = ((2, 3), (3, 50), (50, 4)), ((0, 1), (1, 2), (2, 3))
    assert operations(shapes, labels, (0, 3)) == min(2 * (2 * 3 * 50 + 2 * 50 * 4), 2 * (3 * 50 * 4 + 2 * 3 * 4))
    matrices = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    torch.testing.assert_close(contract(matrices, labels, (3, 0)), (matrices[0] @ matrices[1] @ matrices[2]).T)


def test_numbers_that_are_moved_are_those_of_all_operands_and_results():
    shapes, labels = ((2, 3), (3, 50), (50, 4)), ((0, 1), (1, 2), (2, 3))
    # The last two first, (3, 4), then (2, 4).
    assert count(shapes, labels, (0, 3))[1:] == ((150 + 200 + 12) + (6 + 12 + 8), 2)
    assert count(((2, 3),), ((0, 1),), (1, 0)) == (0, 0, 0)
    assert (count(shapes, labels, (0, 3)) + count(shapes, labels, (0, 3))).products == 4


def test_sizes_of_images():
    geometry = Geometry((2, 1), (1, 0), (1, 2), "zeros")
    image = torch.zeros(1, 1, 9, 11)
    assert geometry.size((9, 11), (3, 2)) == tuple(geometry.convolve(image, torch.zeros(1, 1, 3, 2), None).shape[2:])
    same = Geometry((1, 1), "same", (1, 3), "circular")
    assert same.size((9, 11), (2, 2)) == (9, 11)


@pytest.mark.parametrize(
    ("rank", "kind", "message"),
    [
        (0, ValueError, "rank is 0; expected at least 1"),
        (37, ValueError, "rank is 37; its bound is 36 for a tt format"),
        (0.0, ValueError, r"rank is 0.0; expected a share in \(0, 1\]"),
        (1.5, ValueError, r"rank is 1.5; expected a share in \(0, 1\]"),
        (float("nan"), ValueError, "rank is nan; expected a share"),
        ((1, 2, 1), ValueError, "rank has 3 entries; expected a tuple of 5 for a tt format of 4 modes"),
        ((1, 2, 9, 2, 1), ValueError, r"rank\[2\] is 9; its bound is 6 beside the others"),
        ((2, 2, 2, 2, 1), ValueError, r"rank\[0\] is 2; its bound is 1"),
        ((1, 0, 2, 2, 1), ValueError, r"rank\[1\] is 0; expected at least 1"),
        ((1, 2.5, 2, 2, 1), TypeError, r"rank\[1\] is 2.5; expected an integer"),
        ("full", TypeError, "rank is 'full'; expected an integer, a share"),
        (True, TypeError, "rank is True; expected an integer, a share"),
        (None, TypeError, "rank is None; expected an integer, a share"),
    ],
)
def test_ranks_that_do_not_fit(rank, kind, message):
    layout = kernel_format("tt", (12, 15, 3, 3))
    with pytest.raises(kind, match=message):
        layout.validate(rank)


def test_ranks_of_other_packages_count():
    layout = kernel_format("tt", (12, 15, 3, 3))
    assert layout.validate(torch.tensor(3)) == (1, 3, 3, 3, 1)
    assert layout.validate(torch.tensor([1, 3, 2, 3, 1])) == (1, 3, 2, 3, 1)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (((2, 3), (4,)), r"shape has \(2, 3\), which multiply to 6; out_features is 8"),
        (((2, 4), (5,)), r"shape has \(5,\), which multiply to 5; in_features is 4"),
        ((8, 4), "expected"),
        (((2, 4),), "expected"),
        (((2, 4), ()), "expected"),
        (((2, 4), (0, 4)), r"shape\[1\]\[0\] is 0"),
    ],
)
def test_shapes_that_do_not_fit(shape, message):
    with pytest.raises(ValueError, match=message):
        check_shape("ht", shape, 8, 4)


def test_a_matrix_has_no_shape():
    with pytest.raises(ValueError, match="expected None for format 'matrix'"):
        check_shape("matrix", ((8,), (4,)), 8, 4)
