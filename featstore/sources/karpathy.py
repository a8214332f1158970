"""Karpathy's JSON of COCO, Flickr8k and Flickr30k: images with splits and five captions."""

from __future__ import annotations

from typing import Any

from featstore.errors import ManifestError
from featstore.sources.bounded_json import read_json
from featstore.sources.location import local_path
from featstore.sources.request import Found, Request
from featstore.sources.rows import image_root, relative_uri
from featstore.sources.tables import ItemCollector

#: ``restval`` is the part of COCO's validation images that this split trains on.
_SPLITS = {"restval": "train"}


def read_karpathy(request: Request) -> Found:
    """List the images of a Karpathy JSON with all their captions.

    The key of an image is its ``imgid``, that of a caption its ``sentid``; a file without them
    falls back on the path, and on counting within the image. Paths are ``filepath/filename``.
    ``split`` is train, val or test; where the file says otherwise, the column source_split does.

    Raises
    ------
    ManifestError
        If the file is too large, nests too deep, or lacks what is read.
    """
    path = local_path(request.location)
    root = image_root(request, path)
    document = read_json(path)
    images = document.get("images") if isinstance(document, dict) else None
    if not isinstance(images, list):
        msg = f"{path} has no list of images; it is not a Karpathy JSON."
        raise ManifestError(msg)
    items = ItemCollector(request.dataset)
    for number, image in enumerate(images):
        where = f"{path}, image {number:,}"
        if not isinstance(image, dict):
            msg = f"{where} is not a JSON object."
            raise ManifestError(msg)
        _add(items, image, root, where)
    return Found(root, items.contents())


def _add(items: ItemCollector, image: dict[str, Any], root: Any, where: str) -> None:
    folder, name = image.get("filepath") or "", image.get("filename")
    if not isinstance(folder, str) or not isinstance(name, str):
        msg = f"{where} has no filename, or a filepath that is no text."
        raise ManifestError(msg)
    uri = relative_uri(f"{folder}/{name}" if folder else name, root, where)
    facts: dict[str, Any] = {}
    split = image.get("split")
    if split is not None and not isinstance(split, str):
        msg = f"{where} has a split that is no text: {split!r}."
        raise ManifestError(msg)
    if split in _SPLITS:
        facts["source_split"], split = split, _SPLITS[split]
    if type(image.get("cocoid")) is int:
        facts["cocoid"] = image["cocoid"]
    parent = items.image(_key(image.get("imgid")) or uri, uri, split=split, **facts)
    sentences = image.get("sentences") or []
    if not isinstance(sentences, list):
        msg = f"{where} has sentences that are no list."
        raise ManifestError(msg)
    for sentence in sentences:
        raw = sentence.get("raw") if isinstance(sentence, dict) else None
        if not isinstance(raw, str):
            msg = f"{where} has a sentence without raw text."
            raise ManifestError(msg)
        items.caption(parent, raw, key=_key(sentence.get("sentid")))


def _key(value: Any) -> str | None:
    return str(value) if isinstance(value, str) or type(value) is int else None
