import json

import pytest
import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from htf._files import read_tensors, write_tensors
from htf.datasets import LongRangeData, Split, far_parity, is_same_class, pathfinder
from htf.datasets import long_range as module
from htf.plotting import plot_samples

FEW = {"train": 6, "validation": 4, "test": 0}


def make(cache=None, **changes):
    return far_parity(**{"shape": (3, 5), "seed": 1, **FEW, **changes}, cache=cache)


def tasks():
    yield lambda cache: pathfinder(2, 32, **FEW, cache=cache)
    yield lambda cache: is_same_class("digits", 5, **FEW, cache=cache)
    yield make


# -- splits --------------------------------------------------------------------------------------------


def test_a_split_is_a_torch_data_set():
    images = torch.arange(2 * 3 * 2 * 2, dtype=torch.uint8).view(2, 3, 2, 2)
    split = Split(images, torch.tensor([1, 0]))
    x, y = split[1]
    torch.testing.assert_close(x, images[1] / 255)
    assert (x.dtype, y.dtype, int(y)) == (torch.float32, torch.int64, 0)
    (batch, labels) = next(iter(DataLoader(split, batch_size=2)))
    torch.testing.assert_close(batch, split.tensors()[0])
    assert labels.tolist() == [1, 0]
    some, _ = split[torch.tensor([1, 1])]
    torch.testing.assert_close(some[0], x)
    assert len(split) == 2


def test_the_largest_value_becomes_one():
    images = torch.tensor([0, 1, 3], dtype=torch.uint8).view(1, 1, 1, 3)
    x, _ = Split(images, torch.tensor([0]), maximum=3).tensors()
    torch.testing.assert_close(x.flatten(), torch.tensor([0, 1 / 3, 1]))


@pytest.mark.parametrize(
    ("images", "labels", "error", "message"),
    [
        (torch.zeros(2, 1, 3, 3), torch.zeros(2).long(), TypeError, "images are torch.float32"),
        (torch.zeros(2, 1, 3, 3).byte(), torch.zeros(2), TypeError, "labels torch.float32; expected uint8 and int64"),
        (torch.zeros(2, 3, 3).byte(), torch.zeros(2).long(), ValueError, r"images have shape \(2, 3, 3\)"),
        (torch.zeros(2, 1, 3, 3).byte(), torch.zeros(3).long(), ValueError, r"labels \(3,\); expected"),
    ],
)
def test_a_split_is_checked(images, labels, error, message):
    with pytest.raises(error, match=message):
        Split(images, labels)


def test_fingerprint_tells_every_part():
    data = make()
    changed = data.train.images.clone()
    changed[-1, 0, -1, -1] ^= 1
    swapped = LongRangeData(data.name, data.validation, data.train, data.test, data.settings)
    other = LongRangeData(data.name, Split(changed, data.train.labels), data.validation, data.test, data.settings)
    brighter = LongRangeData(
        data.name, data.train, Split(data.validation.images, data.validation.labels, 128), data.test, data.settings
    )
    assert len({each.fingerprint for each in (data, swapped, other, brighter)}) == 4


# -- cache ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", list(tasks()), ids=["pathfinder", "is_same_class", "far_parity"])
def test_what_is_read_is_what_was_made(task, tmp_path, monkeypatch):
    made = task(tmp_path / "new folder")
    assert made.fingerprint == task(None).fingerprint
    (path,) = (tmp_path / "new folder").iterdir()
    assert path.name.startswith(made.name)

    def fail(*_):
        raise AssertionError("the cache was not used")

    # Nothing is made again, nor written.
    monkeypatch.setattr(module, "write_tensors", fail)
    read = task(str(tmp_path / "new folder"))
    assert read.fingerprint == made.fingerprint
    assert read.settings == made.settings == json.loads(json.dumps(made.settings))
    torch.testing.assert_close(read.train.tensors()[0], made.train.tensors()[0])


