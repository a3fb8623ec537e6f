import os
import shutil
from pathlib import Path

import pooch
import pytest
import torch

from htf.datasets import ImageData, load, one_vs_all
from htf.datasets import images as images_module


def real(name):
    """The data set itself, where HTF_DATA has it."""
    try:
        return load(name, os.environ["HTF_DATA"])
    except (KeyError, FileNotFoundError):
        pytest.skip(f"HTF_DATA does not hold {name}")


def test_digits_are_embedded_and_split():
    data = load()
    assert data.image_size == (8, 8)
    assert len(data.train_labels) + len(data.test_labels) == 1797
    assert data.classes == list(range(10))
    assert int(data.train_images.max()) == data.maximum == 16
    shares = [int((data.test_labels == c).sum()) / 1797 for c in range(10)]
    assert max(shares) - min(shares) < 0.003
    assert torch.equal(load("digits").train_labels, data.train_labels)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_real_files(name):
    data = real(name)
    assert data.train_images.shape == (60000, 28, 28)
    assert data.test_images.shape == (10000, 28, 28)
    assert data.train_images.dtype == torch.uint8
    assert data.classes == list(range(10))


def test_file_of_the_other_data_set(tmp_path):
    real("mnist")
    source = Path(os.environ["HTF_DATA"]) / "FashionMNIST" / "raw"
    shutil.copytree(source, tmp_path / "MNIST" / "raw")
    with pytest.raises(ValueError, match=r"content MD5 .* another or a changed file"):
        load("mnist", tmp_path)


def test_environment_variable_names_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HTF_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"does not hold train-images-idx3-ubyte \(or .*gz\) of mnist"):
        load("mnist")


def test_truncated_file(tmp_path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"\x00\x00\x08\x03\x00\x00\xea\x60")
    with pytest.raises(ValueError, match="cut short"):
        load("mnist", tmp_path)


def test_unknown_name():
    with pytest.raises(ValueError, match="known are digits, mnist, fashion_mnist"):
        load("cifar")


def test_no_network(tmp_path, monkeypatch):
    monkeypatch.delenv("HTF_DATA", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path)
    # A closed port on this machine stands for a server out of reach.
    monkeypatch.setitem(images_module._URLS, "mnist", "http://127.0.0.1:9/")
    with pytest.raises(ConnectionError, match=r"cannot download train-images-idx3-ubyte\.gz of mnist.*HTF_DATA"):
        load("mnist")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_downloads_are_checked_and_a_wrong_one_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.delenv("HTF_DATA", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache")

    def retrieve(url, known_hash, fname, path, processor, progressbar):
        target = Path(path) / fname
        target.parent.mkdir(parents=True)
        target.write_bytes(b"\x00\x00\x08\x01\x00\x00\x00\x02ab")
        return processor(str(target), "download", None)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    with pytest.raises(ValueError, match="content MD5"):
        load("mnist")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_one_vs_all():
    assert one_vs_all(torch.tensor([3, 6, 6, 0]), 6).tolist() == [0, 1, 1, 0]
    with pytest.raises(ValueError, match=r"class 7 does not occur; labels are \[0, 3\]"):
        one_vs_all(torch.tensor([3, 0]), 7)


def test_take_and_holdout():
    data = load()
    small = data.take(100, 20)
    assert (len(small.train_labels), len(small.test_labels)) == (100, 20)
    with pytest.raises(ValueError, match="train is 5000"):
        data.take(5000)
    held = data.holdout(0.25, seed=1)
    assert len(held.test_labels) == round(0.25 * len(data.train_labels))
    assert len(held.train_labels) + len(held.test_labels) == len(data.train_labels)
    pixels = torch.cat([held.train_images, held.test_images]).long().sum()
    assert int(pixels) == int(data.train_images.long().sum())
    with pytest.raises(ValueError, match="share is 1"):
        data.holdout(1.0)


@pytest.mark.parametrize("channels", [(), (3,)])
def test_splits_are_the_labelled_images(channels):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 16, (5, 4, 6, *channels), generator=generator, dtype=torch.uint8)
    data = ImageData("own", images, torch.arange(5), images[:2], torch.tensor([1, 0]), 15)
    assert data.train.images.shape == (5, *(channels or (1,)), 4, 6)
    assert torch.equal(data.test.labels, torch.tensor([1, 0]))
    image, label = data.train[3]
    torch.testing.assert_close(image[-1], images[3].reshape(4, 6, -1)[..., -1] / 15)
    assert int(label) == 3
