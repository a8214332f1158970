"""Read official layouts from disk: files and lists."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import polars as pl

from data_manifests.plan import BuildError

#: Suffixes of images, in lower case.
IMAGES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp")

#: An image as a reader lists it: path below the root, split, label.
Row = tuple[str, str, str | None]

#: A list is refused above this size; the largest in wide use (iNaturalist's) has half of it.
MAX_LIST_BYTES = 2**30


class Disk:
    """A copy of a dataset.

    Parameters
    ----------
    root : Path
        As the user gave it: the folder that holds the dataset's own, or that itself.
    facts : mapping
        dataset.toml.
    splits : sequence of str
        The splits that are wanted.
    options : mapping
        Every option of the dataset, with its value.
    """

    def __init__(
        self,
        root: Path,
        facts: Mapping[str, Any],
        splits: Sequence[str],
        options: Mapping[str, str],
    ) -> None:
        self.facts = facts
        self.splits = tuple(splits)
        self.options = dict(options)
        self.root = self._own_folder(root.expanduser())
        self.digests: dict[str, str] = {}

    def word(self, split: str) -> str:
        """Return what the dataset itself calls a split."""
        return str(self.facts.get("words", {}).get(split, split))

    def file_names(self, *, required: bool) -> list[tuple[str, Mapping[str, Any]]]:
        """Return the lists that dataset.toml names: (path, what is known of it).

        ``{split}`` stands for every wanted split in the dataset's own word, ``{option}`` for the
        value of an option.
        """
        named: dict[str, Mapping[str, Any]] = {}
        for pattern, facts in self.facts.get("files", {}).items():
            if bool(facts.get("required", True)) != required or not self._applies(facts):
                continue
            for split in self.splits if "{split}" in pattern else ("",):
                named[pattern.format(split=self.word(split), **self.options)] = facts
        return list(named.items())

    def path(self, name: str) -> Path:
        """Return where a list lies: below the root, or where an option says."""
        for file, facts in self.file_names(required=True) + self.file_names(required=False):
            given = self.options.get(str(facts.get("option", "")), "")
            if file == name and given:
                elsewhere = Path(given).expanduser()
                return elsewhere / PurePosixPath(name).name if elsewhere.is_dir() else elsewhere
        return self.root / name

    def has(self, name: str) -> bool:
        """Return whether a list lies there."""
        return self.path(name).is_file()

    def read(self, name: str) -> bytes:
        """Return the bytes of a list.

        Raises
        ------
        BuildError
            If it is missing, too large, or cannot be read.
        """
        path = self.path(name)
        try:
            with path.open("rb") as file:
                data = file.read(MAX_LIST_BYTES + 1)
        except OSError as err:
            raise BuildError(f"Cannot read {path}: {err.strerror or err}.") from err
        if len(data) > MAX_LIST_BYTES:
            raise BuildError(
                f"{path} has more than {MAX_LIST_BYTES:,} bytes; it is no list of this dataset."
            )
        self.digests[name] = hashlib.sha256(data).hexdigest()
        return data

    def text(self, name: str) -> str:
        """Return a list as text.

        Raises
        ------
        BuildError
            As `read`, or if it is not UTF-8.
        """
        try:
            return self.read(name).decode("utf-8-sig")
        except UnicodeDecodeError as err:
            raise BuildError(
                f"{self.path(name)} is not UTF-8 (byte {err.start:,}). Fetch it again."
            ) from err

    def lines(self, name: str) -> list[str]:
        """Return the lines of a list, stripped, without empty ones."""
        return [line.strip() for line in self.text(name).splitlines() if line.strip()]

    def fields(self, name: str, count: int) -> list[list[str]]:
        """Return the lines of a list, each split at blanks into `count` fields.

        Raises
        ------
        BuildError
            If a line has fewer.
        """
        rows = [line.split(maxsplit=count - 1) for line in self.lines(name)]
        for number, row in enumerate(rows, start=1):
            if len(row) != count:
                raise BuildError(
                    f"Line {number:,} of {self.path(name)} has {len(row)} fields instead of "
                    f"{count}: {' '.join(row)[:60]!r}. Fetch it again."
                )
        return rows

    def json(self, name: str) -> Any:
        """Return a list as a JSON document.

        Raises
        ------
        BuildError
            As `text`, or if it is no JSON.
        """
        try:
            return json.loads(self.text(name))
        except (ValueError, RecursionError) as err:
            if isinstance(err, BuildError):
                raise
            raise BuildError(f"{self.path(name)} is not JSON: {err}. Fetch it again.") from err

    def images(self, folder: str = ".", suffixes: Iterable[str] = IMAGES) -> list[str]:
        """Return the images below a folder: relative to the root, ``/`` between, sorted.

        Hidden files and folders (``._x.jpg`` of macOS among them) are passed over; links to
        folders are not followed.
        """
        wanted = tuple(suffixes)
        found = []
        for at, folders, names in os.walk(self.root / folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
            base = Path(at).relative_to(self.root).as_posix()
            found += [
                name if base == "." else f"{base}/{name}"
                for name in names
                if name.lower().endswith(wanted) and not name.startswith(".")
            ]
        return sorted(found)

    def folder(self, candidates: Sequence[str]) -> str:
        """Return the first of some folders that exists below the root.

        Raises
        ------
        BuildError
            If none does.
        """
        for name in candidates:
            if (self.root / name).is_dir():
                return name
        raise BuildError(
            f"{self.root} has no folder {' or '.join(candidates)}. Unpack the images there."
        )

    def image_folder(self) -> str:
        """Return the folder of the images; dataset.toml names the usual ones."""
        return self.folder(self.facts["image_folders"])

    def split_folder(self, split: str) -> str:
        """Return the folder of a split; dataset.toml names the usual ones."""
        return self.folder(self.facts["split_folders"][split])

    def _applies(self, facts: Mapping[str, Any]) -> bool:
        """Return whether a list is read with these options, and for one of these splits."""
        when, unless = facts.get("when", {}).items(), facts.get("unless", {}).items()
        given = self.options.items()
        return (
            when <= given
            and given.isdisjoint(unless)
            and ("split" not in facts or facts["split"] in self.splits)
        )

    def _own_folder(self, root: Path) -> Path:
        """Return the first usual folder below `root` that holds anything known, else `root`."""
        if not root.is_dir():
            return root.absolute()
        known = {name.split("/")[0].split("{")[0] for name in self.facts.get("files", {})}
        known |= set(self.facts.get("image_folders", ()))
        known |= {name for names in self.facts.get("split_folders", {}).values() for name in names}
        parts = tuple(part.split("/")[0] for part in known if part)
        for name in (*self.facts.get("folders", ()), "."):
            below: Path = root / name
            if not below.is_dir():
                continue
            if not parts or any(entry.name.startswith(parts) for entry in below.iterdir()):
                return below.resolve()
        return root.resolve()


#: Columns of a listing's images; others are kept as they are.
IMAGE_SCHEMA = {"path": pl.String(), "split": pl.String(), "label": pl.String()}

#: Columns of a listing's captions: the caption's key, its image's path, and its text.
CAPTION_SCHEMA = {"key": pl.String(), "path": pl.String(), "text": pl.String()}


@dataclass(frozen=True)
class Listing:
    """What a copy of a dataset holds, in the words of the dataset."""

    images: pl.DataFrame
    """One row an image: path below the root, split, label (null without classes), and what else
    is known of it."""

    labels: Sequence[str] = ()
    """The labels in the order of the class index; empty for datasets without classes."""

    names: Mapping[str, str] = field(default_factory=dict)
    """Label -> plain name, where the dataset itself has names beside its labels."""

    captions: pl.DataFrame | None = None
    """One row a caption."""

    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Split -> uint8 pictures (n, height, width[, 3]) of datasets that are no image files."""

    classes: pl.DataFrame | None = None
    """The whole label set, where one exists already; then `labels` are its synsets."""


def image_frame(rows: Iterable[Row], **columns: Any) -> pl.DataFrame:
    """Return images as (path, split, label) rows, with further columns as lists."""
    frame = pl.DataFrame(list(rows), schema=IMAGE_SCHEMA, orient="row")
    return frame.with_columns(**{name: pl.Series(values) for name, values in columns.items()})


def caption_frame(rows: Iterable[tuple[str, str, str]]) -> pl.DataFrame:
    """Return captions as (key, path of the image, text) rows."""
    return pl.DataFrame(list(rows), schema=CAPTION_SCHEMA, orient="row")


def sorted_labels(rows: Iterable[Row]) -> list[str]:
    """Return the labels that occur, sorted."""
    return sorted({label for _, _, label in rows if label is not None})


def pixels_frame(labels: Mapping[str, Sequence[str]]) -> pl.DataFrame:
    """Return the images of a dataset of arrays: ``images/<split>/<number>.png``, in its order."""
    return image_frame(
        (f"images/{split}/{number:05d}.png", split, label)
        for split, own in labels.items()
        for number, label in enumerate(own)
    )
