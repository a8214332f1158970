"""What file names and folder names mean to every source."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

#: Suffixes of images, in lower case. TIFF is listed here; decoding it must be asked for.
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
)

#: Other words for the usual splits.
_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def is_image(name: str) -> bool:
    """Return whether a file name ends as an image's does; hidden files never are."""
    path = PurePosixPath(name)
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def split_name(word: str) -> str:
    """Return the usual name of a split: ``validation`` is ``val``; others stay as they are."""
    return _SPLIT_WORDS.get(word.strip().lower(), word.strip())


def split_folder(path: str) -> str | None:
    """Return the split that the first folder of a relative path names, or None."""
    head, _, tail = path.partition("/")
    return _SPLIT_WORDS.get(head.lower()) if tail else None


def all_in_split_folders(paths: Iterable[str]) -> bool:
    """Return whether every path begins with the folder of a split, as ImageNet's do."""
    return all(split_folder(path) is not None for path in paths)
