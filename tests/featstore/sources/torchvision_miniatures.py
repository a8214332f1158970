"""A torchvision dataset of each way to say a split, with three pictures, in its own files.

Where a class compares an md5 before it opens a file, that of the miniature is put in its place:
everything after the comparison is torchvision's own reading.
"""

from __future__ import annotations

import hashlib
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


def mnist(root, _):
    digits = RNG.integers(0, 256, (3, 28, 28), dtype=np.uint8)
    for split in ("train", "t10k"):
        write(root / "MNIST" / "raw", {
            f"{split}-images-idx3-ubyte":
                struct.pack(">IIII", 0x803, 3, 28, 28) + digits.tobytes(),
            f"{split}-labels-idx1-ubyte": struct.pack(">II", 0x801, 3) + bytes([7, 0, 9]),
        })  # fmt: skip
    return numbered("train", ["7 - seven", "0 - zero", "9 - nine"], digits)


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


MINIATURES = {"MNIST": mnist, "STL10": stl10}
