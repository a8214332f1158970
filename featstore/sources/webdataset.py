"""Webdataset tars: members of one key are one sample. Images stay in the tar."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from featstore.errors import ManifestError
from featstore.keys import sha256_hex
from featstore.manifest.locator import member_uri
from featstore.prompts import TEMPLATES
from featstore.sources.bounded_json import MAX_RECORD_BYTES, parse_json
from featstore.sources.location import containers, decode_text, read_text
from featstore.sources.names import IMAGE_SUFFIXES, split_folder
from featstore.sources.request import Found, Request
from featstore.sources.tables import ItemCollector, Label
from featstore.sources.tar_index import Member, index_tar

#: Beside the tars: names of the classes, and prompts with ``{c}`` for the name.
CLASS_NAMES_FILE = "classnames.txt"
TEMPLATES_FILE = "zeroshot_classification_templates.txt"

#: Key and suffix of a member: the suffix begins at the first dot of the file name.
_NAME = re.compile(r"((?:.*/)?[^/.]+)\.([^/]+)")

_IMAGES = frozenset(suffix[1:] for suffix in IMAGE_SUFFIXES)
_TEXTS = frozenset({"txt", "json", "cls"})
_PIECE = 2**20
_MAX_LISTS_BYTES = 16 * 2**20


def read_webdataset(request: Request) -> Found:
    """List the images of a tar, or of every tar below a folder.

    The key of an image is the folder of its tar and its own key. ``.txt`` is a caption; ``.json``
    may have ``caption`` and ``label``; ``.cls`` is a label. Every other member is passed over
    unread.

    Raises
    ------
    ManifestError
        If a tar is damaged (see `index_tar`), a key is repeated, or a text is too large or not
        UTF-8.
    """
    root, files = containers(request.location, ".tar")
    items = ItemCollector(request.dataset, _class_names(root), _templates(root))
    for file in files:
        samples: dict[str, dict[str, Member]] = {}
        for member in index_tar(root / file):
            _sort_in(samples, member, root / file)
        folder = str(PurePosixPath(file).parent)
        split = request.options.get("split") or split_folder(file)
        with (root / file).open("rb") as handle:
            for key, parts in samples.items():
                whole = key if folder == "." else f"{folder}/{key}"
                _add(items, handle.fileno(), file, whole, parts, split)
    return Found(root, items.contents())


def _sort_in(samples: dict[str, dict[str, Member]], member: Member, tar: Path) -> None:
    found = _NAME.fullmatch(member.name.removeprefix("./"))
    suffix = found[2].lower() if found else ""
    if found is None or suffix not in _IMAGES | _TEXTS:
        return
    parts = samples.setdefault(found[1], {})
    role = "image" if suffix in _IMAGES else suffix
    if role in parts:
        msg = (
            f"The key {found[1]!r} is repeated in {tar}: members {parts[role].name!r} and "
            f"{member.name!r}. A sample has one {role}."
        )
        raise ManifestError(msg)
    parts[role] = member


def _add(
    items: ItemCollector,
    handle: int,
    file: str,
    key: str,
    parts: dict[str, Member],
    split: str | None,
) -> None:
    image = parts.get("image")
    if image is None:
        return
    facts = _json(handle, file, parts.get("json"))
    label = _text(handle, file, parts.get("cls")) or _label_of(facts)
    parent = items.image(
        key,
        member_uri(file, image.name),
        label=label,
        split=split,
        content_sha256=_member_sha256(handle, image),
        byte_offset=image.offset,
        byte_size=image.size,
    )
    written = [_text(handle, file, parts.get("txt")), *_captions_of(facts)]
    for text in dict.fromkeys(text.strip() for text in written if text):
        items.caption(parent, text)


def _json(handle: int, file: str, member: Member | None) -> dict[str, Any]:
    if member is None:
        return {}
    where = member_uri(file, member.name)
    document = parse_json(_small(handle, member, where), where=where)
    if not isinstance(document, dict):
        msg = f"{where} is not a JSON object, so it has no caption or label."
        raise ManifestError(msg)
    return document


def _text(handle: int, file: str, member: Member | None) -> str | None:
    if member is None:
        return None
    where = member_uri(file, member.name)
    data = _small(handle, member, where)
    return decode_text(data, where=where, limit=MAX_RECORD_BYTES).strip()


def _small(handle: int, member: Member, where: str) -> bytes:
    if member.size > MAX_RECORD_BYTES:
        msg = f"{where} has {member.size:,} bytes; texts of at most {MAX_RECORD_BYTES:,} are read."
        raise ManifestError(msg)
    return os.pread(handle, member.size, member.offset)


def _label_of(facts: dict[str, Any]) -> Label | None:
    for name in ("label", "class", "cls"):
        value = facts.get(name)
        if isinstance(value, str) or type(value) is int:
            return value
    return None


def _captions_of(facts: dict[str, Any]) -> list[str]:
    value = facts.get("caption")
    values = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str)]


def _member_sha256(handle: int, member: Member) -> str:
    digest, position, end = hashlib.sha256(), member.offset, member.offset + member.size
    while position < end:
        piece = os.pread(handle, min(_PIECE, end - position), position)
        if not piece:
            msg = f"A tar became shorter while its member {member.name!r} was read."
            raise ManifestError(msg)
        digest.update(piece)
        position += len(piece)
    return digest.hexdigest()


def _class_names(root: Path) -> list[str] | None:
    path = root / CLASS_NAMES_FILE
    if not path.is_file():
        return None
    lines = read_text(path, limit=_MAX_LISTS_BYTES).splitlines()
    return [line.strip() for line in lines if line.strip()]


def _templates(root: Path) -> dict[str, str] | None:
    path = root / TEMPLATES_FILE
    if not path.is_file():
        return None
    known = {text: name for name, text in TEMPLATES.items()}
    texts = [line.strip() for line in read_text(path, limit=_MAX_LISTS_BYTES).splitlines()]
    templates = {}
    for text in filter(None, texts):
        plain = text.replace("{c}", "{}")
        if plain.count("{}") != 1:
            msg = f"The template {text!r} of {path} must hold {{c}} once, where the name goes."
            raise ManifestError(msg)
        templates[known.get(plain) or f"t{sha256_hex(plain.encode())[:8]}"] = plain
    return templates
