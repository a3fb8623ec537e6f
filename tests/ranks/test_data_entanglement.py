"""Entanglement of data: values of dense tensors, laws, and what is refused."""

import math

import numpy as np
import pytest
import torch

import htf
from htf import DimensionTree
from htf.ranks import DataEntanglement, data_entanglement, entanglement_entropies
from htf.tensors.data_tensor import angles, factor_of, label_codes

TREES = {
    "balanced": DimensionTree.balanced(6),
    "linear": DimensionTree.linear(6),
    "cp": DimensionTree.balanced(6, 6),
    "mixed": DimensionTree.from_nested(((3, 0, 5), (1, (4, 2)))),
}
ENCODERS = {
    "default": None,
    "affine": lambda x: htf.datasets.affine(x, maximum=1).double(),
    "trigonometric": lambda x: htf.datasets.trigonometric(x, maximum=1).double(),
    "complementary": lambda x: htf.datasets.complementary(x, maximum=1).double(),
    "one-hot": lambda x: htf.datasets.one_hot((x * 2.99).long(), 3).double(),
}


def table(samples=9, features=6, seed=0):
    x = np.random.default_rng(seed).random((samples, features))
    return x, np.arange(samples) % 3


def dense_entropies(vectors, codes, tree):
    """From the singular values of the dense tensor's matricizations; the mode of the labels is the last."""
    order = vectors.shape[1]
    tensor = torch.zeros(*[vectors.shape[2]] * order, codes.shape[1], dtype=torch.float64)
    for sample, code in zip(vectors.double(), codes.double(), strict=True):
        outer = sample[0]
        for vector in [*sample[1:], code]:
            outer = outer.unsqueeze(-1) * vector
        tensor += outer
    found = {}
    for node in tree.edges:
        rows, columns = tree.matricization(node)
        size = math.prod(tensor.shape[mode] for mode in rows)
        p = torch.linalg.svdvals(tensor.permute(*rows, *columns, order).reshape(size, -1)) ** 2
        p = p[p > 0] / p.sum()
        found[node] = float(-(p * p.log()).sum())
    return found


@pytest.mark.parametrize("tree", list(TREES.values()), ids=list(TREES))
@pytest.mark.parametrize("encoder", list(ENCODERS.values()), ids=list(ENCODERS))
@pytest.mark.parametrize("labelled", [False, True])
def test_entropies_are_those_of_the_dense_tensor(tree, encoder, labelled, monkeypatch):
    x, labels = table()
    vectors = angles(torch.from_numpy(x)) if encoder is None else encoder(torch.from_numpy(x))
    codes = label_codes(labels, 9) if labelled else torch.ones(9, 1)
    expected = dense_entropies(vectors, codes, tree)
    given = labels if labelled else None
    for explicit in (64, 2):  # products written out, and Gram matrices
        monkeypatch.setattr("htf.tensors.data_tensor.EXPLICIT", explicit)
        found = data_entanglement(x, given, tree, encoder=encoder)
        assert found.entropies == pytest.approx(expected, abs=1e-10)
        assert found.mean == pytest.approx(sum(expected.values()) / len(expected), abs=1e-10)


def test_of_two_classes_the_samples_are_signed():
    x, _ = table(12)
    signs = np.array([1.0, -1.0] * 6)
    vectors, tree = angles(torch.from_numpy(x)), TREES["balanced"]
    expected = dense_entropies(vectors, torch.from_numpy(signs)[:, None], tree)
    for labels in (signs > 0, np.where(signs > 0, "yes", "no"), torch.from_numpy(signs).long()):
        assert data_entanglement(x, labels, tree).entropies == pytest.approx(expected, abs=1e-10)


