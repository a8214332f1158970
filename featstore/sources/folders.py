"""Folders as datasets: one folder, a folder a class, and captions beside images."""

from __future__ import annotations

from pathlib import Path

from featstore.errors import ManifestError
from featstore.sources.location import files_below, folder, read_text
from featstore.sources.tables import (
    Found,
    ItemCollector,
    Request,
    is_image,
    split_folder,
)


def read_folder(request: Request) -> Found:
    """List the images below a folder; the key of one is its relative path.

    If every image lies below a folder named train, val, test or another word for these, that
    is its split.
    """
    root, images = images_below(request)
    items = ItemCollector(request.dataset)
    for path, _, split in images:
        items.image(path, path, split=split)
    return Found(root, items.contents())


def images_below(request: Request) -> tuple[Path, list[tuple[str, str, str | None]]]:
    """Return a folder, and of each image below it the relative path, sorted by it.

    Beside the path: the path below the folder of its split, if all images lie in one, and the
    split, which an option may say instead.
    """
    root = folder(request.location)
    paths = files_below(root, is_image)
    splits = None not in map(split_folder, paths)  # as ImageNet has them
    given = request.options.get("split")
    return root, [
        (path, path.partition("/")[2], given or split_folder(path)) if splits
        else (path, path, given)
        for path in paths
    ]  # fmt: skip


def read_class_folders(request: Request) -> Found:
    """List images as ``[split/]class/…/file``; the key of one is its relative path.

    Raises
    ------
    ManifestError
        If an image lies in no class folder.
    """
    root, images = images_below(request)
    items = ItemCollector(request.dataset)
    for path, inside, split in images:
        label, _, rest = inside.partition("/")
        if not rest:
            raise ManifestError(
                f"The image {path!r} below {root} lies in no class folder. Use the source folder."
            )
        items.image(path, path, label=label, split=split)
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
    root, images = images_below(request)
    items = ItemCollector(request.dataset)
    owner: dict[str, str] = {}
    for path, _, split in images:
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
