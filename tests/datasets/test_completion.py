import json
import time

import numpy as np
import pytest
import tensorly as tl
import torch
from planted_problems import SMALL, all_of, rows
from tensorly.cp_tensor import CPTensor
from tensorly.tt_tensor import TTTensor
from tensorly.tucker_tensor import TuckerTensor

import htf
from htf.datasets import (
    CompletionProblem,
    completion_from_file,
    diverging_completion,
    tensor_completion,
    tensor_sensing,
)

# -- what is planted -----------------------------------------------------------------------------------


@pytest.mark.parametrize("tree", [None, htf.DimensionTree.linear(4), htf.DimensionTree.interleaved(4)])
def test_a_planted_ht_tensor_has_the_rank_on_its_tree(tree):
    problem = tensor_completion((6, 7, 6, 5), "ht", 3, observed=100, tree=tree)
    assert problem.tree == (tree or htf.DimensionTree.balanced(4))
    assert set(htf.ranks.hierarchical_rank(problem.teacher).values()) == {3}
    for node in problem.tree.edges:
        modes, others = problem.tree.matricization(node)
        matrix = problem.target.permute(*modes, *others).flatten(len(modes)).flatten(0, len(modes) - 1)
        assert torch.linalg.matrix_rank(matrix, rtol=1e-10) == 3
    torch.testing.assert_close(problem.teacher.to_tensor(), problem.target)


def test_ranks_may_differ_by_node():
    wanted = [2, 3, 3, 2, 4, 4, 1]
    problem = tensor_completion((4, 4, 4, 4), "ht", wanted, observed=0.5)
    assert list(htf.ranks.hierarchical_rank(problem.teacher).values()) == wanted[:-1]
    assert problem.describe()["rank"] == wanted
    named = tensor_completion((4, 4, 4, 4), "ht", {4: 2}, observed=0.5)
    assert named.teacher.rank[4] == 2


def test_a_planted_cp_tensor_is_the_sum_of_its_components():
    problem = tensor_completion((5, 6, 7, 3), "cp", 2, observed=100, norm=3.0)
    weights, factors = problem.teacher
    assert isinstance(problem.teacher, CPTensor)
    assert [tuple(f.shape) for f in factors] == [(5, 2), (6, 2), (7, 2), (3, 2)]
    torch.testing.assert_close(torch.einsum("r,ar,br,cr,dr->abcd", weights, *factors), problem.target)
    assert torch.linalg.matrix_rank(problem.target.flatten(1)) == 2


def test_a_planted_matrix_has_its_rank():
    problem = tensor_completion((64, 48), "matrix", 5, observed=2048, norm=64)
    assert torch.linalg.matrix_rank(problem.target) == 5
    torch.testing.assert_close(problem.teacher, problem.target)


@pytest.mark.parametrize(("teacher", "shape"), [("ht", (4, 5, 6)), ("cp", (4, 5, 6)), ("matrix", (12, 9))])
def test_norm(teacher, shape):
    problem = tensor_completion(shape, teacher, 3, observed=0.5, norm=64)
    assert float(problem.target.norm()) == pytest.approx(64)
    assert problem.describe()["norm"] == 64
    drawn = tensor_completion(shape, teacher, 3, observed=0.5)
    torch.testing.assert_close(drawn.target / drawn.target.norm() * 64, problem.target)


def teachers():
    rng = np.random.RandomState(0)
    ht = htf.random_ht((3, 4, 2), 2, random_state=0)
    cp = CPTensor((None, [rng.randn(n, 2) for n in (3, 4, 2)]))
    tucker = TuckerTensor((rng.randn(2, 2, 2), [rng.randn(n, 2) for n in (3, 4, 2)]))
    tt = TTTensor([rng.randn(1, 3, 2), rng.randn(2, 4, 2), rng.randn(2, 2, 1)])
    cp_net = htf.nn.CPNetwork((3, 4, 2), 3, seed=0, init="gaussian")
    ht_net = htf.nn.HTNetwork(htf.DimensionTree.linear(3), (3, 4, 2), 3, seed=0, init="gaussian")
    grid = torch.cartesian_prod(*(torch.arange(n) for n in (3, 4, 2)))
    yield "ht", ht, ht.to_tensor()
    yield "ht, PyTorch", ht.to_backend("pytorch"), ht.to_tensor()
    yield "cp", cp, tl.cp_to_tensor(cp)
    yield "tucker", tucker, tl.tucker_to_tensor(tucker)
    yield "tt", tt, tl.tt_to_tensor(tt)
    yield "numpy", tl.tt_to_tensor(tt), tl.tt_to_tensor(tt)
    yield "torch", torch.from_numpy(tl.tt_to_tensor(tt)), tl.tt_to_tensor(tt)
    for net in (cp_net, ht_net):
        yield type(net).__name__, net, net(grid).detach().view(3, 4, 2)


