import io
import os
import sys
import tarfile

import numpy as np
import pooch
import pytest
import torch

from htf.datasets import ImageData, _cifar, is_same_class
from htf.datasets._cifar import find_cifar10

FEW = {"train": 6, "validation": 4, "test": 4}
module = sys.modules["htf.datasets.is_same_class"]


@pytest.fixture
def numbered(monkeypatch):
    """A source of which each image is its own number throughout: 180 for train, 60 for test, in 10 classes."""
    images = torch.arange(240, dtype=torch.uint8)[:, None, None].expand(240, 28, 28)
    labels = torch.arange(240) * 7 % 10
    data = ImageData("mnist", images[:180], labels[:180], images[180:], labels[180:])
    monkeypatch.setattr(module, "load", lambda name, data_dir: data)
    return labels


def numbers(split, settings):
    """The numbers of both images of each pair, after a check that nothing else is on the canvas."""
    found, canvas = [], split.images.clone()
    for top, left, height, width in settings["areas"]:
        area = canvas[:, :, top : top + height, left : left + width]
        assert bool((area == area[:, :, :1, :1]).all())
        found.append(area[:, 0, 0, 0].long())
        area.zero_()
    assert not bool(canvas.any())
    return torch.stack(found, 1)


# -- pairs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 0.5, 1 / 7])
def test_labels_say_whether_classes_are_the_same(numbered, scale):
    data = is_same_class("mnist", 3, scale=scale, train=400, validation=60, test=100)
    seen = []
    for split in (data.train, data.validation, data.test):
        pairs = numbers(split, data.settings)
        same = numbered[pairs[:, 0]] == numbered[pairs[:, 1]]
        assert torch.equal(same.long(), split.labels)
        assert bool((pairs[:, 0] != pairs[:, 1]).all())
        seen.append(set(pairs.flatten().tolist()))
    # Each split has images of its own.
    assert not seen[0] & seen[1]
    assert max(seen[0] | seen[1]) < 180 <= min(seen[2])
    assert (len(seen[0]) > 120, len(seen[1]) > 20, len(seen[2]) > 40) == (True, True, True)


def test_a_sixth_of_each_class_is_held_out():
    labels = np.repeat([3, 5, 7], [60, 12, 6]).astype(np.uint8)
    held = module._held_out(labels, np.random.default_rng(0))
    assert [int(held[labels == label].sum()) for label in (3, 5, 7)] == [10, 2, 1]


def test_labels_and_classes_are_balanced(numbered):
    data = is_same_class("mnist", train=200, validation=7, test=0)
    pairs = numbers(data.train, data.settings)
    assert int(data.validation.labels.sum()) in (3, 4)
    for label in (0, 1):
        for side in (0, 1):
            classes = numbered[pairs[data.train.labels == label, side]]
            assert torch.equal(torch.bincount(classes), torch.full((10,), 10))


def test_pairs_of_other_classes_are_all_there(numbered):
    data = is_same_class("mnist", train=2000, validation=0, test=0)
    pairs = numbered[numbers(data.train, data.settings)[data.train.labels == 0]]
    counts = torch.bincount(pairs @ torch.tensor([10, 1]), minlength=100).view(10, 10)
    # 1,000 pairs, 11 each; a circle of classes has one shift for all, and 100 circles have 9 shifts.
    assert int(counts.diagonal().sum()) == 0
    assert int((counts + 100 * torch.eye(10).long()).min()) > 0
    assert int(counts.max()) < 28


def test_the_seed_decides_and_sizes_change_nothing_else(numbered):
    sizes = {"train": 50, "validation": 5, "test": 6}
    data, again, other = (is_same_class(**sizes, seed=seed) for seed in (3, 3, 4))
    assert data.fingerprint == again.fingerprint != other.fingerprint
    fewer = is_same_class(train=33, validation=9, test=0, seed=3)
    assert torch.equal(fewer.train.images, data.train.images[:33])
    assert torch.equal(fewer.train.labels, data.train.labels[:33])
    assert torch.equal(fewer.validation.images[:5], data.validation.images)
    far = is_same_class(**sizes, seed=3, distance=40)
    assert torch.equal(numbers(far.train, far.settings), numbers(data.train, data.settings))


