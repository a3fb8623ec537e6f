import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from htf.datasets import crossed_dots, pathfinder
from htf.datasets._pathfinder_curves import dashes, draw_scenes, smallest_size
from htf.datasets._pathfinder_spacing import Style, are_clear
from htf.datasets.pathfinder import scenes_of, style_of

FEW = {"train": 6, "validation": 4, "test": 4}


def segment_distance(points, start, end):
    """Distances of (n, 2) points from one segment, one formula for each case."""
    along = end - start
    share = ((points - start) @ along) / (along @ along)
    on_line = np.abs((points - start) @ np.array([-along[1], along[0]])) / np.hypot(*along)
    to_ends = np.minimum(np.hypot(*(points - start).T), np.hypot(*(points - end).T))
    return np.where((share > 0) & (share < 1), on_line, to_ends)


def raster(scene, style, fine):
    """Whether pixels of a finer grid are within half a gap of a dash of the scene."""
    centres = (np.indices((style.size * fine,) * 2).reshape(2, -1).T + 0.5) / fine
    nearest = np.full(len(centres), np.inf)
    for snake in (scene.first[0], scene.second[0], *scene.distractors[0]):
        for start, end in [] if np.isnan(snake).any() else dashes(snake, style):
            nearest = np.minimum(nearest, segment_distance(centres, start, end))
    # A pixel of the finer grid more, as two such discs only touch in the middle of a gap.
    return (nearest <= style.gap / 2 + 1 / fine).reshape((style.size * fine,) * 2)


# -- labels --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path_length", "size"), [(2, 32), (3, 48), (5, 48), (9, 64)])
def test_flood_fill_along_the_dashes_connects_the_dots_of_positives_only(path_length, size):
    fine, style = 3, style_of(path_length, size, None, None, None)
    scenes = scenes_of(style, 0, 0, 0)
    for k in range(12):
        scene = scenes[k : k + 1]
        parts, count = ndimage.label(raster(scene, style, fine))
        one, other = (parts[tuple((dot * fine).astype(int))] for dot in scene.dots[0])
        assert 0 not in (one, other)
        assert (one == other) == bool(scene.labels[0])
        # All snakes are apart, marked or not.
        assert count == 2 + int(np.isfinite(scene.distractors[0, :, 0, 0]).sum())


@pytest.mark.parametrize("path_length", [3, 9])
def test_flood_fill_of_the_images_themselves(path_length):
    data = pathfinder(path_length, 300, train=8, validation=0, test=0, seed=1)
    for image, label in zip(data.train.images[:, 0].numpy(), data.train.labels, strict=True):
        # Three times finer, so that edges are known to a third of a pixel.
        white = ndimage.zoom(image, 3, order=1) > 100
        # What is wider than a line is a dot.
        dots, count = ndimage.label(ndimage.binary_erosion(white, iterations=6))
        assert count == 2
        one, other = np.rint(ndimage.center_of_mass(white, dots, [1, 2])).astype(int)
        parts, _ = ndimage.label(ndimage.distance_transform_edt(~white) <= 3 * 1.1 * data.settings["gap"] / 2)
        assert (parts[tuple(one)] == parts[tuple(other)]) == bool(label)


@pytest.mark.parametrize("size", [1, 2, 7, 300])
def test_half_of_each_label_however_many(size):
    data = pathfinder(2, 32, train=size, validation=size, test=0)
    for split in (data.train, data.validation):
        assert len(split) == size
        assert abs(2 * int(split.labels.sum()) - size) <= size % 2
    assert len(data.test) == 0


# -- shortcuts -----------------------------------------------------------------------------------------


def features(path_length, blocks):
    """Dots in random order, with labels, (n, 2, 2) and (n,)."""
    scenes = [scenes_of(style_of(path_length, 48, None, None, None), 0, 0, block) for block in range(blocks)]
    dots, labels = np.concatenate([s.dots for s in scenes]), np.concatenate([s.labels for s in scenes])
    flip = np.random.default_rng(0).random(len(dots)) < 0.5
    dots[flip] = dots[flip, ::-1]
    return dots, labels