@pytest.mark.parametrize(("name", "teacher", "dense"), list(teachers()), ids=lambda value: str(value)[:12])
def test_a_tensor_of_any_format_can_be_the_teacher(name, teacher, dense):
    dense = torch.as_tensor(dense, dtype=torch.float64)
    problem = tensor_completion(teacher=teacher, observed=10)
    torch.testing.assert_close(problem.target, dense, rtol=1e-5, atol=1e-6)
    assert problem.shape == (3, 4, 2)
    json.dumps(problem.describe())
    scaled = tensor_completion((3, 4, 2), teacher, observed=10, norm=2.0)
    torch.testing.assert_close(scaled.target, 2 * dense / dense.norm(), rtol=1e-5, atol=1e-6)
    assert float(problem.reconstruction_error(teacher)) < 1e-6
    sensed = tensor_sensing(teacher=teacher, measurements=20)
    expected = torch.einsum("ma,mb,mc,abc->m", *(sensed.vectors[:, i, :n] for i, n in enumerate((3, 4, 2))), dense)
    torch.testing.assert_close(sensed.values, expected, rtol=1e-5, atol=1e-6)


def test_a_teacher_is_copied():
    dense = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = dense.clone()
    problem = tensor_completion(teacher=dense, observed=5, norm=1.0)
    network = htf.nn.CPNetwork((3, 4), 2, seed=0)
    copied = tensor_completion(teacher=network, observed=5)
    kept = copied.target.clone()
    with torch.no_grad():
        network.factors[0].add_(1)
    assert torch.equal(dense, before)
    torch.testing.assert_close(copied.teacher[1][0] @ torch.diag(copied.teacher[0]) @ copied.teacher[1][1].T, kept)
    assert not copied.teacher[1][0].requires_grad
    assert float(problem.target.norm()) == pytest.approx(1)


def test_the_tree_of_a_given_teacher_is_the_default():
    teacher = htf.random_ht((3, 3, 3, 3), 2, htf.DimensionTree.linear(4), random_state=0)
    assert tensor_completion(teacher=teacher, observed=20).tree == teacher.tree
    other = htf.DimensionTree.balanced(4)
    problem = tensor_completion(teacher=teacher, observed=20, tree=other)
    assert problem.tree == other
    assert problem.teacher.tree == teacher.tree


# -- entries -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("teacher", ["ht", "cp"])
def test_entries_are_split_without_overlap_and_have_the_values_of_the_target(teacher):
    problem = tensor_completion((8,) * 4, teacher, 5, observed=1000, norm=64)
    assert problem.indices.shape == (1000, 4)
    assert problem.indices.dtype == torch.int64
    assert problem.test_indices.shape == (3096, 4)
    assert len(rows(all_of(problem))) == 4096
    for indices, values in ((problem.indices, problem.values), (problem.test_indices, problem.test_values)):
        torch.testing.assert_close(problem.target[tuple(indices.T)], values)
        assert values.dtype == torch.float64


@pytest.mark.parametrize(("observed", "test", "counts"), [(0.25, None, (30, 90)), (30, 7, (30, 7)), (1.0, 0, (120, 0))])
def test_counts(observed, test, counts):
    problem = tensor_completion((4, 5, 6), "cp", 2, observed=observed, test=test)
    assert (len(problem.values), len(problem.test_values)) == counts
    assert len(rows(all_of(problem))) == sum(counts)
    assert (problem.describe()["observed"], problem.describe()["test"]) == counts


