"""Class folders: one folder a class, perhaps below one folder a split."""

from __future__ import annotations

from featstore.errors import ManifestError
from featstore.sources.folder import images_below
from featstore.sources.names import all_in_split_folders, split_folder
from featstore.sources.request import Found, Request
from featstore.sources.tables import ItemCollector


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
            msg = f"The image {path!r} below {root} lies in no class folder. Use the source folder."
            raise ManifestError(msg)
        items.image(path, path, label=label, split=request.options.get("split") or split)
    return Found(root, items.contents())
