"""Tar archives as datasets: members by offset, and samples of WebDataset."""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, NoReturn

from featstore.errors import ManifestError
from featstore.identity import sha256_hex
from featstore.manifest.paths import member_uri, path_fault
from featstore.prompts import TEMPLATES
from featstore.sources.location import containers, decode_text, opened, read_text
from featstore.sources.tables import (
    IMAGE_SUFFIXES,
    MAX_RECORD_BYTES,
    Found,
    ItemCollector,
    Label,
    Request,
    parse_json,
    split_folder,
)

#: A header and its extended fields (names longer than 100 letters) take less.
MAX_HEADER_BYTES = 2**20

_BLOCK = 512
_PIECE = 2**20


@dataclass(frozen=True)
class Member:
    """A regular file inside a tar."""

    name: str
    """Its path inside the tar."""

    offset: int
    """Byte of the tar at which its content begins."""

    size: int
    """Bytes of its content."""


def index_tar(path: Path) -> Iterator[Member]:
    """Yield the regular files of an uncompressed tar, in order.

    Folders are passed over. The tar is believed as a whole or not at all: it is an error
    after the last member, too, so collect before using.

    Raises
    ------
    ManifestError
        If the tar is truncated, damaged, lacks its end mark or has data behind it, or holds a
        link, a device, a sparse file or a path that leaves its folder.
    """
    try:
        with opened(path) as file:
            yield from _members(path, file, os.fstat(file.fileno()).st_size)
    except (tarfile.TarError, ValueError, OverflowError) as err:
        if isinstance(err, ManifestError):
            raise
        raise ManifestError(
            f"{path} is truncated or no uncompressed tar: {err}. None of its members is used; "
            "fetch it again."
        ) from err


def _members(path: Path, file: IO[bytes], size: int) -> Iterator[Member]:
    bounded = _HeadersOnly(file, path)
    with tarfile.open(
        fileobj=bounded,  # type: ignore[call-overload]
        mode="r:",
        encoding="utf-8",
        errors="strict",
    ) as tar:
        for member in tar:
            tar.members = []  # else the tar keeps them all
            _check(path, member)
            if member.offset_data + member.size > size:
                _refuse(path, f"the member {member.name!r} ends behind the end of the file")
            if member.isreg():
                yield Member(member.name, member.offset_data, member.size)
        end = tar.offset
    file.seek(end)
    mark = file.read(_BLOCK)
    if len(mark) < _BLOCK:
        _refuse(path, "it lacks the end mark: it is truncated")
    if any(mark):
        _refuse(path, f"its header at byte {end:,} is damaged")
    while piece := file.read(_PIECE):
        if piece.count(0) != len(piece):
            _refuse(path, "it has data behind its end mark")


def _check(path: Path, member: tarfile.TarInfo) -> None:
    if not (member.isreg() or member.isdir()) or member.issparse():
        what = "a sparse file"
        if member.issym() or member.islnk():
            what = f"a {'symbolic' if member.issym() else 'hard'} link to {member.linkname!r}"
        elif not member.isreg():
            what = "a device, pipe or something unknown"
        _refuse(path, f"the member {member.name!r} is {what}")
    fault = path_fault(member.name)
    if fault is not None:
        _refuse(path, f"the member {member.name!r} has a path that is not used: {fault}")


def _refuse(path: Path, reason: str) -> NoReturn:
    raise ManifestError(
        f"{path} is refused: {reason}. None of its members is used; pack or fetch it again."
    )


class _HeadersOnly:
    """A file that refuses to read more than a header at once: sizes in headers may lie."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file = file
        self._path = path
        self.name = str(path)
        self.mode = "rb"

    def read(self, n_bytes: int = -1) -> bytes:
        if not 0 <= n_bytes <= MAX_HEADER_BYTES:
            _refuse(self._path, f"a header claims {n_bytes:,} bytes")
        return self._file.read(n_bytes)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


#: Beside the tars: names of the classes, and prompts with ``{c}`` for the name.
CLASS_NAMES_FILE = "classnames.txt"
TEMPLATES_FILE = "zeroshot_classification_templates.txt"

#: Key and suffix of a member: the suffix begins at the first dot of the file name.
_NAME = re.compile(r"((?:.*/)?[^/.]+)\.([^/]+)")

_IMAGES = frozenset(suffix[1:] for suffix in IMAGE_SUFFIXES)
_TEXTS = frozenset({"txt", "json", "cls"})
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
        with opened(root / file) as handle:
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
        raise ManifestError(
            f"The key {found[1]!r} is repeated in {tar}: members {parts[role].name!r} and "
            f"{member.name!r}. A sample has one {role}."
        )
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
    given = facts.get("caption")
    written = [
        _text(handle, file, parts.get("txt")),
        *(given if isinstance(given, list) else [given]),
    ]
    for text in dict.fromkeys(one.strip() for one in written if isinstance(one, str) and one):
        items.caption(parent, text)


def _json(handle: int, file: str, member: Member | None) -> dict[str, Any]:
    data, where = _small(handle, file, member)
    document = {} if data is None else parse_json(data, where=where)
    if not isinstance(document, dict):
        raise ManifestError(f"{where} is not a JSON object, so it has no caption or label.")
    return document


def _text(handle: int, file: str, member: Member | None) -> str | None:
    data, where = _small(handle, file, member)
    return None if data is None else decode_text(data, where=where, limit=MAX_RECORD_BYTES).strip()


def _small(handle: int, file: str, member: Member | None) -> tuple[bytes | None, str]:
    """Return the bytes of a text, and what messages call it; None if there is none."""
    if member is None:
        return None, ""
    where = member_uri(file, member.name)
    if member.size > MAX_RECORD_BYTES:
        raise ManifestError(
            f"{where} has {member.size:,} bytes; texts of at most {MAX_RECORD_BYTES:,} are read."
        )
    return os.pread(handle, member.size, member.offset), where


def _label_of(facts: dict[str, Any]) -> Label | None:
    for name in ("label", "class", "cls"):
        value = facts.get(name)
        if isinstance(value, str) or type(value) is int:
            return value
    return None


def _member_sha256(handle: int, member: Member) -> str:
    digest, position, end = hashlib.sha256(), member.offset, member.offset + member.size
    while position < end:
        piece = os.pread(handle, min(_PIECE, end - position), position)
        if not piece:
            raise ManifestError(f"A tar became shorter while its member {member.name!r} was read.")
        digest.update(piece)
        position += len(piece)
    return digest.hexdigest()


def _class_names(root: Path) -> list[str] | None:
    return _lines(root / CLASS_NAMES_FILE)


def _lines(path: Path) -> list[str] | None:
    """Return the lines of a small file without blank ones, or None if there is no file."""
    if not path.is_file():
        return None
    lines = read_text(path, limit=_MAX_LISTS_BYTES).splitlines()
    return [line.strip() for line in lines if line.strip()]


def _templates(root: Path) -> dict[str, str] | None:
    path = root / TEMPLATES_FILE
    texts = _lines(path)
    if texts is None:
        return None
    known = {text: name for name, text in TEMPLATES.items()}
    templates = {}
    for text in texts:
        plain = text.replace("{c}", "{}")
        if plain.count("{}") != 1:
            raise ManifestError(
                f"The template {text!r} of {path} must hold {{c}} once, where the name goes."
            )
        templates[known.get(plain) or f"t{sha256_hex(plain.encode())[:8]}"] = plain
    return templates