def test_every_entry_is_equally_likely():
    seen = torch.zeros(6)
    for seed in range(400):
        indices = tensor_completion((2, 3), "cp", 1, observed=2, seed=seed).indices
        seen[indices[:, 0] * 3 + indices[:, 1]] += 1
    assert int(seen.sum()) == 800
    # 400 draws of probability 1/3: standard deviation 9.4.
    assert float((seen - 400 / 3).abs().max()) < 45


def test_the_seed_decides():
    one, again, other = (tensor_completion(**SMALL, noise=0.1, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.indices, again.indices)
    assert torch.equal(one.values, again.values)
    assert torch.equal(one.target, again.target)
    assert one.describe() == again.describe()
    assert not torch.equal(one.indices, other.indices)
    assert not torch.equal(one.target, other.target)
    state = torch.get_rng_state()
    tensor_completion(**SMALL)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("teacher", ["ht", "cp"])
def test_problems_with_more_entries_or_noise_have_the_same_tensor(teacher):
    settings = {"shape": (4, 5, 6), "teacher": teacher, "rank": 2}
    one = tensor_completion(**settings, observed=20)
    more = tensor_completion(**settings, observed=60, noise=0.5)
    assert torch.equal(one.target, more.target)
    assert torch.equal(one.indices, more.indices[:20])


@pytest.mark.parametrize("shape", [(8,) * 4, (2,) * 60])
def test_noise_is_relative_to_the_root_mean_square_and_spares_test_values(shape):
    clean = tensor_completion(shape, "cp", 2, observed=2000, norm=5.0)
    noisy = tensor_completion(shape, "cp", 2, observed=2000, norm=5.0, noise=0.3)
    difference = noisy.values - clean.values
    rms = 5.0 / float(np.sqrt(float(np.prod([float(n) for n in shape]))))
    # The standard error of a standard deviation of 2,000 draws is 1.6 %.
    assert float(difference.std()) == pytest.approx(0.3 * rms, rel=0.08)
    assert abs(float(difference.mean())) < 4 * 0.3 * rms / np.sqrt(2000)
    assert torch.equal(noisy.test_values, clean.test_values)


@pytest.mark.parametrize("teacher", ["ht", "cp"])
def test_huge_shapes_are_not_enumerated(teacher):
    start = time.perf_counter()
    problem = tensor_completion((2,) * 60, teacher, 5, observed=3000, test=1000, norm=2.0**30)
    assert problem.target is None
    assert problem.indices.shape == (3000, 60)
    assert len(rows(all_of(problem))) == 4000
    assert int(problem.indices.min()) == 0
    assert int(problem.indices.max()) == 1
    dense = problem.teacher if teacher == "ht" else htf.tensors.cp_to_ht(problem.teacher)
    assert float(dense.norm()) == pytest.approx(2.0**30)
    torch.testing.assert_close(dense.entries(problem.test_indices), problem.test_values)
    assert time.perf_counter() - start < 20


def test_entries_of_a_large_tensor_are_drawn_uniformly():
    # 2²⁶ entries: more than are enumerated, few enough that repeated draws occur.
    problem = tensor_completion((2**13, 2**13), "cp", 1, observed=20_000, test=20_000)
    found = all_of(problem)
    assert problem.target is None
    assert len(rows(found)) == 40_000
    # Means of 40,000 draws from 0..8191 have standard error 12; a preference for small indices would show in order too.
    for part in (found, problem.indices, problem.test_indices):
        assert float((part.double().mean(0) - 4095.5).abs().max()) < 100
    assert len(tensor_completion((2,) * 21, "cp", 1, observed=100).test_values) == 2**14


def test_dtype():
    double, single = (tensor_completion(**SMALL, dtype=dtype) for dtype in (torch.float64, torch.float32))
    for name in ("values", "test_values", "target"):
        assert getattr(single, name).dtype == torch.float32
        assert torch.equal(getattr(single, name), getattr(double, name).float())
    assert single.teacher[1][0].dtype == torch.float32


@pytest.mark.parametrize("teacher", ["ht", "cp"])
def test_device(teacher):
    # The meta device stands for any other than the CPU: nothing may be computed across devices.
    problem = tensor_completion((4, 5, 6), teacher, 2, observed=40, device="meta")
    sensed = tensor_sensing((4, 5, 6), teacher, 2, measurements=40, device="meta")
    held = [problem.indices, problem.values, problem.test_indices, problem.test_values, problem.target]
    held += [*problem.teacher.factors, sensed.vectors, sensed.values, sensed.target, *sensed.teacher.factors]
    assert {tensor.device.type for tensor in held} == {"meta"}


@pytest.mark.parametrize(
    ("order", "norm", "dtype"), [(60, 1e-45, torch.float32), (60, 2.0**220, torch.float32), (2000, None, torch.float64)]
)
def test_values_out_of_range_are_refused(order, norm, dtype):
    problems = (tensor_completion, {"observed": 50, "test": 5}), (tensor_sensing, {"measurements": 50})
    for make, count in problems:
        with pytest.raises(
            ValueError, match=f"dtype is {dtype}, whose range the values leave: a tensor of order {order}"
        ):
            make((2,) * order, "ht", 2, norm=norm, dtype=dtype, **count)


# -- errors of estimates -------------------------------------------------------------------------------


def test_errors_of_estimates():
    problem = tensor_completion(**SMALL)
    assert float(problem.test_error(problem.test_values * 1.1)) == pytest.approx(0.1)
    runs = torch.stack([problem.test_values, torch.zeros_like(problem.test_values)], 1)
    torch.testing.assert_close(problem.test_error(runs), torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert float(problem.reconstruction_error(problem.target * 0.5)) == pytest.approx(0.5)
    assert float(problem.reconstruction_error(problem.teacher)) < 1e-12
    with pytest.raises(ValueError, match=r"outputs has shape \(3,\); expected \(80,\) or \(80, runs\)"):
        problem.test_error(torch.zeros(3))
    with pytest.raises(ValueError, match=r"estimate has shape \(4, 5\); the problem has \(4, 5, 6\)"):
        problem.reconstruction_error(torch.zeros(4, 5))
    with pytest.raises(ValueError, match="estimate is a network of 2 runs"):
        problem.reconstruction_error(htf.nn.CPNetwork((4, 5, 6), 2, runs=2, seed=0))
    with pytest.raises(ValueError, match="no test entries"):
        tensor_completion((2, 3), "cp", 1, observed=6, test=0).test_error(torch.zeros(0))
    with pytest.raises(ValueError, match="no dense target"):
        tensor_completion((2,) * 30, "cp", 1, observed=6, test=5).reconstruction_error(problem.teacher)


def test_a_network_reads_the_problem():
    problem = tensor_completion((3, 4, 5), "cp", 2, observed=20)
    network = htf.nn.HTNetwork.from_tensor(htf.tensors.cp_to_ht(problem.teacher))
    torch.testing.assert_close(network(problem.indices)[:, 0], problem.values)
    assert float(problem.test_error(network(problem.test_indices))[0]) < 1e-10
    sensed = tensor_sensing(teacher=problem.teacher, measurements=10)
    torch.testing.assert_close(network(sensed.vectors)[:, 0], sensed.values)


# -- sensing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("teacher", ["ht", "cp"])
def test_measurements_are_inner_products_with_outer_products(teacher):
    problem = tensor_sensing((4, 5, 3), teacher, 2, measurements=50, norm=7.0)
    assert problem.vectors.shape == (50, 3, 5)
    assert float(problem.vectors[:, 0, 4:].abs().max()) == float(problem.vectors[:, 2, 3:].abs().max()) == 0
    a, b, c = (problem.vectors[:, mode, :dim] for mode, dim in enumerate((4, 5, 3)))
    measurements = torch.einsum("ma,mb,mc->mabc", a, b, c)
    torch.testing.assert_close((measurements * problem.target).sum((1, 2, 3)), problem.values)
    assert float(problem.target.norm()) == pytest.approx(7)


def test_measurement_tensors_have_norm_one_on_average():
    problem = tensor_sensing((4, 25, 9), "cp", 2, measurements=4000, norm=30.0)
    squares = problem.vectors.square().sum(2)
    torch.testing.assert_close(squares.mean(0), torch.ones(3, dtype=torch.float64), atol=0.05, rtol=0)
    # The root mean square of the 900 entries is 1.
    assert float(problem.values.square().mean()) == pytest.approx(1, rel=0.25)


def test_sensing_in_chunks(monkeypatch):
    import htf.datasets._planting as module

    for teacher in ("ht", "cp", torch.ones(4, 5, 3)):
        settings = {"shape": (4, 5, 3), "teacher": teacher, "rank": 2 if isinstance(teacher, str) else None}
        whole = tensor_sensing(**settings, measurements=50)
        with monkeypatch.context() as patch:
            patch.setattr(module, "_CHUNK_ENTRIES", 64)
            torch.testing.assert_close(tensor_sensing(**settings, measurements=50).values, whole.values)


def test_sensing_seed_noise_and_settings():
    one, again, other = (tensor_sensing((4, 5), "matrix", 2, measurements=30, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.values, again.values)
    assert torch.equal(one.vectors, again.vectors)
    assert not torch.equal(one.vectors, other.vectors)
    clean, noisy = (tensor_sensing((4, 5), "matrix", 2, measurements=2000, norm=10.0, noise=n) for n in (0, 0.5))
    deviation = float((noisy.values - clean.values).std())
    assert deviation == pytest.approx(0.5 * 10 / np.sqrt(20), rel=0.08)
    assert json.loads(json.dumps(noisy.describe()))["measurements"] == 2000
    huge = tensor_sensing((2,) * 60, "ht", 3, measurements=100, norm=2.0**30)
    assert huge.target is None
    assert bool(huge.values.isfinite().all())
    assert bool((huge.values != 0).all())


# -- bad input -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"observed": 200}, ValueError, "observed is 200; the tensor has 120 entries"),
        ({"observed": 120}, ValueError, "observed is 120, all entries: none is left for testing"),
        ({"observed": 0}, ValueError, "observed is 0; expected at least 1"),
        ({"observed": 1.5}, ValueError, r"observed is 1\.5; expected a number of entries, or a fraction"),
        ({"observed": 0.001}, ValueError, r"observed is 0\.001, none of the tensor's 120 entries"),
        ({"observed": True}, TypeError, "observed is True; expected an integer"),
        ({"observed": "half"}, TypeError, "observed is 'half'; expected an integer"),
        ({"test": 81}, ValueError, "test is 81; 80 entries are not observed"),
        ({"test": -1}, ValueError, "test is -1; expected at least 1"),
        ({"test": False}, TypeError, "test is False; expected an integer"),
        ({"rank": 0}, ValueError, "rank is 0; expected at least 1"),
        ({"rank": 2.5}, TypeError, r"rank is 2\.5; expected an integer"),
        ({"rank": None}, ValueError, "rank is None; a teacher 'cp' is drawn"),
        ({"rank": 21}, ValueError, r"rank is 21; tensors of shape \(4, 5, 6\) have rank 20 at most"),
        ({"rank": 7, "teacher": "ht"}, ValueError, "rank is 7 at node 2; the shape, .* allow 6 there"),
        ({"rank": [4, 6, 4, 4, 1], "teacher": "ht"}, ValueError, "rank is 6 at node 1; .* allow 5 there"),
        ({"rank": [2, 2], "teacher": "ht"}, ValueError, "rank has 2 entries; the tree has 5 nodes"),
        ({"rank": 0, "teacher": "ht"}, ValueError, "rank is 0; expected at least 1"),
        ({"shape": (4,)}, ValueError, r"shape is \(4,\); expected two modes at least"),
        ({"shape": (4, 0)}, ValueError, r"shape\[1\] is 0; expected at least 1"),
        ({"shape": None}, ValueError, "shape is None; a teacher 'cp' is drawn"),
        ({"teacher": "matrix"}, ValueError, "a teacher 'matrix' has two modes"),
        ({"teacher": "matrix", "shape": (2**13, 2**13)}, ValueError, "too large for a dense matrix"),
        ({"teacher": "tucker"}, ValueError, "teacher is 'tucker'; expected one of matrix, cp, ht, or a tensor"),
        ({"teacher": 3, "rank": None}, TypeError, "teacher is a int; expected an HTTensor, CPTensor"),
        ({"tree": htf.DimensionTree.balanced(4)}, ValueError, "tree has 4 modes; the tensor has 3"),
        ({"norm": 0}, ValueError, "norm is 0; expected a positive number"),
        ({"norm": -1.0}, ValueError, r"norm is -1\.0; expected a positive number"),
        ({"norm": float("nan")}, ValueError, "norm is nan; expected a positive number"),
        ({"norm": "one"}, ValueError, "norm is 'one'; expected a positive number"),
        ({"norm": 1e-300}, ValueError, "norm is 1e-300, out of reach"),
        ({"noise": -0.1}, ValueError, r"noise is -0\.1; expected a standard deviation, 0 or more"),
        ({"noise": float("nan")}, ValueError, "noise is nan"),
        ({"seed": 0.5}, TypeError, r"seed is 0\.5; expected an integer"),
        ({"dtype": torch.int64}, TypeError, r"dtype is torch\.int64; expected a floating type"),
        ({"shape": (2,) * 60, "observed": 0.5}, ValueError, r"observed is 0\.5, 5\.8e\+17 of 1\.2e\+18 entries"),
    ],
)
def test_bad_input(changes, kind, message):
    with pytest.raises(kind, match=message):
        tensor_completion(**(SMALL | changes))


@pytest.mark.parametrize(
    ("teacher", "changes", "kind", "message"),
    [
        (torch.zeros(3, 4), {}, ValueError, "teacher is zero; expected a tensor of positive, finite norm"),
        (torch.full((3, 4), torch.nan), {}, ValueError, "teacher is NaN or infinite"),
        (htf.random_ht((2,) * 30, 2, random_state=0) * float("nan"), {}, ValueError, "teacher is NaN or infinite"),
        (CPTensor((np.zeros(2), [np.ones((2, 2))] * 30)), {}, ValueError, "teacher is zero"),
        (torch.ones(3, 4), {"shape": (4, 3)}, ValueError, r"shape is \(4, 3\); teacher has shape \(3, 4\)"),
        (torch.ones(3, 4), {"rank": 2}, ValueError, "rank is 2, but teacher is a Tensor, whose rank is its own"),
        (torch.ones(3), {}, ValueError, r"teacher's shape is \(3,\); expected two modes at least"),
        (torch.ones(3, 4, dtype=torch.complex64), {}, TypeError, r"teacher has dtype torch\.complex64"),
        (htf.random_ht((3, 4), 2, outputs=2, random_state=0), {}, ValueError, "teacher has 2 outputs"),
        (htf.nn.CPNetwork((3, 4), [1, 2], seed=0), {}, ValueError, "teacher is a network of 2 runs; pass one of them"),
        (torch.nn.Linear(2, 2), {}, TypeError, "teacher is a Linear; expected an HTTensor"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_bad_teachers(teacher, changes, kind, message):
    with pytest.raises(kind, match=message):
        tensor_completion(teacher=teacher, observed=2, **changes)


def test_bad_measurements():
    with pytest.raises(ValueError, match="measurements is 0; expected at least 1"):
        tensor_sensing((3, 4), "cp", 1, measurements=0)
    with pytest.raises(ValueError, match="noise is -1"):
        tensor_sensing((3, 4), "cp", 1, measurements=5, noise=-1)


# -- problems made by hand -----------------------------------------------------------------------------


def by_hand(**changes):
    parts = {
        "tree": htf.DimensionTree.balanced(3),
        "shape": (2, 3, 4),
        "indices": torch.tensor([[0, 0, 0], [1, 2, 3]]),
        "values": torch.tensor([1.0, -2.0]),
        "test_indices": torch.tensor([[0, 1, 0]]),
        "test_values": torch.tensor([3.0]),
        "settings": {},
    }
    return CompletionProblem(**(parts | changes))


def test_a_problem_made_by_hand():
    problem = by_hand(shape=[2, 3, 4], target=torch.zeros(2, 3, 4))
    assert problem.shape == (2, 3, 4)
    assert problem.order == 3
    none = by_hand(test_indices=torch.zeros(0, 3, dtype=torch.int64), test_values=torch.zeros(0))
    assert len(none.test_values) == 0
    assert by_hand(values=torch.ones(2, dtype=torch.bfloat16), test_values=torch.ones(1, dtype=torch.bfloat16))


INT = torch.int64


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"shape": (2, 3)}, ValueError, r"tree has 3 modes; shape is \(2, 3\)"),
        ({"shape": (2, 3, 0)}, ValueError, r"shape\[2\] is 0"),
        ({"indices": torch.zeros(2, 2, dtype=INT)}, ValueError, r"^indices has shape \(2, 2\); expected \(m, 3\)"),
        ({"indices": torch.zeros(2, dtype=INT)}, ValueError, r"^indices has shape \(2,\)"),
        ({"test_indices": torch.zeros(1, 4, dtype=INT)}, ValueError, r"test_indices has shape \(1, 4\)"),
        ({"values": torch.ones(3)}, ValueError, r"^values has shape \(3,\); indices has 2 rows"),
        ({"test_values": torch.ones(1, 1)}, ValueError, r"test_values has shape \(1, 1\); test_indices has 1 rows"),
        ({"indices": torch.zeros(2, 3)}, TypeError, r"^indices has dtype torch\.float32; expected torch\.int64"),
        ({"values": torch.ones(2, dtype=INT)}, TypeError, r"^values has dtype torch\.int64; expected a floating type"),
        (
            {"test_values": torch.ones(1, dtype=torch.float64)},
            TypeError,
            r"test_values has dtype torch\.float64; values",
        ),
        ({"target": torch.zeros(2, 3, 4, dtype=torch.float64)}, TypeError, r"target has dtype torch\.float64; values"),
        ({"target": torch.zeros(4, 3, 2)}, ValueError, r"target has shape \(4, 3, 2\); shape is \(2, 3, 4\)"),
        ({"values": torch.ones(2, device="meta")}, ValueError, "values is on meta; indices are on cpu"),
        ({"indices": torch.zeros(0, 3, dtype=INT), "values": torch.ones(0)}, ValueError, "indices has no rows"),
        ({"indices": torch.tensor([[0, 0, 0], [1, 3, 3]])}, ValueError, r" indices\[1\] has the index 3 of mode 1"),
        ({"indices": torch.tensor([[0, 0, -1], [1, 2, 3]])}, ValueError, r" indices\[0\] has the index -1 of mode 2"),
        ({"test_indices": torch.tensor([[2, 0, 0]])}, ValueError, r"test_indices\[0\] has the index 2 of mode 0"),
        (
            {"indices": torch.ones(2, 3, dtype=INT)},
            ValueError,
            r" indices\[1\] has the indices \(1, 1, 1\) of indices\[0\] again",
        ),
        (
            {"test_indices": torch.tensor([[1, 2, 3]])},
            ValueError,
            r"test_indices\[0\] has the indices \(1, 2, 3\) of indices\[1\] again",
        ),
        ({"values": torch.tensor([1.0, torch.nan])}, ValueError, r"^values\[1\] is nan; expected a finite number"),
        ({"test_values": torch.tensor([torch.inf])}, ValueError, r"test_values\[0\] is inf"),
        ({"indices": torch.randint(2, (25, 3)), "values": torch.ones(25)}, ValueError, r" has the indices .* again"),
    ],
)
def test_problems_that_do_not_fit_together(changes, kind, message):
    with pytest.raises(kind, match=message):
        by_hand(**changes)


def test_the_diverging_problem(tmp_path):
    problem = diverging_completion(torch.float32)
    assert (problem.shape, problem.target, len(problem.test_values)) == ((2, 2), None, 0)
    matrix = torch.full((2, 2), 7.0)
    matrix[tuple(problem.indices.T)] = problem.values
    assert matrix.tolist() == [[7, 1], [1, 0]]
    assert problem.values.dtype == torch.float32
    assert json.loads(json.dumps(problem.describe())) == problem.describe()
    assert diverging_completion(device="meta").values.device.type == "meta"
    problem.save(tmp_path / "problem.npz")
    assert completion_from_file(tmp_path / "problem.npz").describe() == problem.describe()
    with pytest.raises(TypeError, match="expected a floating type"):
        diverging_completion(torch.int32)
