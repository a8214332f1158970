"""Copies of datasets on disk: lists and files found, and compared with what is known of them."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import polars as pl

from data_manifests.plan import BuildError, check_known

#: Suffixes of images, in lower case.
IMAGES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp")

#: An image as a reader lists it: path below the root, split, label.
Row = tuple[str, str, str | None]


def files_below(
    root: Path,
    wanted: Callable[[str], bool],
    start: Path | None = None,
    on_error: Callable[[OSError], None] | None = None,
) -> list[str]:
    """Return the files below a folder whose names are wanted: relative, ``/`` between, sorted.

    Hidden files and folders are passed over. Links to folders are not followed; links to files are
    listed.

    Parameters
    ----------
    root : Path
        What the paths are relative to.
    wanted : callable
        Of the name of a file.
    start : Path, optional
        The folder, `root` or one below it.
    on_error : callable, optional
        Called with the error of a folder that cannot be listed; it is passed over by default.
    """
    found = []
    for at, folders, names in os.walk(start or root, onerror=on_error):
        folders[:] = [name for name in folders if not name.startswith(".")]
        base = Path(at).relative_to(root).as_posix()
        found += [
            name if base == "." else f"{base}/{name}"
            for name in names
            if not name.startswith(".") and wanted(name)
        ]
    return sorted(found)


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

    def file_names(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Return the lists that dataset.toml names: (path, what is known of it), needed ones first.

        ``{split}`` stands for every wanted split in the dataset's own word, ``{option}`` for the
        value of an option.
        """
        named: dict[str, Mapping[str, Any]] = {}
        for pattern, facts in self.facts.get("files", {}).items():
            if not self._applies(facts):
                continue
            for split in self.splits if "{split}" in pattern else ("",):
                named[pattern.format(split=self.word(split), **self.options)] = facts
        return sorted(named.items(), key=lambda item: not item[1].get("required", True))

    def path(self, name: str) -> Path:
        """Return where a list lies: below the root, or where an option says."""
        for file, facts in self.file_names():
            given = self.options.get(str(facts.get("option", "")), "")
            if file == name and given:
                elsewhere = Path(given).expanduser()
                return elsewhere / PurePosixPath(name).name if elsewhere.is_dir() else elsewhere
        return self.root / name

    def has(self, name: str) -> bool:
        """Return whether a list lies there."""
        return self.path(name).is_file()

    def read(self, name: str) -> bytes:
        """Return the bytes of a list."""
        data = self.path(name).read_bytes()
        self.digests[name] = hashlib.sha256(data).hexdigest()
        return data

    def text(self, name: str) -> str:
        """Return a list as text, which is UTF-8."""
        return self.read(name).decode("utf-8-sig")

    def lines(self, name: str) -> list[str]:
        """Return the lines of a list, stripped, without empty ones."""
        return [line.strip() for line in self.text(name).splitlines() if line.strip()]

    def fields(self, name: str, count: int) -> list[list[str]]:
        """Return the lines of a list, each split at blanks into at most `count` fields."""
        return [line.split(maxsplit=count - 1) for line in self.lines(name)]

    def json(self, name: str) -> Any:
        """Return a list as a JSON document."""
        return json.loads(self.text(name))

    def images(self, folder: str = ".", suffixes: Iterable[str] = IMAGES) -> list[str]:
        """Return the images below a folder: relative to the root, ``/`` between, sorted.

        Hidden files and folders (``._x.jpg`` of macOS among them) are passed over; links to
        folders are not followed.
        """
        wanted = tuple(suffixes)
        return files_below(
            self.root, lambda name: name.lower().endswith(wanted), self.root / folder
        )

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


Kind = Literal[
    "missing list", "changed list", "unreadable list", "missing folder", "missing image",
    "empty image", "bad path", "listed twice", "images", "captions", "classes",
]  # fmt: skip

#: Nothing can be built before these are gone.
FATAL: tuple[Kind, ...] = ("missing list", "unreadable list", "missing folder", "bad path")


@dataclass(frozen=True)
class Problem:
    """One thing that is not as it should be."""

    kind: Kind
    """Which sort of thing."""

    where: str
    """The file, image, split or class."""

    text: str
    """One sentence: what is wrong, and what to do."""


