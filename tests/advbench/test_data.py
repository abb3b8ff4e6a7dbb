import socket
from pathlib import Path

import pytest
import torch
from PIL import Image

from advbench import data
from advbench.data import Samples
from advbench.data.dataset import SPLITS, carve, permutation

ON_DISK = {
    "mnist": (55000, 5000, 10000, (1, 28, 28)),
    "fashion_mnist": (55000, 5000, 10000, (1, 28, 28)),
}


def write_images(folder: Path, classes: dict[str, int], size: tuple[int, int] = (6, 4)) -> None:
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", size, (index, 0, 255)).save(folder / name / f"{index:03}.png")


def check_samples(samples: Samples, n: int, shape: tuple[int, ...]) -> None:
    assert len(samples) == n
    assert samples.x.shape == (n, *shape)
    assert samples.x.dtype == torch.float32
    assert (samples.x.min().item(), samples.x.max().item()) == (0, 1)
    assert samples.y.dtype == samples.ids.dtype == torch.int64
    assert samples.y.shape == samples.ids.shape == (n,)
    assert set(samples.y.tolist()) == set(range(len(samples.classes)))


@pytest.mark.parametrize(("split", "n"), [("train", 1097), ("validation", 300), ("test", 400)])
def test_digits_are_embedded(split: str, n: int) -> None:
    check_samples(data.load("digits", split), n, (1, 8, 8))


def test_the_splits_of_digits_share_nothing() -> None:
    ids = torch.cat([data.load("digits", split).ids for split in SPLITS])
    assert ids.sort().values.tolist() == list(range(1797))


def test_digits_never_change() -> None:
    assert data.load("digits").digest().startswith("67df09eb")


def test_selections_are_nested_and_mix_the_classes() -> None:
    few, many = data.load("digits", samples=100), data.load("digits", samples=300)
    assert torch.equal(few.x, many.x[:100])
    assert torch.equal(few.ids, many.ids[:100])
    assert few.y.bincount(minlength=10).min() >= 3
    assert data.load("digits", samples=400).digest() == data.load("digits").digest()


def test_the_digest_depends_on_labels_and_order() -> None:
    samples = data.load("digits", samples=10)
    flipped = Samples("digits", "test", samples.x.flip(0), samples.y.flip(0), samples.ids, ())
    wrong = Samples("digits", "test", samples.x, samples.y.flip(0), samples.ids, ())
    assert len({samples.digest(), flipped.digest(), wrong.digest()}) == 3


def test_the_permutation_is_fixed() -> None:
    assert permutation(10) == [6, 9, 1, 2, 4, 7, 5, 0, 8, 3]
    assert sorted(permutation(1000)) == list(range(1000))


@pytest.mark.parametrize(("n", "held_out"), [(60000, 5000), (50000, 5000), (300, 30), (5, 0)])
def test_carving_parts_the_training_set(n: int, held_out: int) -> None:
    train, validation = carve(n)
    assert len(validation) == held_out
    assert sorted(train + validation) == list(range(n))


@pytest.mark.parametrize("samples", [0, -1, 401])
def test_an_impossible_number_of_samples(samples: int) -> None:
    with pytest.raises(ValueError, match=f"got {samples}, expected 1 to 400"):
        data.load("digits", samples=samples)


def test_names_and_splits_are_checked() -> None:
    with pytest.raises(ValueError, match="Did you mean 'digits'"):
        data.load("digit")
    with pytest.raises(ValueError, match="got 'val', expected one of train, validation, test"):
        data.load("digits", "val")
    with pytest.raises(ValueError, match="got 'folder', expected 'folder:PATH'"):
        data.load("folder")
    with pytest.raises(ValueError, match="got 'digits:x', expected 'digits'"):
        data.load("digits:x")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "folder:nowhere"])