# -- canvas --------------------------------------------------------------------------------------------


def test_means_over_squares(monkeypatch):
    images = torch.randint(0, 256, (60, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = ImageData("mnist", images[:40], torch.arange(40) % 2, images[40:], torch.arange(20) % 2)
    monkeypatch.setattr(module, "load", lambda name, data_dir: data)
    task = is_same_class("mnist", 6, scale=0.5, train=1, validation=0, test=8)
    pooled = torch.nn.functional.avg_pool2d(images[40:].double()[:, None], 2).round().byte()
    for top, left, height, width in task.settings["areas"]:
        for image in task.test.images[:, :, top : top + height, left : left + width]:
            assert int((image == pooled).all(3).all(2).sum()) == 1


@pytest.mark.parametrize(
    ("source", "distance", "scale", "canvas", "size", "areas"),
    [
        ("digits", 20, 1, None, (10, 40), [[1, 2, 8, 8], [1, 30, 8, 8]]),
        ("digits", 0, 0.25, (5, 4), (5, 4), [[1, 0, 2, 2], [1, 2, 2, 2]]),
        ("mnist", 20, 0.5, None, (16, 64), [[1, 8, 14, 14], [1, 42, 14, 14]]),
        ("mnist", 20, 0.5, (16, 64), (16, 64), [[1, 8, 14, 14], [1, 42, 14, 14]]),
        # The papers': 40 = 112 - 32 - 80 / 2.
        ("cifar10", 80, 1.0, None, (224, 224), [[96, 40, 32, 32], [96, 152, 32, 32]]),
        ("cifar10", 6, 0.5, None, (18, 72), [[1, 17, 16, 16], [1, 39, 16, 16]]),
    ],
)
def test_places(source, distance, scale, canvas, size, areas, tmp_path, numbered, monkeypatch):
    if source == "cifar10":
        arrays(tmp_path)
    if source == "digits":
        monkeypatch.undo()
    data = is_same_class(source, distance, canvas, scale=scale, **FEW, data_dir=tmp_path)
    assert data.settings["areas"] == areas
    assert data.train.images.shape == (6, 3 if source == "cifar10" else 1, *size)


def test_digits_are_as_bright_as_others():
    data = is_same_class("digits", 4, train=100, validation=10, test=10)
    assert int(data.train.images.max()) == 255
    assert len(data.train.images.unique()) == 17


# -- real files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["mnist", "fashion_mnist", "cifar10"])
def test_real_files(source):
    try:
        data = is_same_class(source, 10, train=40, validation=20, test=20, data_dir=os.environ["HTF_DATA"])
    except (KeyError, FileNotFoundError):
        pytest.skip(f"HTF_DATA does not hold {source}")
    assert len(data.train) == 40
    # Nothing but the two areas, and both of them, are drawn.
    drawn = torch.zeros(data.image_size[1:], dtype=torch.bool)
    for top, left, height, width in data.settings["areas"]:
        assert bool(data.train.images[:, :, top : top + height, left : left + width].flatten(1).any(1).all())
        drawn[top : top + height, left : left + width] = True
    assert not bool(data.train.images[:, :, ~drawn].any())


# -- CIFAR-10 ------------------------------------------------------------------------------------------


def arrays(folder, count=120):
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for name in ("train_12k.npz", "test_5k.npz"):
        images = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        np.savez(folder / name, images=images, labels=(np.arange(count) % 10).astype(np.uint8))


def archive(path, leave_out=(), cut=0, label=None):
    """An archive of batches of four images each."""
    rng, found = np.random.default_rng(0), {}
    with tarfile.open(path, "w:gz") as file:
        for name in (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"):
            found[name] = rng.integers(0, 256, (4, 3073), dtype=np.uint8)
            found[name][:, 0] %= 10
            found[name][0, 0] = found[name][0, 0] if label is None else label
            content = found[name].tobytes()[: None if not cut else -cut]
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            if name not in leave_out:
                file.addfile(member, io.BytesIO(content))
    return found


def test_colours_come_first(tmp_path):
    arrays(tmp_path / "CIFAR10")
    (train_images, train_labels), (test_images, _) = find_cifar10(tmp_path).read()
    with np.load(tmp_path / "CIFAR10" / "train_12k.npz") as stored:
        np.testing.assert_array_equal(train_images[5, 2], stored["images"][5, :, :, 2])
        np.testing.assert_array_equal(train_labels, stored["labels"])
    assert test_images.shape == (120, 3, 32, 32)


def test_the_archive_is_read_where_it_is(tmp_path, monkeypatch):
    batches = archive(tmp_path / "cifar-10-binary.tar.gz")
    monkeypatch.setattr(_cifar, "_ARCHIVE_MD5", _cifar._md5(tmp_path / "cifar-10-binary.tar.gz"))
    (train_images, train_labels), (test_images, test_labels) = find_cifar10(tmp_path).read()
    assert train_images.shape == (20, 3, 32, 32)
    second = batches["data_batch_2.bin"]
    np.testing.assert_array_equal(train_labels[4:8], second[:, 0])
    np.testing.assert_array_equal(train_images[5, 1, 2], second[1, 1 + 1024 + 64 : 1 + 1024 + 96])
    np.testing.assert_array_equal(test_images.reshape(4, -1), batches["test_batch.bin"][:, 1:])
    np.testing.assert_array_equal(test_labels, batches["test_batch.bin"][:, 0])
    assert [path.name for path in tmp_path.iterdir()] == ["cifar-10-binary.tar.gz"]


def test_another_archive(tmp_path):
    archive(tmp_path / "cifar-10-binary.tar.gz")
    with pytest.raises(ValueError, match=r"binary.tar.gz has MD5 .* another or a changed file"):
        is_same_class("cifar10", data_dir=tmp_path)


@pytest.mark.parametrize("changes", [{"leave_out": ("data_batch_3.bin",)}, {"cut": 5}])
def test_a_damaged_archive(changes, tmp_path, monkeypatch):
    archive(tmp_path / "cifar-10-binary.tar.gz", **changes)
    monkeypatch.setattr(_cifar, "_ARCHIVE_MD5", _cifar._md5(tmp_path / "cifar-10-binary.tar.gz"))
    with pytest.raises(ValueError, match=r"binary.tar.gz is damaged"):
        find_cifar10(tmp_path).read()


def test_damaged_arrays(tmp_path):
    arrays(tmp_path)
    content = (tmp_path / "test_5k.npz").read_bytes()
    (tmp_path / "test_5k.npz").write_bytes(content[:1000])
    with pytest.raises(ValueError, match=r"test_5k.npz is not an npz file of images and labels"):
        is_same_class("cifar10", data_dir=tmp_path)
    np.savez(tmp_path / "test_5k.npz", images=np.zeros((2, 28, 28), dtype=np.uint8), labels=np.zeros(2))
    with pytest.raises(ValueError, match=r"test_5k.npz has images of shape \(2, 28, 28\)"):
        is_same_class("cifar10", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 1, -1]), r"row 2 has the label -1; expected an integer from 0 to 9"),
        (np.array([300, 1, 2], dtype=np.int64), "row 0 has the label 300"),
        (np.array([1, 10, 2], dtype=np.uint8), "row 1 has the label 10"),
        (np.array([1, np.nan, 2]), "row 1 has the label nan"),
        (np.array([1, 2, 2.5]), "row 2 has the label 2.5"),
        (np.array([1.0, 2.0, 3.0]), "row 0 has the label 1.0"),
        (np.array(["cat", "dog", "ship"]), "row 0 has the label 'cat'"),
        (np.array([True, False, True]), "row 0 has the label True"),
    ],
)
def test_labels_that_are_none(tmp_path, labels, message):
    arrays(tmp_path)
    np.savez(tmp_path / "test_5k.npz", images=np.zeros((3, 32, 32, 3), dtype=np.uint8), labels=labels)
    with pytest.raises(ValueError, match=rf"test_5k\.npz {message}"):
        find_cifar10(tmp_path).read()


