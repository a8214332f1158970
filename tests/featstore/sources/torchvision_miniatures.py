"""Each torchvision dataset that is offered, with two or three pictures, in its own files.

Where a class compares an md5 before it opens a file, that of the miniature is put in its place:
everything after the comparison is torchvision's own reading.
"""

from __future__ import annotations

import bz2
import hashlib
import pickle
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torchvision import datasets

from tests.small_files import write

RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class Mini:
    """A dataset on disk.

    Attributes
    ----------
    split : str
        The option.
    items : list of (key, class name or None, pixels)
        What must come out; keys are behind ``<dataset>/image/``.
    """

    split: str
    items: list[tuple[str, str | None, Any]]


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def numbered(split: str, labels: list[str | None], pixels: Any) -> Mini:
    """What a dataset of arrays becomes."""
    names = [f"{split}/{index:06d}.png" for index in range(len(labels))]
    return Mini(split, list(zip(names, labels, pixels, strict=True)))


def cifar(root, monkeypatch, *, kind, folder, train, test, meta, labels, names):
    data = RNG.integers(0, 256, (3, 3072), dtype=np.uint8)
    for name in (*train, *test):
        write(root, {f"{folder}/{name}": pickle.dumps({"data": data, labels: [1, 0, 1]})})
    write(root, {f"{folder}/{meta}": pickle.dumps({names: ["cat", "dog"]})})
    for attribute, listed in (("train_list", train), ("test_list", test)):
        sums = [[name, md5(root / folder / name)] for name in listed]
        monkeypatch.setattr(kind, attribute, sums)
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(root / folder / meta)})
    pixels = data.reshape(3, 3, 32, 32).transpose(0, 2, 3, 1)
    return numbered("test", ["dog", "cat", "dog"], pixels)


def cifar10(root, monkeypatch):
    train = [f"data_batch_{number}" for number in range(1, 6)]
    return cifar(
        root, monkeypatch, kind=datasets.CIFAR10, folder="cifar-10-batches-py", train=train,
        test=["test_batch"], meta="batches.meta", labels="labels", names="label_names",
    )  # fmt: skip


def cifar100(root, monkeypatch):
    return cifar(
        root, monkeypatch, kind=datasets.CIFAR100, folder="cifar-100-python", train=["train"],
        test=["test"], meta="meta", labels="fine_labels", names="fine_label_names",
    )  # fmt: skip


def fer2013(root, monkeypatch):
    faces = RNG.integers(0, 256, (2, 48, 48), dtype=np.uint8)
    rows = [f'{label},"{" ".join(map(str, face.ravel()))}"'
            for label, face in zip((3, 0), faces, strict=True)]  # fmt: skip
    write(root, {"fer2013/train.csv": "emotion,pixels\n" + "\n".join(rows) + "\n"})
    sums = {"train": ("train.csv", md5(root / "fer2013/train.csv"))}
    monkeypatch.setattr(datasets.FER2013, "_RESOURCES", {**datasets.FER2013._RESOURCES, **sums})
    return numbered("train", ["3", "0"], faces)


def gtsrb(root, _):
    """Its files are PPM, which is not decoded: they become PNG files."""
    signs = RNG.integers(0, 256, (2, 5, 6, 3), dtype=np.uint8)
    listed = ["Filename;Width;ClassId"]
    for number, sign in enumerate(signs):
        body = b"P6 6 5 255\n" + sign.tobytes()
        write(root, {f"gtsrb/GTSRB/Final_Test/Images/{number}.ppm": body})
        listed.append(f"{number}.ppm;6;{[16, 2][number]}")
    write(root, {"gtsrb/GT-final_test.csv": "\n".join(listed)})
    return numbered("test", ["16", "2"], signs)


