import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from regularizers.cases import papers_trainer

from htf import DimensionTree
from htf.regularizers import Patch, far_patches, preset_areas, random_patches, tree_patches


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pixels(patch):
    return {(i, j) for i in range(*patch.rows.indices(99)) for j in range(*patch.columns.indices(99))}


def every_pair(sampler, height, width, monkeypatch):
    """All that a sampler may draw, each as often as its random numbers lead there, with its probability."""
    found = []
    script = [[]]
    while script:
        numbers, counts = script.pop(), []

        def scripted(count, size, generator, numbers=numbers, counts=counts):
            counts.append(count)
            return numbers[len(counts) - 1] if len(counts) <= len(numbers) else 0

        monkeypatch.setattr(torch, "randint", scripted)
        pair = sampler(height, width, None)
        if len(counts) == len(numbers):
            found.append((pair, 1 / np.prod(counts)))
        else:
            script.extend([*numbers, k] for k in range(counts[len(numbers)]))
    monkeypatch.undo()
    return found


def brute_pairs(size, height, width, allowed):
    tops, lefts = range(height - size[0] + 1), range(width - size[1] + 1)
    every = [Patch(top, left, *size) for top, left in itertools.product(tops, lefts)]
    return {(a, b) for a, b in itertools.product(every, every) if allowed(a.distance(b))}


@given(*[st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(1, 4), st.integers(1, 4))] * 2)
def test_distance_is_pixels_between(a, b):
    a, b = Patch(*a), Patch(*b)
    between = min(max(abs(i - k), abs(j - m)) for (i, j) in pixels(a) for (k, m) in pixels(b)) - 1
    assert (a.distance(b) >= 0) == (not pixels(a) & pixels(b))
    if not pixels(a) & pixels(b):
        assert a.distance(b) == b.distance(a) == between


@pytest.mark.parametrize(
    ("size", "distance", "height", "width"),
    [(2, 0, 6, 7), (2, 2, 6, 7), (1, 0, 2, 1), (1, 3, 5, 4), ((3, 1), 1, 8, 3), (2, 3, 7, 7), (3, 0, 6, 4)],
)
def test_random_patches_are_all_that_are_far_enough_and_alike_likely(size, distance, height, width, monkeypatch):
    sizes = size if isinstance(size, tuple) else (size, size)
    for adjacent in (False, True):
        found = every_pair(random_patches(size, distance, adjacent), height, width, monkeypatch)
        pairs = [pair for pair, _ in found]
        expected = brute_pairs(sizes, height, width, lambda d: d == distance if adjacent else d >= distance)  # noqa: B023
        assert set(pairs) == expected
        assert len(pairs) == len(expected)
        firsts = {a for a, _ in expected}
        for (first, _), probability in found:
            seconds = sum(a == first for a, _ in expected)
            assert probability == pytest.approx(1 / len(firsts) / seconds)


def test_far_patches_come_at_every_distance_alike(monkeypatch):
    found = every_pair(far_patches((2, 1), 1), 6, 8, monkeypatch)
    share = dict.fromkeys(range(1, 7), 0.0)
    for (first, second), probability in found:
        share[first.distance(second)] += probability
    assert list(share.values()) == pytest.approx([1 / 6] * 6)
    assert {pair for pair, _ in found} == brute_pairs((2, 1), 6, 8, lambda d: d >= 1)


@pytest.mark.parametrize("adjacent", [False, True])
@pytest.mark.parametrize(("size", "distance"), [(1, 0), (2, 0), (2, 1), (2, 3), (3, 1)])
def test_second_patches_are_those_of_the_paper(size, distance, adjacent, monkeypatch):
    trainer = papers_trainer(monkeypatch)
    height, width = 7, 8
    theirs = set()
    for first in itertools.product(range(height - size + 1), range(width - size + 1)):
        given = trainer.PatchCoordinates(*first, first[0] + size, first[1] + size)
        sample = trainer.get_sample_rand_second_patch_func(size, distance, adjacent)
        counts = [1]
        chosen = 0
        while chosen < counts[-1]:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(np.random, "randint", lambda low, high: (counts.append(high), chosen)[1])  # noqa: B023
                try:
                    second = sample(height, width, given)
                except ValueError:
                    break
            theirs.add((first, (int(second.top_left_i), int(second.top_left_j))))
            chosen += 1
    ours = [pair for pair, _ in every_pair(random_patches(size, distance, adjacent), height, width, monkeypatch)]
    assert {(a[:2], b[:2]) for a, b in ours} == theirs


def test_draws_follow_the_generator():
    for sampler in (random_patches(2, 3), far_patches(3), tree_patches(3), preset_areas((0, 0, 2, 2), (5, 5, 1, 1))):
        draws = [[sampler(20, 30, g) for _ in range(10)] for g in (generator(1), generator(1), generator(2))]
        assert draws[0] == draws[1]
        assert draws[0] != draws[2]


def test_preset_areas_are_drawn_in_pairs(monkeypatch):
    areas = Patch(0, 0, 4, 4), Patch(0, 8, 4, 4), Patch(6, 0, 2, 2)
    found = every_pair(preset_areas(*areas), 8, 12, monkeypatch)
    assert sorted(found) == sorted((pair, pytest.approx(1 / 6)) for pair in itertools.permutations(areas, 2))