def summary(problems: Sequence[Problem], shown: int = 5) -> str:
    """Return the first problems in one line, and how many more there are."""
    first = " ".join(problem.text for problem in problems[:shown])
    more = len(problems) - shown
    return first + (f" And {more:,} more." if more > 0 else "")


def chosen_options(facts: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, str]:
    """Return every option of a dataset with its value.

    Raises
    ------
    BuildError
        If an option is unknown or has a value that it cannot have.
    """
    declared: Mapping[str, Mapping[str, Any]] = facts.get("options", {})
    check_known("option", given, declared)
    for name, value in given.items():
        check_known(name, [value], declared[name].get("values", [value]))
    return {
        name: str(given.get(name, option.get("default", ""))) for name, option in declared.items()
    }


def expectation(facts: Mapping[str, Any], options: Mapping[str, str]) -> dict[str, Any]:
    """Return the expected counts with these options: classes, image, caption."""
    expected = dict(facts["expected"])
    for condition, override in facts.get("expected_with", {}).items():
        name, _, value = condition.partition("=")
        if options.get(name) == value:
            expected |= override
    return expected


def chosen_splits(expected: Mapping[str, Any], given: Sequence[str] | None) -> tuple[str, ...]:
    """Return the splits that are wanted, in the order of dataset.toml.

    Raises
    ------
    BuildError
        If the dataset has no such split.
    """
    known = tuple(expected.get("image", {}))
    check_known("split", given or (), known)
    return tuple(split for split in known if not given or split in given)


#: A reader: from a copy of a dataset to what it lists.
Read = Callable[[Disk], Listing]


@dataclass(frozen=True)
class Inspection:
    """A copy of a dataset, read and compared."""

    disk: Disk
    """The copy."""

    listing: Listing | None
    """What it lists; None if its lists cannot be read. Images that are not there are left out."""

    problems: Sequence[Problem]
    """What is wrong; empty for a whole and right copy."""

    sizes: Sequence[int] = field(default=())
    """Bytes of each image of the listing."""

    @property
    def fatal(self) -> list[Problem]:
        """The problems that nothing can be built with."""
        return [problem for problem in self.problems if problem.kind in FATAL]

    def counts(self) -> dict[str, int]:
        """Return the images that are there, by split."""
        if self.listing is None:
            return {}
        found = Counter(self.listing.images["split"])
        return {split: found[split] for split in self.disk.splits}


def inspect_copy(
    facts: Mapping[str, Any],
    read: Read,
    root: Path | None = None,
    *,
    splits: Sequence[str] | None = None,
    classes_only: bool = False,
    **options: str,
) -> Inspection:
    """Read a copy of a dataset and say everything that is wrong with it.

    Parameters
    ----------
    facts : mapping
        Its dataset.toml.
    read : callable
        Its reader.
    root : Path
        The folder.
    splits : sequence of str, optional
        Which splits are wanted; all by default.
    classes_only : bool
        Look at the lists alone, not at the image files, and expect no counts of them.
    **options
        Options of the dataset.

    Raises
    ------
    BuildError
        If there is no root, or an option or split is unknown: that is wrong usage, not a wrong
        copy.
    """
    if root is None:
        raise BuildError(
            f"The dataset {facts['name']!r} is read from a folder on disk: give it with --root. "
            f"It can be had from {facts['home_page']}."
        )
    chosen = chosen_options(facts, options)
    expected = expectation(facts, chosen)
    disk = Disk(root, facts, chosen_splits(expected, splits), chosen)
    if not disk.root.is_dir():
        message = f"{disk.root} is no folder. Give the one that holds the dataset with --root."
        return Inspection(disk, None, [Problem("missing folder", str(root), message)])
    problems = list(_lists(disk))
    if any(problem.kind in FATAL for problem in problems):
        return Inspection(disk, None, problems)
    try:
        listing = read(disk)
        strange = set(listing.images["label"].drop_nulls()) - set(listing.labels)
        if strange:
            raise BuildError(
                f"{len(strange):,} labels of images are no class of {facts['name']} (first: "
                f"{min(strange)!r}). Remove them, or fetch the lists again."
            )
    except Exception as err:
        # A list of the wrong form makes its reader stumble anywhere; the user gets a sentence.
        last = disk.path(next(reversed(disk.digests), ""))
        what = " ".join(f"{type(err).__name__}: {err}".split())[:200]
        message = f"{last} has another form ({what}). Fetch it again."
        message = str(err) if isinstance(err, BuildError) else message
        unreadable = Problem("unreadable list", str(disk.root), message)
        return Inspection(disk, None, [*problems, unreadable])
    if classes_only:
        listing = replace(listing, images=listing.images.clear(), captions=None, arrays={})
        expected["image"] = dict.fromkeys(disk.splits, 0)
    whole, sizes, faults = _files(disk, listing)
    problems += [*faults, *_counts(disk, whole, expected)]
    return Inspection(disk, whole, problems, sizes)