def test_missing_data_name_the_places_looked_at(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F7: Nothing is fetched in their place, so that nothing hangs without a network."""
    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("asks the network"))
    with pytest.raises(FileNotFoundError, match="ADVBENCH_DATA") as raised:
        data.load(name, root=tmp_path)
    assert str(tmp_path) in str(raised.value)


def idx(shape: tuple[int, ...], content: bytes) -> bytes:
    """A file as MNIST has them: bytes of a shape."""
    head = bytes([0, 0, 8, len(shape)]) + b"".join(side.to_bytes(4, "big") for side in shape)
    return head + content


@pytest.mark.parametrize(
    "damage",
    ["interrupted", "cut off", "empty", "page", "none"],
)
def test_f7_what_an_interrupted_download_left_is_no_data(tmp_path: Path, damage: str) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for split, n in (("train", 20), ("t10k", 6)):
        (raw / f"{split}-images-idx3-ubyte").write_bytes(idx((n, 28, 28), bytes(n * 28 * 28)))
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(idx((n,), bytes(range(n))))
    images = raw / "t10k-images-idx3-ubyte"
    if damage == "none":
        assert len(data.load("mnist", root=tmp_path)) == 6
        return
    if damage == "interrupted":
        images.rename(raw / f"{images.name}.part")
    elif damage == "cut off":
        images.write_bytes(images.read_bytes()[:-1])
    else:
        images.write_bytes(b"" if damage == "empty" else b"<!DOCTYPE html><html>no</html>")
    with pytest.raises(ValueError, match="incomplete or damaged") as raised:
        data.load("mnist", root=tmp_path)
    assert str(raw) in str(raised.value)


def test_the_root_argument_goes_before_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "env" / "pictures", {"a": 1, "b": 1})
    write_images(tmp_path / "argument" / "pictures", {"a": 2, "b": 2})
    write_images(tmp_path / "data" / "pictures", {"a": 3, "b": 3})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ADVBENCH_DATA", str(tmp_path / "env"))
    assert len(data.load("folder:pictures", root=tmp_path / "argument")) == 4
    assert len(data.load("folder:pictures")) == 2
    monkeypatch.delenv("ADVBENCH_DATA")
    assert len(data.load("folder:pictures")) == 6


@pytest.mark.parametrize("name", ON_DISK)
def test_torchvision_datasets(name: str, data_root: Path) -> None:
    *counts, shape = ON_DISK[name]
    for split, n in zip(SPLITS, counts, strict=True):
        check_samples(data.load(name, split, root=data_root), n, shape)
    train = data.load(name, "train", root=data_root)
    validation = data.load(name, "validation", root=data_root)
    assert not set(train.ids.tolist()) & set(validation.ids.tolist())


def test_the_cifar_folder(data_root: Path) -> None:
    samples = data.load("folder:cifar10-jpeg", samples=200, root=data_root)
    check_samples(samples, 200, (3, 32, 32))
    assert samples.name == "folder:cifar10-jpeg"
    assert samples.classes[:3] == ("airplane", "automobile", "bird")


def test_folder_images_and_labels(tmp_path: Path) -> None:
    write_images(tmp_path / "pictures" / "test", {"a": 3, "b": 2})
    samples = data.load("folder:pictures", root=tmp_path)
    assert samples.x.shape == (5, 3, 4, 6)
    order = samples.ids.argsort()
    assert samples.y[order].tolist() == [0, 0, 0, 1, 1]
    assert torch.equal(samples.x[order][2, :, 0, 0], torch.tensor([2, 0, 255]) / 255)


def test_validation_is_carved_out_of_a_train_folder(tmp_path: Path) -> None:
    write_images(tmp_path / "p" / "train", {"a": 20, "b": 10})
    write_images(tmp_path / "p" / "test", {"a": 1, "b": 1})
    train = data.load("folder:p", "train", root=tmp_path)
    validation = data.load("folder:p", "validation", root=tmp_path)
    assert (len(train), len(validation)) == (27, 3)
    assert sorted([*train.ids.tolist(), *validation.ids.tolist()]) == list(range(30))
    write_images(tmp_path / "p" / "validation", {"a": 4, "b": 4})
    assert len(data.load("folder:p", "train", root=tmp_path)) == 30
    assert len(data.load("folder:p", "validation", root=tmp_path)) == 8


def test_a_folder_without_splits_is_never_training_data(tmp_path: Path) -> None:
    write_images(tmp_path / "p", {"a": 1, "b": 1})
    for split in ("train", "validation"):
        with pytest.raises(ValueError, match=f"no split '{split}'"):
            data.load("folder:p", split, root=tmp_path)


def test_only_selected_images_are_decoded(tmp_path: Path) -> None:
    write_images(tmp_path / "p", {"a": 6, "b": 6})
    broken = permutation(12)[8]
    file = tmp_path / "p" / "ab"[broken // 6] / f"{broken % 6:03}.png"
    file.write_bytes(b"\x89PNG not an image")
    assert len(data.load("folder:p", samples=8, root=tmp_path)) == 8
    with pytest.raises(ValueError, match=file.name) as raised:
        data.load("folder:p", root=tmp_path)
    assert str(file) in str(raised.value)


def test_images_of_unequal_size_are_named(tmp_path: Path) -> None:
    write_images(tmp_path / "p", {"a": 3})
    write_images(tmp_path / "p" / "..", {"b": 0})
    odd = permutation(3)[2]
    Image.new("RGB", (9, 9)).save(tmp_path / "p" / "a" / f"{odd:03}.png")
    with pytest.raises(ValueError, match=rf"{odd:03}\.png' has \(3, 9, 9\)"):
        data.load("folder:p", root=tmp_path)


def test_an_empty_class_folder_is_an_error(tmp_path: Path) -> None:
    write_images(tmp_path / "p", {"a": 1, "b": 0})
    with pytest.raises(ValueError, match="folder:p"):
        data.load("folder:p", root=tmp_path)