def test_other_settings_are_another_file(tmp_path):
    seeds = {make(tmp_path, seed=seed).fingerprint for seed in (1, 2, 1)}
    make(tmp_path, train=8)
    assert (len(seeds), len(list(tmp_path.iterdir()))) == (2, 3)


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def begin(path):
    path.write_bytes(path.read_bytes()[:40])


def empty(path):
    path.write_bytes(b"")


def flip(path):
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


def foreign(path):
    save_file({"weights": torch.zeros(3)}, path)


def of_another_version(path):
    tensors, about = read_tensors(path)
    write_tensors(path, tensors, {**about, "generator": 0})


def of_another_seed(path):
    tensors, about = read_tensors(path)
    write_tensors(path, tensors, {**about, "settings": {**about["settings"], "seed": 7}})


def with_a_part_missing(path):
    tensors, about = read_tensors(path)
    del tensors["test_labels"]
    write_tensors(path, tensors, about)


def with_other_types(path):
    tensors, about = read_tensors(path)
    write_tensors(path, {name: tensor.float() for name, tensor in tensors.items()}, about)


def a_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        begin,
        empty,
        flip,
        foreign,
        of_another_version,
        of_another_seed,
        with_a_part_missing,
        with_other_types,
        a_folder,
    ],
)
def test_a_damaged_file_is_named_and_kept(damage, tmp_path):
    make(tmp_path)
    (path,) = tmp_path.iterdir()
    damage(path)
    with pytest.raises(ValueError, match=rf"{path.name} cannot be used as cache: .*delete it, and it is made anew"):
        make(tmp_path)
    assert path.exists()


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"cache is '.*file', a file; expected a folder"):
        make(tmp_path / "file")


def test_a_half_written_file_does_not_take_the_name(tmp_path, monkeypatch):
    def crash(*_):
        raise OSError("disk full")

    monkeypatch.setattr("htf._files.save_file", crash)
    with pytest.raises(OSError, match=r"cannot write .*disk full"):
        make(tmp_path)
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    assert make(tmp_path).fingerprint == make().fingerprint


# -- figure --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("samples", "positive", "negative"), [(2, 1, 1), (5, 3, 2), (40, 3, 3)])
def test_figure_shows_images_of_both_labels(samples, positive, negative):
    data = make()
    figure = data.plot(samples)
    shown = [image.get_array() for ax in figure.axes for image in ax.get_images()]
    assert len(shown) == positive + negative
    by_label = [data.train.tensors()[0][data.train.labels == label, 0] for label in (1, 0)]
    expected = torch.cat([by_label[0][:positive], by_label[1][:negative]])
    torch.testing.assert_close(torch.stack([torch.tensor(image.data) for image in shown]), expected)
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert [title for title in titles if title] == ["label 1", "label 0"]


def test_figure_of_colours():
    images = torch.randint(0, 256, (4, 3, 6, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    split = Split(images, torch.tensor([0, 1, 1, 0]))
    figure = plot_samples(LongRangeData("any", split, split, split, {}), 2)
    shown = figure.axes[0].get_images()[0].get_array()
    torch.testing.assert_close(torch.tensor(shown.data), (images[1] / 255).permute(1, 2, 0))


def test_figure_of_nothing():
    with pytest.raises(ValueError, match="samples is 1; expected at least 2"):
        make().plot(1)
    with pytest.raises(TypeError, match=r"samples is 2\.5"):
        make().plot(2.5)


def test_what_a_field_has_to_span():
    few = {"train": 2, "validation": 0, "test": 0}
    pixels = far_parity((4, 8), distance=3, **few)
    (_, first, _, _), (_, second, _, _) = pixels.settings["areas"]
    assert pixels.span == abs(second - first) + 1 == 4
    assert is_same_class("digits", distance=8, **few).span == 10
    assert pathfinder(4, 48, **few).span == 4 * 3 + 3 * 2
    with pytest.raises(ValueError, match="settings of own have neither areas nor path_length"):
        _ = LongRangeData("own", pixels.train, pixels.validation, pixels.test, {}).span