@pytest.mark.parametrize("path_length", [3, 5])
def test_distance_and_places_of_the_dots_tell_nothing(path_length):
    dots, labels = features(path_length, 12)
    half = len(labels) // 2
    distance = np.hypot(*(dots[:, 1] - dots[:, 0]).T)
    threshold = max(
        np.quantile(distance[:half], np.linspace(0, 1, 101)),
        key=lambda t: np.mean((distance < t)[:half] == labels[:half]),
    )
    right = np.mean((distance < threshold)[half:] == labels[half:])
    assert max(right, 1 - right) < 0.55
    edges = np.quantile(distance[:half], np.linspace(0, 1, 21)[1:-1])
    border = np.minimum(dots, 48 - dots).reshape(len(dots), 4)
    places = np.column_stack(
        [distance, dots.reshape(len(dots), 4), border, np.sort(border, 1), dots[:, 1] - dots[:, 0]]
    )
    for model, inputs in (
        (LogisticRegression(), np.eye(20)[np.digitize(distance, edges)]),
        (HistGradientBoostingClassifier(max_iter=50, max_leaf_nodes=8), places),
    ):
        assert model.fit(inputs[:half], labels[:half]).score(inputs[half:], labels[half:]) < 0.55


@settings(max_examples=15, deadline=None)
@given(path_length=st.integers(2, 9), gap=st.floats(1, 5), dash=st.floats(1, 12), seed=st.integers(0, 2**32))
def test_geometry_of_scenes(path_length, gap, dash, seed):
    style = Style(0, path_length, max(1, path_length // 3), 3, dash, gap, 1.0, 1.5)
    smallest = smallest_size(style)
    assume(smallest is not None)
    style = replace(style, size=2 * smallest)
    scenes = draw_scenes(8, style, np.random.default_rng(seed))
    np.testing.assert_array_equal(scenes.labels.reshape(-1, 2).sum(1), 1)
    ends = np.stack([scenes.first[:, -1], scenes.second[:, -1]])
    distances = np.linalg.norm(ends - scenes.first[:, 0], axis=-1)
    np.testing.assert_allclose(distances[0], distances[1])
    # One of each label in every two, with dots as far apart.
    np.testing.assert_allclose(distances[0, ::2], distances[0, 1::2])
    for k in range(len(scenes)):
        snakes = [s for s in (scenes.first[k], scenes.second[k], *scenes.distractors[k]) if not np.isnan(s).any()]
        for number, snake in enumerate(snakes):
            assert (snake >= style.border - 1e-9).all()
            assert (snake <= style.size - style.border + 1e-9).all()
            drawn = dashes(snake, style)
            np.testing.assert_allclose(np.linalg.norm(drawn[:, 1] - drawn[:, 0], axis=1), dash)
            along = np.diff(snake, axis=0) / np.linalg.norm(np.diff(snake, axis=0), axis=1, keepdims=True)
            assert ((along[1:] * along[:-1]).sum(1) >= np.cos(np.radians(50)) - 1e-9).all()
            # Many points on each line, not those that the library looks at.
            points = np.concatenate([np.linspace(a, b, 50) for a, b in itertools.pairwise(snake)])
            for other in snakes[:number]:
                for a, b in itertools.pairwise(other):
                    assert segment_distance(points, a, b).min() >= style.margin - 1e-9


def test_dots_of_both_labels_are_at_the_same_places_up_to_symmetries_of_the_square():
    style = style_of(3, 48, None, None, None)
    dots = scenes_of(style, 0, 0, 0).dots - 24
    # What mirroring and quarter turns leave: sizes of the coordinates, in some order, and the distance.
    kept = np.sort(np.abs(dots), -1).reshape(-1, 2, 2, 2)
    np.testing.assert_allclose(kept[:, 0], kept[:, 1], atol=1e-9)
    # All eight occur.
    turns = np.sign(dots[:, 0]) * (1 + (np.abs(dots[:, 0, 0]) < np.abs(dots[:, 0, 1])))[:, None]
    assert len(np.unique(turns, axis=0)) == 8


# -- images --------------------------------------------------------------------------------------------


def test_images_show_the_marks_and_nothing_else():
    style = style_of(4, 64, None, None, None)
    scenes = scenes_of(style, 3, 0, 0)
    images = pathfinder(4, 64, train=6, validation=0, test=0, seed=3).train.images[:, 0].numpy()
    centres = np.indices((64, 64)).reshape(2, -1).T + 0.5
    for k, image in enumerate(images):
        marks = [dashes(s, style) for s in (scenes.first[k], scenes.second[k], *scenes.distractors[k])]
        marks = np.concatenate([m for m in marks if not np.isnan(m).any()])
        lines = np.min([segment_distance(centres, *mark) for mark in marks], 0).reshape(64, 64)
        dots = np.min([np.hypot(*(centres - dot).T) for dot in scenes.dots[k]], 0).reshape(64, 64)
        assert (image[(lines > 1.5) & (dots > style.radius + 0.5)] == 0).all()
        assert (image[dots < style.radius - 0.5] == 255).all()
        # The ink of a dash is its area, wherever it lies; those next to dots share pixels with them.
        far = [m for m in marks if min(np.abs(m - dot).max(-1).min() for dot in scenes.dots[k]) > 5]
        ink = [image[segment_distance(centres, *m).reshape(64, 64) < 1].sum() / 255 for m in far]
        assert np.mean(ink) == pytest.approx(style.dash * style.thickness, rel=0.1)
        assert min(ink) > 0.75 * style.dash * style.thickness


def test_images_are_what_was_asked_for():
    data = pathfinder(3, 48, **FEW)
    assert data.name == "pathfinder"
    assert data.train.images.shape == (6, 1, 48, 48)
    assert data.train.images.dtype == torch.uint8
    assert data.image_size == (1, 48, 48)
    assert int(data.train.images.amax((1, 2, 3)).min()) == 255
    inputs, labels = data.train.tensors()
    assert float(inputs.min()) == 0
    assert float(inputs.max()) == 1
    assert torch.equal(labels, data.train.labels)
    assert data.settings["dash"] == 3
    assert data.settings["distractors"] == 4
    large = pathfinder(9, 300, train=1, validation=0, test=0).settings
    assert (large["dash"], large["gap"], large["thickness"], large["radius"]) == (5, 6, 2, 3)
    assert (large["distractors"], large["distractor_length"]) == (10, 3)


def test_without_distractors_two_snakes_are_left():
    with_, without = (
        pathfinder(3, 64, train=20, validation=0, test=0, distractors=count).train.images.long().sum()
        for count in (20, 0)
    )
    assert with_ > 1.5 * without


# -- streams -------------------------------------------------------------------------------------------


def test_the_seed_decides_and_sizes_change_nothing_else():
    data = pathfinder(2, 32, train=300, validation=5, test=5, seed=4)
    again = pathfinder(2, 32, train=300, validation=5, test=5, seed=4)
    assert data.fingerprint == again.fingerprint
    assert data.settings == again.settings
    fewer = pathfinder(2, 32, train=7, validation=9, test=0, seed=4)
    assert torch.equal(fewer.train.images, data.train.images[:7])
    assert torch.equal(fewer.train.labels, data.train.labels[:7])
    assert torch.equal(fewer.validation.images[:5], data.validation.images)
    assert pathfinder(2, 32, train=300, validation=5, test=5, seed=5).fingerprint != data.fingerprint


def test_no_scene_is_used_twice():
    style = style_of(2, 32, None, None, None)
    blocks = [scenes_of(style, 0, split, block) for split in range(3) for block in range(2)]
    # Sizes of the coordinates from the middle: the same for a scene and its mirror images.
    keys = [np.sort(np.abs(b.second - 16), -1).round(6).reshape(len(b), -1) for b in blocks]
    assert len(np.unique(np.concatenate(keys), axis=0)) == 6 * 256
    data = pathfinder(2, 32, train=256, validation=256, test=256)
    images = torch.cat([split.images for split in (data.train, data.validation, data.test)]).flatten(1)
    assert len(torch.unique(images, dim=0)) == 768


def test_the_global_state_is_left_alone():
    before, state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    pathfinder(2, 32, **FEW)
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


# -- bad input -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"path_length": 1}, ValueError, "path_length is 1; expected 2 to 16"),
        ({"path_length": 17}, ValueError, "path_length is 17"),
        ({"path_length": 2.5}, TypeError, r"path_length is 2\.5; expected an integer"),
        ({"size": 31}, ValueError, "size is 31; expected 32 to 300"),
        ({"size": 301}, ValueError, "size is 301"),
        ({"dash": 0.5}, ValueError, r"dash is 0\.5; expected at least 1 pixel"),
        ({"gap": "wide"}, TypeError, "gap is 'wide'; expected a number"),
        ({"gap": float("nan")}, ValueError, "gap is nan"),
        ({"distractors": -1}, ValueError, "distractors is -1; expected 0 or more"),
        ({"distractors": True}, TypeError, "distractors is True"),
        ({"train": 0}, ValueError, "train is 0; expected at least 1"),
        ({"validation": -5}, ValueError, "validation is -5; expected 0 or more"),
        ({"test": 1.5}, TypeError, r"test is 1\.5; expected an integer"),
        ({"seed": -1}, ValueError, "seed is -1; expected 0 or more"),
        ({"seed": 0.5}, TypeError, r"seed is 0\.5; expected an integer"),
    ],
)
def test_bad_input(changes, error, message):
    with pytest.raises(error, match=message):
        pathfinder(**{"path_length": 2, "size": 32, **FEW, **changes})


