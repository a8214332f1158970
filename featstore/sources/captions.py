"""Same-stem captions: ``a.jpg`` with ``a.txt`` beside it, one caption a line."""

from __future__ import annotations

from featstore.errors import ManifestError
from featstore.sources.folder import images_below
from featstore.sources.location import read_text
from featstore.sources.names import all_in_split_folders, split_folder
from featstore.sources.request import Found, Request
from featstore.sources.tables import ItemCollector

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
            msg = f"The captions {text} are a link that leads out of {root}. They were not read."
            raise ManifestError(msg)
        if stem in owner:
            msg = (
                f"The captions {stem}.txt belong to both {owner[stem]!r} and {path!r}. Rename one."
            )
            raise ManifestError(msg)
        owner[stem] = path
        for line in read_text(text, limit=MAX_TEXT_BYTES).splitlines():
            items.caption(parent, line)
    return Found(root, items.contents())
