"""Which sets a short name means."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from featstore.keys import encoder_slug
from featstore.store.commit import POINTER
from featstore.store.layout import LayoutError, SetKey


def find_sets(root: Path, name: str) -> dict[str, Path]:
    """Return key -> directory of the finished sets that `name` fits.

    A set named in full costs one look, any other name one listing of its dataset and kind: only
    what fits is opened, however many sets there are.
    """
    parts = name.strip("/").split("/", 2)
    try:
        beside = SetKey(parts[0], parts[1], "any").directory(root).parent
    except (LayoutError, IndexError):
        return {}
    directories: dict[str, Path] = {}

    def finished(key: str) -> bool:
        try:
            directory = SetKey(*key.split("/", 2)).directory(root)
        except LayoutError:
            return False  # a name that no writer of ours makes: not a set
        directories[key] = directory
        return (directory / POINTER).is_file()

    in_full = "/".join(parts)
    if finished(in_full):
        return {in_full: directories[in_full]}
    if len(parts) != 3:
        return {}
    wanted = encoder_slug(parts[2])
    try:
        # What cannot fit is left out first: the listing alone is what many sets cost.
        names = sorted(found for found in os.listdir(beside) if wanted in found)  # noqa: PTH208
    except (FileNotFoundError, NotADirectoryError):
        return {}
    keys = match_names(name, [f"{parts[0]}/{parts[1]}/{name}" for name in names], finished)
    return {key: directories[key] for key in keys}


def match_names(
    name: str, keys: Iterable[str], keep: Callable[[str], bool] = lambda _: True
) -> list[str]:
    """Return the keys that `name` fits; an exact directory or encoder name beats a prefix.

    Of the keys that fit, those are left out that `keep` does not want.
    """
    parts = name.strip("/").split("/", 2)
    if len(parts) != 3:
        return []
    dataset, kind, encoder = parts
    wanted = encoder_slug(encoder)
    exact, prefix = [], []
    for key in keys:
        inside, _, directory = key.rpartition("/")
        if wanted not in directory or inside != f"{dataset}/{kind}":
            continue
        stem = directory.rsplit("-", 1)[0]
        without_family = directory.split(".", 1)[-1]
        if wanted in (directory, stem, without_family, without_family.rsplit("-", 1)[0]):
            exact.append(key)
        elif directory.startswith(wanted) or without_family.startswith(wanted):
            prefix.append(key)
    return [key for key in exact if keep(key)] or [key for key in prefix if keep(key)]