def test_curves_that_do_not_fit():
    with pytest.raises(
        ValueError, match=r"size is 32; two curves of 9 dashes of 3 with gaps of 2 pixels need (\d+)"
    ) as e:
        pathfinder(9, 32)
    smallest = int(str(e.value).split()[-1])
    assert style_of(9, smallest, None, None, None).size == smallest
    with pytest.raises(ValueError, match=f"need {smallest}"):
        style_of(9, smallest - 1, None, None, None)


def test_curves_too_short_for_their_dots():
    with pytest.raises(
        ValueError, match=r"two curves of 2 dashes of 1 with gaps of 1 pixels cannot keep 3\.25 .* apart"
    ):
        pathfinder(2, 32, dash=1, gap=1)


# -- angles --------------------------------------------------------------------------------------------


def angles_at_dots(path_length, blocks, alike):
    """Directions of the dashes at the dots relative to the line between them, its length, and labels."""
    style = style_of(path_length, 48, None, None, None)
    scenes = [scenes_of(style, 0, 2, block, alike) for block in range(blocks)]
    found, labels = [], np.concatenate([each.labels for each in scenes])
    for each in scenes:
        marked = np.where(each.labels[:, None, None] == 1, each.first, each.second)
        line = each.dots[:, 1] - each.dots[:, 0]
        directions = [each.first[:, 1] - each.first[:, 0], marked[:, -1] - marked[:, -2], line]
        at = [np.arctan2(*direction.T) for direction in directions]
        turned = [at[0] - at[2], at[1] - at[2]]
        signs = np.sign(np.sin(turned[0]))
        # Mirrored so that the first turns left, with functions of both that tell most.
        both = [signs * np.sin(turned[1]), np.cos(turned[0] - turned[1]), np.cos(turned[0] + turned[1])]
        columns = [np.cos(turned[0]), np.cos(turned[1]), *both, np.hypot(*line.T)]
        found.append(np.column_stack(columns))
    return np.concatenate(found), labels


