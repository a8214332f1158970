"""Image folder: every image below a folder."""

from __future__ import annotations

from pathlib import Path

from featstore.sources.location import files_below, folder
from featstore.sources.names import all_in_split_folders, is_image, split_folder
from featstore.sources.request import Found, Request
from featstore.sources.tables import ItemCollector


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
