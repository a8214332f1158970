"""Folders as datasets: one folder, a folder a class, and captions beside images."""

from __future__ import annotations

from pathlib import Path

from featstore.errors import ManifestError
from featstore.sources.location import files_below, folder, read_text
from featstore.sources.tables import (
    Found,
    ItemCollector,
    Request,
    all_in_split_folders,
    is_image,
    split_folder,
)


def read_folder(request: Request) -> Found:
    """List the images below a folder; the key of one is its relative path.

    If every image lies below a folder named train, val, test or another word for these, that
    is its split.
    """
    root, paths = images_below(request)
    items = ItemCollector(request.dataset)
    splits = all_in_split_folders(paths)
    for path in paths:
        split = request.options.get("split") or (split_folder(path) if splits else None)
        items.image(path, path, split=split)
    return Found(root, items.contents())


def images_below(request: Request) -> tuple[Path, list[str]]:
    """Return (folder, relative paths of the images below it, sorted)."""
    root = folder(request.location)
    return root, files_below(root, is_image)


def read_class_folders(request: Request) -> Found:
    """List images as ``[split/]class/…/file``; the key of one is its relative path.

    Raises
    ------
    ManifestError
        If an image lies in no class folder.
    """
    root, paths = images_below(request)
    items = ItemCollector(request.dataset)
    splits = all_in_split_folders(paths)
    for path in paths:
        split = split_folder(path) if splits else None
        label, _, rest = path.split("/", 1)[1].partition("/") if splits else path.partition("/")
        if not rest:
            raise ManifestError(
                f"The image {path!r} below {root} lies in no class folder. Use the source folder."
            )
        items.image(path, path, label=label, split=request.options.get("split") or split)
    return Found(root, items.contents())


#: Longer captions of one image are refused.
MAX_TEXT_BYTES = 2**20


def read_captions(request: Request) -> Found:
    """List the images below a folder with the captions beside them; images may have none.

    Raises
    ------
    ManifestError
        If two images share a stem whose captions could be either's, or captions are not UTF-8.
    """
    root, paths = images_below(request)
    items = ItemCollector(request.dataset)
    splits = all_in_split_folders(paths)
    owner: dict[str, str] = {}
    for path in paths:
        split = request.options.get("split") or (split_folder(path) if splits else None)
        parent = items.image(path, path, split=split)
        stem = path.rpartition(".")[0]
        text = root / f"{stem}.txt"
        if not text.is_file():
            continue
        if not text.resolve().is_relative_to(root):
            raise ManifestError(
                f"The captions {text} are a link that leads out of {root}. They were not read."
            )
        if stem in owner:
            raise ManifestError(
                f"The captions {stem}.txt belong to both {owner[stem]!r} and {path!r}. Rename one."
            )
        owner[stem] = path
        for line in read_text(text, limit=MAX_TEXT_BYTES).splitlines():
            items.caption(parent, line)
    return Found(root, items.contents())
