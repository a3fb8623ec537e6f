"""Figures of densities and classifiers, read back from what was drawn."""

import math

import numpy as np
import pytest
import torch
from density_cases import fitted, table

from htf.models import GenerativeClassifier, TensorDensity
from htf.plotting import plot_completions, plot_confusion, plot_images, plot_learned, plot_missing_data


def shown(ax):
    return np.ma.filled(ax.images[0].get_array().astype(float), math.nan)


def images(n=60):
    generator = torch.Generator().manual_seed(0)
    side = torch.randint(0, 2, (n, 1, 1), generator=generator)
    return ((torch.rand(n, 4, 4, generator=generator) < 0.2 + 0.6 * side).long() * 2).clamp(max=2), side.flatten()


def test_component_means_are_expectations_of_the_table():
    for kind in ({}, {"format": "tt"}, {"leaf": "binomial"}):
        density = fitted(3, 6, **kind)
        whole = table(density, 3, 6)
        root = density.component_means(density.network.tree.root)
        assert root.shape == (1, 6)
        for mode in range(6):
            marginal = whole.sum([m for m in range(6) if m != mode])
            assert float(root[0, mode]) == pytest.approx(float(marginal @ torch.arange(3.0).double()), abs=1e-12)
    density = fitted(3, 6)
    tree = density.network.tree
    # Components of the root's children, mixed by the root, are the root's.
    parts = [density.component_means(child) for child in tree.children(tree.root)]
    mixed = density.network.matrix(tree.root).detach().T @ torch.stack(parts).nan_to_num().sum(0)
    assert torch.allclose(mixed, density.component_means(tree.root), atol=1e-12)
    for part, child in zip(parts, tree.children(tree.root), strict=True):
        outside = [mode for mode in range(6) if mode not in set(tree.modes(child))]
        assert bool(part[:, outside].isnan().all())
    with pytest.raises(IndexError, match="node is 99"):
        density.component_means(99)
    with pytest.raises(ValueError, match="squared is True"):
        fitted(3, 6, squared=True).component_means(0)


def test_class_means_are_the_components_of_a_classifiers_root():
    x, y = images(400)
    classifier = GenerativeClassifier(levels=3, width=4, leaf="categorical", epochs=10, device="cpu").fit(x, y)
    means = classifier.component_means(classifier.network.tree.root)
    assert means.shape == (2, 4, 4)
    for label in (0, 1):
        assert float((means[label] - x[y == label].double().mean(0)).abs().max()) < 0.3


def test_images_and_completions():
    x, _ = images()
    density = TensorDensity(levels=3, width=2, epochs=2, device="cpu").fit(x)
    missing = torch.zeros(5, 4, 4, dtype=torch.bool)
    missing[:, 2:] = True
    figure = plot_completions(density, x[:5], missing, draws=3, columns=4)
    labels = [ax.get_ylabel() for ax in figure.axes[::4]]
    assert labels == ["images", "known", "draw 1", "draw 2", "draw 3", "most probable"]
    for column in range(4):
        original, known, *completions = (shown(ax) for ax in figure.axes[column::4])
        np.testing.assert_array_equal(original, x[column])
        assert np.isnan(known[2:]).all()
        for each in (known, *completions):
            np.testing.assert_array_equal(each[:2], original[:2])
        assert all(np.isin(each, [0, 1, 2]).all() for each in completions)
    rows = {"two": x[:2], "three": x[:3].numpy()}
    figure = plot_images(rows, limits=(0, 4))
    assert [len(ax.images) for ax in figure.axes] == [1, 1, 0, 1, 1, 1]
    assert figure.axes[0].images[0].get_clim() == (0, 4)
    for bad, words in (({}, "rows is empty"), ({"a": x[0]}, r"rows\['a'\] has shape \(4, 4\)")):
        with pytest.raises(ValueError, match=words):
            plot_images(bad)
    squared = TensorDensity(levels=3, width=2, epochs=1, squared=True, device="cpu").fit(x)
    assert len(plot_completions(squared, x[:2], missing[:2]).axes) == 2 * 4


def test_what_nodes_have_learned():
    x, _ = images()
    density = TensorDensity(levels=3, width=3, epochs=2, device="cpu").fit(x)
    tree = density.network.tree
    figure = plot_learned(density, columns=2)
    names = [ax.get_ylabel() for ax in figure.axes[::2]]
    assert [name.split(": ")[1] for name in names] == ["4 pixels", "1 pixels"]
    node = int(names[0].split()[1].rstrip(":"))
    assert node in tree.children(tree.root)
    np.testing.assert_allclose(shown(figure.axes[0]), density.component_means(node)[0])
    assert len(plot_learned(density, [tree.root]).axes) == 1
    with pytest.raises(ValueError, match=r"samples of shape \(6,\); expected images"):
        plot_learned(fitted(3, 6))


def test_accuracy_against_missing_pixels():
    curves = {
        "tree": {"none": [0.9, 0.92], "iid 0.5": [0.8, 0.9], "iid 0.25": [0.85, 0.87], "2 x 11": [0.7, 0.8]},
        "cnn": {"none": 0.95, "iid 0.5": 0.5},
    }
    figure = plot_missing_data(curves)
    left, right = figure.axes
    line = left.containers[0].lines[0]
    assert line.get_xdata().tolist() == [0, 0.25, 0.5]
    assert line.get_ydata().tolist() == pytest.approx([0.91, 0.86, 0.85])
    assert [text.get_text() for text in right.get_xticklabels()] == ["2×11"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["tree", "CNN"]
    with pytest.raises(ValueError, match="no accuracies"):
        plot_missing_data({"tree": {}})


def test_confusion():
    ax = plot_confusion(torch.tensor([3, 3, 3, 7, 7, 9]), np.array([3, 3, 7, 7, 7, 3]))
    found = {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in ax.texts}
    assert found == {(0, 0): "2", (0, 1): "1", (1, 1): "2", (2, 0): "1"}
    assert [label.get_text() for label in ax.get_xticklabels()] == ["3", "7", "9"]
    assert float(ax.images[0].get_array()[0, 0]) == pytest.approx(2 / 3)
    for bad in (([1, 2], [1]), ([], [])):
        with pytest.raises(ValueError, match="labels and predicted have shapes"):
            plot_confusion(*bad)