@pytest.mark.parametrize("tree", [2, 3, DimensionTree.grid(5, 7, [(1, 3), 2])], ids=str)
def test_tree_patches_are_siblings(tree, monkeypatch):
    built = tree if isinstance(tree, DimensionTree) else DimensionTree.grid(5, 7, tree)
    found = every_pair(tree_patches(tree), 5, 7, monkeypatch)
    areas = {node: {divmod(mode, 7) for mode in built.modes(node)} for node in range(built.n_nodes)}
    expected = [
        (areas[a], areas[b]) for node in built.inner_nodes for a, b in itertools.permutations(built.children(node), 2)
    ]
    assert len(found) == len(expected)
    for (first, second), probability in found:
        assert (pixels(first), pixels(second)) in expected
        node = built.parent(next(n for n, area in areas.items() if area == pixels(first)))
        arity = len(built.children(node))
        assert probability == pytest.approx(1 / len(built.inner_nodes) / arity / (arity - 1))


def test_tree_patches_of_some_nodes(monkeypatch):
    tree = DimensionTree.grid(4, 4)
    found = every_pair(tree_patches(tree, [tree.root]), 4, 4, monkeypatch)
    assert {patch for pair, _ in found for patch in pair} == {Patch(i, j, 2, 2) for i in (0, 2) for j in (0, 2)}
    found = every_pair(tree_patches(2, tree.levels[1]), 4, 4, monkeypatch)
    assert {patch[2:] for pair, _ in found for patch in pair} == {(1, 1)}


def test_patches_from_arrays():
    areas = np.array([[0, 0, 2, 2], [4, 4, 2, 2]])
    assert preset_areas(*areas) == preset_areas(*areas.tolist())


def test_tree_patches_of_images_of_one_width():
    sampler = tree_patches(2)
    for seed in range(60):
        for height in (4, 8):
            assert sampler(height, 8, generator(seed)) == tree_patches(2)(height, 8, generator(seed))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: random_patches(2, None), TypeError, "distance is None; expected an integer"),
        (lambda: preset_areas((0, 0, 2), (4, 4, 2, 2)), TypeError, r"areas\[0\] is \(0, 0, 2\); expected a Patch"),
        (lambda: preset_areas((4, 4, 2, 2), (0, 0, 2, 2.5)), TypeError, r"areas\[1\] is .*; expected integers"),
        (lambda: random_patches(0), ValueError, "size is 0; expected at least 1"),
        (lambda: random_patches(1.5), TypeError, "size is 1.5; expected an integer"),
        (lambda: random_patches((1, 2, 3)), ValueError, r"size is \(1, 2, 3\); expected an integer or"),
        (lambda: random_patches(2, -1), ValueError, "distance is -1"),
        (lambda: far_patches(2, 0.5), TypeError, "distance is 0.5"),
        (lambda: preset_areas((0, 0, 2, 2)), ValueError, "areas holds 1 patches; expected at least 2"),
        (lambda: preset_areas((0, 0, 2, 2), (1, 1, 2, 2)), ValueError, "overlap"),
        (lambda: preset_areas((0, 0, 2, 2), (-1, 5, 2, 2)), ValueError, "top=-1.*no patch"),
        (lambda: preset_areas((0, 0, 2, 2), (5, 5, 0, 2)), ValueError, "height=0.*no patch"),
        (lambda: tree_patches(1), ValueError, "tree is 1; expected a DimensionTree"),
        (lambda: tree_patches(2, []), ValueError, "nodes is empty"),
        (lambda: tree_patches(DimensionTree.grid(4, 4), [3]), ValueError, "nodes holds 3, a leaf"),
        (lambda: tree_patches(DimensionTree.grid(4, 4), [99]), IndexError, "99 is not in the tree"),
    ],
)
def test_bad_samplers(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (random_patches(2, 7), "distance is 7; between two patches of 2 x 2 .* 6 x 10 pixels there are at most 6"),
        (far_patches(2, 7), "at most 6"),
        (random_patches((7, 1)), "size is 7 x 1; it does not fit an image of 6 x 10"),
        (random_patches(6), "two patches of 6 x 6 do not fit an image of 6 x 10"),
        (preset_areas((0, 0, 3, 3), (0, 8, 3, 3)), r"left=8.* reaches outside of an image of 6 x 10"),
        (preset_areas((0, 0, 3, 3), (4, 4, 3, 3)), r"top=4.* reaches outside of an image of 6 x 10"),
        (tree_patches(DimensionTree.grid(4, 4)), "tree joins 16 modes; the image has 6 x 10"),
        (tree_patches(DimensionTree.interleaved(60)), "are no rectangle"),
        (tree_patches(2, [3]), "nodes holds 3, a leaf"),
    ],
)
def test_patches_that_do_not_fit(sampler, message):
    with pytest.raises(ValueError, match=message):
        [sampler(6, 10, generator(seed)) for seed in range(20)]
