"""Compare a copy of a dataset with what is known of it."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import polars as pl

from data_manifests.official.disk import Disk, Listing
from data_manifests.plan import BuildError, check_known

Kind = Literal[
    "missing list", "changed list", "unreadable list", "missing folder", "missing image",
    "empty image", "bad path", "listed twice", "images", "captions", "classes", "class",
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
    """Return the expected counts with these options: classes, image, caption, per_class."""
    expected = dict(facts["expected"])
    for condition, override in facts.get("expected_with", {}).items():
        wanted = dict(part.split("=", 1) for part in condition.split(","))
        if all(options.get(name) == value for name, value in wanted.items()):
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

    expected: Mapping[str, Any]
    """The counts that the whole dataset has with these options."""

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


def inspect(
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
        return Inspection(disk, None, expected, [Problem("missing folder", str(root), message)])
    problems = list(_lists(disk))
    if any(problem.kind in FATAL for problem in problems):
        return Inspection(disk, None, expected, problems)
    try:
        listing = read(disk)
    except (ValueError, TypeError, LookupError, AttributeError) as err:
        # A list of the wrong form makes its reader stumble anywhere; the user gets a sentence.
        message = f"A list in {disk.root} has another form: {err!r}."
        message = str(err) if isinstance(err, BuildError) else message
        unreadable = Problem("unreadable list", str(disk.root), message)
        return Inspection(disk, None, expected, [*problems, unreadable])
    if classes_only:
        return Inspection(disk, listing, expected, [*problems, *_classes(listing, expected)])
    whole, sizes, faults = _files(disk, listing)
    problems += [*faults, *_counts(disk, whole, expected)]
    return Inspection(disk, whole, expected, problems, sizes)


def _lists(disk: Disk) -> Iterator[Problem]:
    """Yield what is wrong with the lists that dataset.toml names."""
    for name, facts in disk.file_names(required=True) + disk.file_names(required=False):
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


def _differs(kind: Kind, where: str, found: int, wanted: int, what: str) -> Iterator[Problem]:
    if found != wanted:
        yield Problem(kind, where, f"{where} has {found:,} {what}, not {wanted:,}.")


def _classes(listing: Listing, expected: Mapping[str, Any]) -> Iterator[Problem]:
    found = len(listing.labels)
    wanted = expected.get("classes", found)
    return _differs("classes", "The label set", found, wanted, "classes")


def _counts(disk: Disk, listing: Listing, expected: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield where the numbers of classes, images and captions are not the known ones."""
    yield from _classes(listing, expected)
    found = Counter(listing.images["split"])
    per_class = expected.get("per_class", {})
    by_class = Counter(listing.images.select("split", "label").iter_rows())
    for split in disk.splits:
        yield from _differs("images", split, found[split], expected["image"][split], "images")
        for label in listing.labels if split in per_class else ():
            of_class = by_class[split, label]
            yield from _differs("class", f"{split}/{label}", of_class, per_class[split], "images")
    if listing.captions is not None and "caption" in expected:
        joined = listing.captions.join(listing.images.select("path", "split"), on="path")
        captions = Counter(joined["split"])
        for split in disk.splits:
            wanted = expected["caption"].get(split, captions[split])
            yield from _differs("captions", split, captions[split], wanted, "captions")