def _lists(disk: Disk) -> Iterator[Problem]:
    """Yield what is wrong with the lists that dataset.toml names."""
    for name, facts in disk.file_names():
        path = disk.path(name)
        if not path.is_file():
            if facts.get("required", True):
                option = facts.get("option")
                way = f" It may lie elsewhere: -s {option}=PATH." if option else ""
                yield Problem(
                    "missing list", name, f"{path} is missing. It is {facts['what']}.{way}"
                )
        elif "md5" in facts:
            digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
            if digest != facts["md5"]:
                yield Problem(
                    "changed list",
                    name,
                    f"{name} is not the published file: its md5 is {digest}, not {facts['md5']}. "
                    "Fetch it again.",
                )


def _files(disk: Disk, listing: Listing) -> tuple[Listing, list[int], list[Problem]]:
    """Return the listing without images that are not there, their sizes, and what was wrong."""
    if listing.arrays:
        return listing, [0] * listing.images.height, []
    problems: list[Problem] = []
    sizes: list[int] = []
    keep: list[bool] = []
    seen: dict[str, str] = {}
    root = str(disk.root)
    for path, split in listing.images.select("path", "split").iter_rows():
        kind, text = _fault(root, path)
        if path in seen:
            kind, text = "listed twice", f"{path} is listed in {seen[path]} and again in {split}."
        seen.setdefault(path, split)
        keep.append(not kind)
        if kind:
            problems.append(Problem(kind, path, text))
        else:
            sizes.append(os.stat(f"{root}/{path}").st_size)  # noqa: PTH116 -- a Path each is slow
    if not problems:
        return listing, sizes, problems
    images = listing.images.filter(pl.Series(keep))
    captions = listing.captions
    if captions is not None:
        present = images.select("path")
        captions = captions.join(present, on="path", how="semi", maintain_order="left")
    return replace(listing, images=images, captions=captions), sizes, problems


def _fault(root: str, path: str) -> tuple[Any, str]:
    if path.startswith(("/", "\\")) or ".." in path.split("/") or "\0" in path or "\\" in path:
        return "bad path", f"The list names {path!r}, which is no plain path below the folder."
    try:
        size = os.stat(f"{root}/{path}").st_size  # noqa: PTH116 -- a Path per image is slow
    except OSError:
        return "missing image", f"{path} is missing."
    return ("empty image", f"{path} is empty.") if size == 0 else ("", "")


def _counts(disk: Disk, listing: Listing, expected: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield where the numbers of classes, images and captions are not the known ones."""
    found = len(listing.labels)
    counts: list[tuple[Kind, str, int, int]] = [
        ("classes", "The label set", found, expected.get("classes", found))
    ]
    images = Counter(listing.images["split"])
    counts += [("images", split, images[split], expected["image"][split]) for split in disk.splits]
    if listing.captions is not None and "caption" in expected:
        joined = listing.captions.join(listing.images.select("path", "split"), on="path")
        captions, wanted = Counter(joined["split"]), expected["caption"]
        counts += [
            ("captions", split, captions[split], wanted.get(split, captions[split]))
            for split in disk.splits
        ]
    for kind, where, n, known in counts:
        if n != known:
            yield Problem(kind, where, f"{where} has {n:,} {kind}, not {known:,}.")
