"""Miniatures of datasets that are arrays of pixels: CIFAR, pickled and binary, and MNIST."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np

from tests.small_files import write

CIFAR_NAMES = {
    "cifar10": [
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    ],
    "cifar100": [f"thing_{n}" for n in range(100)],
}  # fmt: skip


def cifar_parts(name: str) -> dict[str, tuple[np.ndarray, list[int]]]:
    """Return file -> (planes, labels) of the Python version."""
    draw = np.random.default_rng(5)
    files = (
        [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]
        if name == "cifar10"
        else ["train", "test"]
    )
    classes = len(CIFAR_NAMES[name])
    return {
        file: (
            draw.integers(0, 256, (3, 3072), dtype=np.uint8),
            draw.integers(0, classes, 3).tolist(),
        )
        for file in files
    }


def cifar_python(root: Path, name: str) -> Path:
    fine = name == "cifar100"
    folder = "cifar-100-python" if fine else "cifar-10-batches-py"
    files: dict = {}
    for file, (planes, labels) in cifar_parts(name).items():
        document = {
            "batch_label": "a batch",
            "fine_labels" if fine else "labels": labels,
            "data": planes,
            "filenames": [f"{n}.png" for n in range(len(labels))],
        }
        if fine:
            document["coarse_labels"] = [0] * len(labels)
        files[f"{folder}/{file}"] = pickle.dumps(document)
    key = "fine_label_names" if fine else "label_names"
    meta = {key: CIFAR_NAMES[name], "num_vis": 3072}
    files[f"{folder}/{'meta' if fine else 'batches.meta'}"] = pickle.dumps(meta)
    return write(root, files)


def cifar_binary(root: Path, name: str) -> Path:
    fine = name == "cifar100"
    folder = "cifar-100-binary" if fine else "cifar-10-batches-bin"
    files: dict = {}
    for file, (planes, labels) in cifar_parts(name).items():
        rows = [
            bytes([0] * fine + [label]) + row.tobytes()
            for row, label in zip(planes, labels, strict=True)
        ]
        files[f"{folder}/{file}.bin"] = b"".join(rows)
    list_name = "fine_label_names.txt" if fine else "batches.meta.txt"
    files[f"{folder}/{list_name}"] = "\n".join(CIFAR_NAMES[name]) + "\n\n"
    return write(root, files)


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(np.uint8).tobytes()


def mnist(root: Path, *, packed: bool = False) -> Path:
    draw = np.random.default_rng(3)
    files: dict = {}
    for word, count in (("train", 4), ("t10k", 2)):
        pictures = draw.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = draw.integers(0, 10, count, dtype=np.uint8)
        for name, array in (("images-idx3", pictures), ("labels-idx1", labels)):
            data = idx(array)
            where = f"MNIST/raw/{word}-{name}-ubyte"
            files[where + (".gz" if packed else "")] = gzip.compress(data) if packed else data
    return write(root, files)