def test_labels_of_other_integers(tmp_path):
    arrays(tmp_path)
    images = np.zeros((3, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "test_5k.npz", images=images, labels=np.array([0, 9, 5], dtype=">i4"))
    _, (_, labels) = find_cifar10(tmp_path).read()
    assert (labels.tolist(), labels.dtype) == ([0, 9, 5], np.uint8)


def test_a_label_in_the_archive_that_is_none(tmp_path, monkeypatch):
    path = tmp_path / "cifar-10-binary.tar.gz"
    archive(path, label=11)
    monkeypatch.setattr(_cifar, "_ARCHIVE_MD5", _cifar._md5(path))
    with pytest.raises(ValueError, match=r"data_batch_1\.bin record 0 has the label 11"):
        find_cifar10(tmp_path).read()


def test_pickled_arrays_are_not_loaded(tmp_path):
    arrays(tmp_path)
    np.savez(tmp_path / "train_12k.npz", images=np.array([object()], dtype=object), labels=np.zeros(1))
    with pytest.raises(ValueError, match=r"train_12k\.npz is not an npz file"):
        is_same_class("cifar10", data_dir=tmp_path)


def test_no_files(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"does not hold cifar-10-binary\.tar\.gz \(or train_12k\.npz"):
        is_same_class("cifar10", data_dir=tmp_path)
    monkeypatch.delenv("HTF_DATA", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path)
    # A closed port on this machine stands for a server out of reach.
    monkeypatch.setattr(_cifar, "_URL", "http://127.0.0.1:9/")
    with pytest.raises(ConnectionError, match=r"cannot download cifar-10-binary\.tar\.gz .*HTF_DATA"):
        is_same_class("cifar10")


def test_the_cache_knows_which_files(tmp_path):
    for name, count in (("one", 120), ("other", 121)):
        arrays(tmp_path / name, count)
        is_same_class("cifar10", scale=0.25, **FEW, data_dir=tmp_path / name, cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2


# -- bad input -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"source": "imagenet"}, ValueError, "source is 'imagenet'; known are digits, mnist, fashion_mnist, cifar10"),
        ({"distance": 25}, ValueError, "two images of 8 pixels on a canvas of width 40 can be 24 pixels apart at most"),
        ({"distance": -1}, ValueError, "distance is -1; expected 0 or more"),
        ({"distance": 2.5}, TypeError, r"distance is 2\.5; expected an integer"),
        ({"canvas": 64}, TypeError, "canvas is 64; expected height and width"),
        ({"canvas": (8,)}, ValueError, r"canvas is \(8,\); expected height and width"),
        ({"canvas": (7, 40)}, ValueError, r"canvas is \(7, 40\); two images of 8 pixels need \(8, 16\) at least"),
        ({"canvas": (8, 15)}, ValueError, r"canvas is \(8, 15\)"),
        ({"canvas": (8, 0)}, ValueError, r"canvas\[1\] is 0"),
        ({"scale": 0.3}, ValueError, r"scale is 0\.3; expected 1, or 1 divided by an integer"),
        ({"scale": 2}, ValueError, "scale is 2"),
        ({"scale": -0.5}, ValueError, r"scale is -0\.5"),
        ({"scale": float("nan")}, ValueError, "scale is nan"),
        ({"scale": "half"}, TypeError, "scale is 'half'"),
        ({"scale": 1 / 3}, ValueError, "images of 8 pixels cannot be divided into squares of 3"),
        ({"train": 0}, ValueError, "train is 0"),
        ({"validation": -3}, ValueError, "validation is -3; expected 0 or more"),
        (
            {"validation": 9_000},
            ValueError,
            "validation is 9000; 239 images of 10 classes make 5474 different pairs at",
        ),
        ({"seed": 1.5}, TypeError, r"seed is 1\.5"),
    ],
)
def test_bad_input(changes, error, message):
    with pytest.raises(error, match=message):
        is_same_class(**{"source": "digits", **FEW, **changes})


def test_a_class_of_one_image(monkeypatch):
    images = torch.zeros(10, 28, 28, dtype=torch.uint8)
    data = ImageData("mnist", images, torch.arange(10), images, torch.arange(10))
    monkeypatch.setattr(module, "load", lambda name, data_dir: data)
    with pytest.raises(ValueError, match="train is 6; 10 images of 10 classes make 0 different pairs"):
        is_same_class("mnist", **FEW)