def told_by_trees(inputs, labels):
    half = len(labels) // 2
    model = HistGradientBoostingClassifier(max_iter=30, max_leaf_nodes=8)
    return model.fit(inputs[:half], labels[:half]).score(inputs[half:], labels[half:])


def test_angles_that_are_alike_tell_nothing():
    assert told_by_trees(*angles_at_dots(5, 2, False)) > 0.9
    inputs, labels = angles_at_dots(5, 2, True)
    assert abs(told_by_trees(inputs, labels) - 0.5) < 0.05
    # Both labels of every two have the same angles, and so nothing of them can tell.
    pairs = inputs.reshape(-1, 2, inputs.shape[1])
    np.testing.assert_allclose(pairs[:, 0], pairs[:, 1], atol=1e-9)
    np.testing.assert_array_equal(labels.reshape(-1, 2).sum(1), 1)


def test_scenes_of_angles_that_are_alike_are_scenes_with_their_labels():
    style = style_of(5, 48, None, None, None)
    scenes = scenes_of(style, 3, 2, 0, alike=True)
    for curves in (scenes.first, scenes.second):
        lengths = np.linalg.norm(np.diff(curves, axis=1), axis=-1)
        np.testing.assert_allclose(lengths[:, 1:-1], style.period)
        along = np.diff(curves, axis=1) / lengths[..., None]
        assert ((along[:, 1:] * along[:, :-1]).sum(-1) >= np.cos(np.radians(50)) - 1e-9).all()
        assert (np.abs(curves - 24) <= 24 - style.border + 1e-9).all()
    assert are_clear(np.stack([scenes.first, scenes.second], 1), style).all()
    same, other = scenes.dots[scenes.labels == 1], scenes.dots[scenes.labels == 0]
    np.testing.assert_array_equal(same[:, 1], scenes.first[scenes.labels == 1][:, -1])
    np.testing.assert_array_equal(other[:, 1], scenes.second[scenes.labels == 0][:, -1])
    # The tip without a dot is about as far from the first dot as the other dot, here too.
    tips = np.where(scenes.labels[:, None] == 1, scenes.second[:, -1], scenes.first[:, -1])
    apart = [np.linalg.norm(each - scenes.dots[:, 0], axis=-1) for each in (scenes.dots[:, 1], tips)]
    assert np.abs(apart[0] - apart[1]).max() < 1.0