def idx(root, folder, classes):
    digits = RNG.integers(0, 256, (3, 28, 28), dtype=np.uint8)
    for split in ("train", "t10k"):
        labels = struct.pack(">II", 0x801, 3) + bytes([7, 0, 9])
        write(root, {
            f"{folder}/raw/{split}-images-idx3-ubyte":
                struct.pack(">IIII", 0x803, 3, 28, 28) + digits.tobytes(),
            f"{folder}/raw/{split}-labels-idx1-ubyte": labels,
        })  # fmt: skip
    return numbered("train", classes, digits)


def mnist(root, _):
    return idx(root, "MNIST", ["7 - seven", "0 - zero", "9 - nine"])


def fashion(root, _):
    return idx(root, "FashionMNIST", ["Sneaker", "T-shirt/top", "Ankle boot"])


def kmnist(root, _):
    return idx(root, "KMNIST", ["ya", "o", "wo"])


def pcam(root, _):
    import h5py

    cells = RNG.integers(0, 256, (2, 96, 96, 3), dtype=np.uint8)
    folder = root / "pcam"
    folder.mkdir(parents=True)
    with h5py.File(folder / "camelyonpatch_level_2_split_valid_x.h5", "w") as file:
        file["x"] = cells
    with h5py.File(folder / "camelyonpatch_level_2_split_valid_y.h5", "w") as file:
        file["y"] = np.array([1, 0], np.uint8).reshape(2, 1, 1, 1)
    return numbered("val", ["1", "0"], cells)


def stl10(root, monkeypatch):
    """Two pictures with a label and one without."""
    kind, folder = datasets.STL10, "stl10_binary"
    pixels = RNG.integers(0, 256, (3, 3, 96, 96), dtype=np.uint8)
    write(root, {
        f"{folder}/train_X.bin": pixels[:2].tobytes(), f"{folder}/train_y.bin": bytes([2, 1]),
        f"{folder}/unlabeled_X.bin": pixels[2:].tobytes(), f"{folder}/test_X.bin": b"",
        f"{folder}/test_y.bin": b"", f"{folder}/class_names.txt": "airplane\nbird\n",
    })  # fmt: skip
    for attribute in ("train_list", "test_list"):
        sums = [[name, md5(root / folder / name)] for name, _ in getattr(kind, attribute)]
        monkeypatch.setattr(kind, attribute, sums)
    # Columns first in the file.
    return numbered("train+unlabeled", ["bird", "airplane", None], pixels.transpose(0, 3, 2, 1))


def svhn(root, monkeypatch):
    from scipy.io import savemat

    pixels = RNG.integers(0, 256, (32, 32, 3, 2), dtype=np.uint8)
    root.mkdir(parents=True, exist_ok=True)
    savemat(root / "extra_32x32.mat", {"X": pixels, "y": [[10], [4]]})
    listed = ["", "extra_32x32.mat", md5(root / "extra_32x32.mat")]
    monkeypatch.setattr(datasets.SVHN, "split_list", {"extra": listed})
    return numbered("extra", ["0", "4"], pixels.transpose(3, 0, 1, 2))


def usps(root, _):
    values = RNG.integers(0, 256, (2, 256))
    rows = [
        f"{label} " + " ".join(f"{i + 1}:{v * 2 / 255 - 1:.6f}" for i, v in enumerate(row))
        for label, row in zip((10, 1), values, strict=True)
    ]
    write(root, {"usps.t.bz2": bz2.compress("\n".join(rows).encode())})
    # As torchvision reads them: scaled back in float32, and cut.
    read = np.array([[float(f"{v * 2 / 255 - 1:.6f}") for v in row] for row in values], np.float32)
    pixels = ((read + 1) / 2 * 255).astype(np.uint8).reshape(2, 16, 16)
    return numbered("test", ["9", "0"], pixels)


MINIATURES = {
    "CIFAR10": cifar10, "CIFAR100": cifar100, "FER2013": fer2013, "FashionMNIST": fashion,
    "GTSRB": gtsrb, "KMNIST": kmnist, "MNIST": mnist, "PCAM": pcam, "STL10": stl10, "SVHN": svhn,
    "USPS": usps,
}  # fmt: skip
