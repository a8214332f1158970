"""MNIST: two IDX files a split, plain or gzipped."""

from __future__ import annotations

from data_manifests.official.disk import Disk, Listing, pixels_frame
from data_manifests.plan import BuildError
from data_manifests.readers.layouts import read_idx


def read(disk: Disk) -> Listing:
    """Return the pictures and digits of the wanted splits."""
    arrays, labels = {}, {}
    for split in disk.splits:
        word = disk.word(split)
        arrays[split] = read_idx(disk, f"{word}-images-idx3-ubyte")
        digits = read_idx(disk, f"{word}-labels-idx1-ubyte")
        if arrays[split].ndim != 3 or digits.shape != arrays[split].shape[:1] or digits.max() > 9:
            msg = (
                f"{word}: pictures of shape {arrays[split].shape} with labels of shape "
                f"{digits.shape} are no MNIST. Fetch the files again."
            )
            raise BuildError(msg)
        labels[split] = [str(digit) for digit in digits.tolist()]
    return Listing(pixels_frame(labels), [str(digit) for digit in range(10)], arrays=arrays)