def test_angles_are_kept_in_the_settings_and_where_scenes_are_drawn_again():
    data = pathfinder(5, 48, **FEW, angles="alike")
    assert data.settings["angles"] == "alike"
    assert "angles" not in pathfinder(5, 48, **FEW).settings
    again = crossed_dots(data, samples=4)
    for scene, image, label in zip(again, data.validation.images, data.validation.labels, strict=True):
        assert any(torch.equal((scene[0, j] * 255).round().to(torch.uint8), image) for j in ([0] if label else [1]))
    with pytest.raises(ValueError, match="angles is 'odd'; expected 'free' or 'alike'"):
        pathfinder(5, 48, **FEW, angles="odd")
    with pytest.raises(ValueError, match="path_length is 2 and angles 'alike'; expected 3 dashes or more"):
        pathfinder(2, 32, **FEW, angles="alike")


def test_scenes_that_there_are_next_to_none_of_are_given_up(monkeypatch):
    # One turn leads from dot to dot, so that another curve of the same first dash would meet the last one.
    monkeypatch.setattr("htf.datasets._pathfinder_curves._SEEN_ALIKE", 100)
    with pytest.raises(
        ValueError, match=r"angles is 'alike'; two curves of 2 dashes of 3 with gaps of 2 .* leave no room"
    ):
        scenes_of(style_of(2, 48, None, None, None), 0, 0, 0, alike=True)
