"""Readers of common layouts: class folders, IDX, MATLAB lists, Karpathy splits."""

from __future__ import annotations

import gzip
import io
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_manifests.official.disk import MAX_LIST_BYTES, Disk
from data_manifests.plan import BuildError

#: Path below the root, split, label.
Row = tuple[str, str, str | None]


def class_folders(disk: Disk, folder: str, split: str) -> list[Row]:
    """Return the images of ``folder/<label>/…/<file>``, each with its class folder as label.

    Raises
    ------
    BuildError
        If an image lies in no class folder.
    """
    depth = 0 if folder == "." else folder.count("/") + 1
    rows: list[Row] = []
    for path in disk.images(folder):
        parts = path.split("/")
        if len(parts) < depth + 2:
            msg = (
                f"{disk.root / path} lies in no class folder. {folder} must hold one folder a "
                "class, with its images inside."
            )
            raise BuildError(msg)
        rows.append((path, split, parts[depth]))
    return rows


def split_folders(disk: Disk) -> list[Row]:
    """Return the images of one folder a split, with one folder a class inside."""
    return [
        row for split in disk.splits for row in class_folders(disk, disk.split_folder(split), split)
    ]


#: The third byte of an IDX file: unsigned bytes. No other type is read.
_UBYTE = 8


def read_idx(disk: Disk, name: str) -> np.ndarray:
    """Return the array of an IDX file of unsigned bytes; ``name.gz`` serves as well.

    Returns
    -------
    ndarray of uint8

    Raises
    ------
    BuildError
        If neither is there, or it is damaged.
    """
    path = disk.path(name)
    if not disk.has(name) and not disk.has(f"{name}.gz"):
        msg = f"{path} is missing, and so is {name}.gz: an IDX file of unsigned bytes."
        raise BuildError(msg)
    if disk.has(name):
        data = disk.read(name)
    else:
        path = disk.path(f"{name}.gz")
        packed = disk.read(f"{name}.gz")
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
                data = file.read(MAX_LIST_BYTES + 1)
        except (OSError, EOFError, zlib.error) as err:
            msg = f"{path} is damaged: {err}. Fetch it again."
            raise BuildError(msg) from err
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != _UBYTE:
        msg = f"{path} is no IDX file of unsigned bytes: it begins with {data[:4].hex()}."
        raise BuildError(msg)
    start = 4 + 4 * data[3]
    shape = tuple(int(size) for size in np.frombuffer(data[4:start], dtype=">u4"))
    expected = int(np.prod(shape, dtype=object)) if len(shape) == data[3] else -1
    if len(data) - start != expected:
        msg = (
            f"{path} holds {len(data) - start:,} bytes; its header {list(shape)} asks for "
            f"{expected:,}. It is truncated; fetch it again."
        )
        raise BuildError(msg)
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)


def read_mat(disk: Disk, name: str, variable: str) -> Any:
    """Return one variable of a .mat file (version 5), squeezed.

    Raises
    ------
    BuildError
        If the file is missing, no .mat file, or lacks the variable.
    """
    from scipy.io import loadmat

    data = disk.read(name)
    try:
        return loadmat(io.BytesIO(data), squeeze_me=True, variable_names=[variable])[variable]
    except Exception as err:  # damaged files make scipy raise nearly anything
        why = f"it has no variable {variable!r}" if isinstance(err, KeyError) else str(err)[:200]
        msg = f"Cannot read {disk.path(name)} as a .mat file: {why}. Fetch it again."
        raise BuildError(msg) from err


@dataclass(frozen=True)
class Captioned:
    """An image of Karpathy's JSON."""

    folder: str
    """Its ``filepath``, or empty."""

    name: str
    """Its file name."""

    split: str
    """As the file says: train, restval, val or test."""

    number: int
    """``cocoid``, else ``imgid``."""

    captions: list[tuple[str, str]]
    """(``sentid``, raw text) of its captions, in their order."""


def read_karpathy(disk: Disk, name: str, captions: str = "all") -> list[Captioned]:
    """Return the images of a Karpathy JSON.

    Parameters
    ----------
    disk : Disk
    name : str
        The list.
    captions : str
        ``all``, or ``first5``: the first five of each image.

    Raises
    ------
    BuildError
        If it is not in Karpathy's form.
    """
    document = disk.json(name)
    limit = 5 if captions == "first5" else None
    try:
        return [_image(image, limit) for image in document["images"]]
    except (KeyError, TypeError, ValueError, AttributeError) as err:
        msg = (
            f"{disk.path(name)} is not in Karpathy's form ({type(err).__name__}: {err}). Each of "
            'its "images" has filename, split, imgid and sentences with sentid and raw.'
        )
        raise BuildError(msg) from err


def _image(image: dict[str, Any], limit: int | None) -> Captioned:
    folder = image.get("filepath", "")
    number = image.get("cocoid", image["imgid"])
    # A sentence that is blank but for spaces is no text; COCO has none, strangers' files might.
    captions = [
        (str(int(sentence["sentid"])), sentence["raw"].strip())
        for sentence in image["sentences"][:limit]
        if sentence["raw"].strip()
    ]
    return Captioned(
        f"{folder}".strip("/"), f"{image['filename']}", f"{image['split']}", int(number), captions
    )