def test_it_is_the_entanglement_of_the_cp_tensor_of_the_samples():
    """Tensors of an order and vectors whose products leave the range of numbers."""
    x = torch.randn(8, 40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[:, 1:] = x[:, :1] + 0.1 * x[:, 1:]
    tree = DimensionTree.balanced(40)
    expected = entanglement_entropies(htf.tensors.cp_to_ht((None, list(x.movedim(0, -1).movedim(0, 0))), tree=tree))
    for scale in (1.0, 1e30, 1e-30):
        found = data_entanglement(x * scale, tree=tree).entropies
        assert found == pytest.approx({node: float(value) for node, value in expected.items()}, abs=1e-9)


def test_features_may_be_exchanged_within_a_side_and_samples_and_signs_altogether():
    x, labels = table(20)
    tree, other = DimensionTree.from_nested(((0, 1, 2), (3, 4, 5))), DimensionTree.from_nested(((2, 0, 1), (4, 5, 3)))
    first, second = data_entanglement(x, labels, tree), data_entanglement(x, labels, other)
    assert first.entropies == pytest.approx(
        {tree.node(other.modes(node)): value for node, value in second.entropies.items()}, abs=1e-10
    )
    order = np.random.default_rng(1).permutation(20)
    assert data_entanglement(x[order], labels[order], tree).entropies == pytest.approx(first.entropies, abs=1e-10)
    assert data_entanglement(-3 * x + 7, 2 - labels, tree).entropies == pytest.approx(first.entropies, abs=1e-10)


def test_copies_of_features_on_one_side_are_not_entangled():
    x, _ = table(50, 4)
    x = np.concatenate([x, x], 1)
    near = data_entanglement(x, tree=DimensionTree.from_nested(((0, 4, 1, 5), (2, 6, 3, 7))))
    far = data_entanglement(x, tree=DimensionTree.from_nested(((0, 1, 2, 3), (4, 5, 6, 7))))
    top = {4: near.entropies[near.tree.find((0, 1, 4, 5))], 0: far.entropies[far.tree.find((0, 1, 2, 3))]}
    assert top[4] < top[0] / 2


def test_samples_that_are_all_the_same_or_cancel_have_none():
    x = np.ones((6, 4, 2)) * np.arange(1.0, 7)[:, None, None]  # multiples of one product
    assert data_entanglement(x).mean == pytest.approx(0, abs=1e-12)
    x, _ = table(5)
    twice = np.concatenate([x, x])
    assert data_entanglement(twice, [0] * 5 + [1] * 5).mean == 0


def test_a_factor_of_lower_rank_gives_the_gram_matrix():
    rows = torch.randn(300, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = rows / rows.norm(dim=1, keepdim=True)
    factor = factor_of(rows @ rows.T)
    assert factor.shape[1] == 10
    assert torch.allclose(factor @ factor.T, rows @ rows.T, atol=1e-12)
    full = torch.exp(-(torch.cdist(rows, rows) ** 2) * 20)
    factor = factor_of(full)
    assert torch.allclose(factor @ factor.T, full, atol=1e-12)


def test_errors_are_those_of_fresh_samples():
    """Over data sets drawn anew, entropies spread as the halves of one of them say."""
    rng = np.random.default_rng(0)
    tree = DimensionTree.balanced(4)

    def drawn():
        z = rng.normal(size=(60, 1))
        return z + 0.5 * rng.normal(size=(60, 4))

    spread = np.std([data_entanglement(drawn(), tree=tree).entropies[4] for _ in range(60)])
    profiles = [data_entanglement(drawn(), tree=tree, resamples=20, seed=seed) for seed in range(6)]
    assert 0.5 < np.mean([profile.errors[4] for profile in profiles]) / spread < 2
    low, high = profiles[0].interval(4)
    assert low < profiles[0].entropies[4] < high
    assert high - profiles[0].entropies[4] == pytest.approx(1.96 * profiles[0].errors[4], rel=1e-3)


def test_labels_that_say_nothing_are_as_the_null_and_others_are_not():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(100, 4)), np.arange(100) % 2
    tree = DimensionTree.balanced(4)
    null = data_entanglement(x, labels, tree, permutations=10)
    assert abs(null.entropies[4] - null.null[4]) < 4 * null.null_spread[4]
    x[:, 0] += 4 * labels  # one feature tells all: the difference of the classes is a product
    told = data_entanglement(x, labels, tree, permutations=10)
    assert told.entropies[4] < told.null[4] - 3 * told.null_spread[4]


def test_samples_are_drawn_and_settings_told():
    x, labels = table(40)
    few = data_entanglement(x, labels, samples=15, seed=3)
    assert few.settings["samples"] == 15
    assert few.settings["of"] == 40
    assert few.entropies == data_entanglement(x, labels, samples=15, seed=3).entropies
    assert few.entropies != data_entanglement(x, labels, samples=15, seed=4).entropies
    assert data_entanglement(x, labels, samples=40).entropies == pytest.approx(
        data_entanglement(x, labels).entropies, abs=1e-10
    )


def test_files_tables_and_figures(tmp_path):
    x, labels = table(20)
    profile = data_entanglement(x, labels, TREES["mixed"], resamples=3, permutations=3)
    profile.save(tmp_path / "profile.json")
    again = DataEntanglement.load(tmp_path / "profile.json")
    assert again == profile
    lines = profile.table().splitlines()
    assert lines[0].split() == ["level", "nodes", "mean", "largest", "null"]
    assert [line.split()[:2] for line in lines[1:]] == [["0", "6"], ["1", "2"], ["2", "1"]]
    ax = profile.plot(label="mixed")
    assert list(ax.get_lines()[0].get_ydata()) == pytest.approx(list(profile.by_level().values()))
    assert "mixed" in [text.get_text() for text in ax.get_legend().get_texts()]
    (tmp_path / "profile.json").write_text((tmp_path / "profile.json").read_text().replace("0.", "1.", 1))
    with pytest.raises(ValueError, match="profile"):
        DataEntanglement.load(tmp_path / "profile.json")
    with pytest.raises(ValueError, match="no errors"):
        data_entanglement(x).interval(0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"features": np.ones((5, 6))}, ValueError, "features are constant"),
        ({"features": np.full((5, 6), np.nan)}, ValueError, "features has entries that are NaN or infinite"),
        ({"features": np.ones(5)}, ValueError, r"features has shape \(5,\)"),
        ({"features": np.ones((1, 6))}, ValueError, "at least 2 samples"),
        ({"features": np.array([["a"] * 6] * 5)}, TypeError, "features has dtype"),
        ({"features": table()[0] * 1j}, TypeError, "expected real numbers"),
        ({"labels": np.zeros(9)}, ValueError, "labels has one class"),
        ({"labels": np.zeros(8)}, ValueError, r"labels has shape \(8,\); expected \(9,\)"),
        ({"labels": np.linspace(0, 1, 9)}, ValueError, "no whole numbers"),
        ({"tree": DimensionTree.balanced(5)}, ValueError, "tree has 5 modes; the samples have 6"),
        ({"tree": "balanced"}, TypeError, "tree is a str"),
        ({"encoder": "affine"}, TypeError, "encoder is a str"),
        ({"encoder": lambda x: x}, ValueError, "encoder gives"),
        ({"samples": 1}, ValueError, "samples is 1"),
        ({"samples": 0}, ValueError, "samples is 0"),
        ({"resamples": -1}, ValueError, "resamples is -1"),
        ({"permutations": 2, "labels": None}, ValueError, "permutations is 2 and labels is None"),
        ({"seed": -1}, ValueError, "seed is -1"),
        ({"device": "cuda:77"}, ValueError, "cuda:77"),
        ({"features": np.random.default_rng(0).random((5, 1)), "labels": None}, ValueError, "one feature"),
    ],
)
def test_what_is_refused(change, error, message):
    x, labels = table()
    arguments = {"features": x, "labels": labels, "tree": None} | change
    if "features" in change and "labels" not in change:
        arguments["labels"] = None
    with pytest.raises(error, match=message):
        data_entanglement(arguments.pop("features"), **arguments)


def test_too_many_samples_for_memory_are_told_how_many_fit(monkeypatch):
    monkeypatch.setitem(data_entanglement.__globals__, "_free_memory", lambda device: 10**6)
    with pytest.raises(MemoryError, match=r"features has 2000 samples.*up to \d+ samples fit: name samples="):
        data_entanglement(np.random.default_rng(0).random((2000, 4)))
