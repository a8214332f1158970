"""Pictures as items: in folders, tars and tables, and behind URLs."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from featstore.errors import (
    ManifestError,
)
from featstore.identity import sha256_hex
from featstore.manifest_files import check_size, part_uri, path_fault, read_inside
from featstore.prompts import TEMPLATES, template_ids
from featstore.sources import (
    PARQUET,
    OpenFile,
    Root,
    decode_text,
    files_below,
    folder,
    locate,
    read_small,
)
from featstore.sources.reader import (
    MAX_ITEM_BYTES,
    PATH_ROWS,
    ParquetCells,
    arrow,
    only_field,
)
from featstore.sources.tables import (
    IMAGE_SUFFIXES,
    MAX_RECORD_BYTES,
    Found,
    ItemCollector,
    Request,
    add_row,
    choose_columns,
    image_root,
    is_image,
    list_paths,
    parse_json,
    split_folder,
    split_name,
)


def read_folder(request: Request, *, classes: bool = False) -> Found:
    """List the images below a folder; the key of one is its relative path.

    If every image lies below a folder named train, val, test or another word for these, that
    is its split.

    Parameters
    ----------
    classes : bool
        Images lie as ``[split/]class/…/file``.

    Raises
    ------
    ManifestError
        If an image lies in no class folder.
    """
    root, images = images_below(request)
    items = ItemCollector(request.dataset)
    for path, inside, split in images:
        label, _, rest = inside.partition("/")
        if classes and not rest:
            raise ManifestError(
                f"The image {path!r} below {root} lies in no class folder. Use the source folder."
            )
        items.image(path, path, label=label if classes else None, split=split)
    return items.found(root)


read_class_folders = partial(read_folder, classes=True)


def empty_folders(root: Path, images: Sequence[str]) -> list[str]:
    """Return the class folders below `root` that hold none of these images, as paths."""
    depth = 1 if None in map(split_folder, images) else 2
    used = {path.rsplit("/", path.count("/") + 1 - depth)[0] for path in images}
    folders = (path for path in root.glob("/".join(["[!.]*"] * depth)) if path.is_dir())
    return sorted({path.relative_to(root).as_posix() for path in folders} - used)


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
        if stem in owner:
            raise ManifestError(
                f"The captions {stem}.txt belong to both {owner[stem]!r} and {path!r}. Rename one."
            )
        owner[stem] = path
        data = read_inside(root, f"{stem}.txt", limit=MAX_TEXT_BYTES)
        for line in decode_text(data, where=str(text)).splitlines():
            items.caption(parent, line)
    return items.found(root)


_BLOCK = 512
_PIECE = 2**20


def members(file: OpenFile) -> Iterator[tarfile.TarInfo]:
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
        with tarfile.open(
            fileobj=file,  # type: ignore[call-overload]
            mode="r:",
            encoding="utf-8",
            errors="strict",
        ) as tar:
            for member in tar:
                tar.members = []  # else the tar keeps them all
                _check(file, member)
                if member.isreg():
                    yield member
            end = tar.offset
    except (tarfile.TarError, ValueError, OverflowError) as err:
        if isinstance(err, ManifestError):
            raise
        raise ManifestError(
            f"{file.where} is truncated or no uncompressed tar: {err}. None of its members is "
            "used; fetch it again."
        ) from err
    if file.size - end < _BLOCK:
        _refuse(file.where, "it lacks the end mark: it is truncated")
    for start in range(end, file.size, _PIECE):
        piece = file.read_at(start, _PIECE)
        if piece.count(0) != len(piece):
            what = "a damaged header, or data behind its end mark"
            _refuse(file.where, f"it has {what}, behind byte {start:,}")


#: What a member may be that is refused.
_REFUSED = {tarfile.SYMTYPE: "a symbolic link", tarfile.LNKTYPE: "a hard link"}


def _check(file: OpenFile, member: tarfile.TarInfo) -> None:
    if not (member.isreg() or member.isdir()) or member.issparse():
        what = _REFUSED.get(member.type, "a sparse file, device, pipe or something unknown")
        _refuse(file.where, f"the member {member.name!r} is {what}")
    fault = path_fault(member.name)
    if fault is not None:
        _refuse(file.where, f"the member {member.name!r} has a path that is not used: {fault}")
    if not 0 <= member.size <= file.size - member.offset_data:
        _refuse(file.where, f"the member {member.name!r} ends behind the end of the file")


def _refuse(path: str, reason: str) -> NoReturn:
    raise ManifestError(
        f"{path} is refused: {reason}. None of its members is used; pack or fetch it again."
    )


#: Beside the tars: names of the classes, and prompts with ``{c}`` for the name.
CLASS_NAMES_FILE = "classnames.txt"
TEMPLATES_FILE = "zeroshot_classification_templates.txt"

#: Key and suffix of a member: the suffix begins at the first dot of the file name.
_NAME = re.compile(r"((?:.*/)?[^/.]+)\.([^/]+)")

_IMAGES = frozenset(suffix[1:] for suffix in IMAGE_SUFFIXES)
_TEXTS = frozenset({"txt", "json", "cls"})
_MAX_LISTS_BYTES = 16 * 2**20


def read_webdataset(request: Request) -> Found:
    """List the images of a tar, of every tar below a folder, or of those at an address.

    The key of an image is the folder of its tar and its own key. ``.txt`` is a caption; ``.json``
    may have ``caption`` and ``label``; ``.cls`` is a label. Every other member is passed over
    unread, and a tar is read once, from its start to its end.

    Raises
    ------
    ManifestError
        If a tar is damaged (see `members`), a key is repeated, or a text is too large or not
        UTF-8.
    RemoteStoreError
        If an address cannot be read.
    """
    root, files = locate(request.location, ".tar")
    items = ItemCollector(request.dataset, _lines(root, CLASS_NAMES_FILE), _templates(root))
    for file in files:
        samples: dict[str, _Parts] = {}
        with closing(root.open(file)) as tar:
            for member in members(tar):
                _sort_in(samples, member, tar)
        folder = str(PurePosixPath(file).parent)
        split = request.options.get("split") or split_folder(file)
        for key, parts in samples.items():
            _add(items, file, key if folder == "." else f"{folder}/{key}", parts, split)
    return items.found(root.place)


#: The members of a sample by role: an image with its sha256, a text with what it says.
_Parts = dict[str, tuple[tarfile.TarInfo, str]]


def _sort_in(samples: dict[str, _Parts], member: tarfile.TarInfo, tar: OpenFile) -> None:
    found = _NAME.fullmatch(member.name.removeprefix("./"))
    suffix = found[2].lower() if found else ""
    if found is None or suffix not in _IMAGES | _TEXTS:
        return
    parts = samples.setdefault(found[1], {})
    role = "image" if suffix in _IMAGES else suffix
    if role in parts:
        raise ManifestError(
            f"The key {found[1]!r} is repeated in {tar.where}: members {parts[role][0].name!r} "
            f"and {member.name!r}. A sample has one {role}."
        )
    where = part_uri(tar.where, member.name)
    check_size(where, member.size, MAX_ITEM_BYTES if role == "image" else MAX_RECORD_BYTES)
    data = tar.read_at(member.offset_data, member.size)
    text = sha256_hex(data) if role == "image" else decode_text(data, where=where).strip()
    parts[role] = member, text


def _add(items: ItemCollector, file: str, key: str, parts: _Parts, split: str | None) -> None:
    if "image" not in parts:
        return
    member, digest = parts["image"]
    uri = part_uri(file, member.name)
    texts = {role: text for role, (_, text) in parts.items()}
    where = f"The JSON beside {uri}"
    facts = parse_json(texts.get("json", "{}").encode(), where=where)
    if not isinstance(facts, dict):
        raise ManifestError(f"{where} is not a JSON object, so it has no caption or label.")
    known = [texts.get("cls") or None, *(facts.get(name) for name in ("label", "class", "cls"))]
    stated = [value for value in known if isinstance(value, str) or type(value) is int]
    parent = items.image(
        key,
        uri,
        label=next(iter(stated), None),
        split=split,
        content_sha256=digest,
        byte_offset=member.offset_data,
        byte_size=member.size,
    )
    given = facts.get("caption")
    written = [texts.get("txt"), *(given if isinstance(given, list) else [given])]
    for text in dict.fromkeys(one.strip() for one in written if isinstance(one, str)):
        items.caption(parent, text)


def _lines(root: Root, name: str) -> list[str] | None:
    """Return the lines of a small file without blank ones, or None if there is no file."""
    data = read_small(root, name, limit=_MAX_LISTS_BYTES)
    if data is None:
        return None
    text = decode_text(data, where=f"{root.place}/{name}")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _templates(root: Root) -> dict[str, str] | None:
    texts = _lines(root, TEMPLATES_FILE)
    known = {text: name for name, text in TEMPLATES.items()}
    return None if texts is None else template_ids(texts, TEMPLATES_FILE, known)


#: ``train-00000-of-00003.parquet``, as dataset hubs name their files.
_SHARD = re.compile(r"([A-Za-z_]+)-\d+-of-\d+(?:-\w+)?")


def _placed(table: ParquetCells, names: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, row in enumerate(table.rows(names, at_once=PATH_ROWS)):
        yield f"{table.where}, row {number:,}", row


def read_parquet(request: Request) -> Found:
    """List the images of a Parquet file, of every one below a folder, or of those at an address.

    A column of bytes, or of structs with a field ``bytes`` (as dataset hubs store images), is
    read from the file itself; a column of strings holds paths. The key is the id, else the path,
    else file and row.

    Raises
    ------
    ManifestError
        If a file is truncated or claims more than it can hold, or a row has no image.
    """
    root, files = locate(request.location, PARQUET)
    items, place = ItemCollector(request.dataset), root.place
    for file in files:
        with closing(root.open(file)) as source, closing(ParquetCells(source)) as table:
            # As the hub converts datasets: CONFIG/SPLIT/0000.parquet.
            split = split_of("/".join(file.split("/")[-2:]) if source.is_far else file)
            place = _add_images(items, table, file, split, request, root)
    return items.found(place)


def _add_images(
    items: ItemCollector,
    table: ParquetCells,
    file: str,
    split: str | None,
    request: Request,
    root: Root,
) -> Any:
    """Add the images of a table, and return the place that their uris are relative to."""
    names, features = table.schema.names, _features(table.schema)
    images = [name for name in names if features.get(name, {}).get("_type") == "Image"]
    first = images if len(images) == 1 else ()
    columns = choose_columns(names, request, table.where, first=first)
    items.use_label_names(features.get(columns.get("label", ""), {}).get("names"), table.where)
    image = columns["image"]
    cell = _bytes_column(table.schema, image)
    if cell is None and isinstance(root.place, Path):
        place = image_root(request, root.place / "table")
        list_paths(items, _placed(table, [*columns.values()]), columns, place, split=split)
        return place
    if cell is None:
        raise ManifestError(
            f"The column {image!r} of {table.where} holds paths. Put the images "
            "into the table, or read the table from the folder that they lie in."
        )
    others = [name for name in columns.values() if name != image]
    for number, row in enumerate(table.rows([cell, *others])):
        where, data = f"{file}, row {number:,}", only_field(row.pop(image))
        if not isinstance(data, bytes):
            raise ManifestError(
                f"{where} has no bytes in {cell!r}. Leave such rows out, or embed the files."
            )
        add_row(
            items, row, columns, uri=part_uri(file, f"{cell}#{number}"), where=where, split=split,
            key=f"{file.rpartition('.')[0]}/{number}", content_sha256=sha256_hex(data),
        )  # fmt: skip
    return root.place


def _bytes_column(schema: Any, name: str) -> str | None:
    """Return the column that holds an image's bytes, or None if `name` holds paths.

    Raises
    ------
    ManifestError
        If it holds neither.
    """
    types = arrow().types
    kind = schema.field(name).type
    if types.is_binary(kind) or types.is_large_binary(kind):
        return name
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return f"{name}.bytes"
    if types.is_string(kind) or types.is_large_string(kind):
        return None
    raise ManifestError(f"The column {name!r} of images holds {kind}; it must hold bytes or paths.")


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """Return what a hub's description says of each column, such as the names of its classes."""
    text = (schema.metadata or {}).get(b"huggingface", b"{}")
    document = parse_json(text, where="the feature description of a table", limit=_MAX_INFO_BYTES)
    for part in ("info", "features"):
        document = document.get(part) if isinstance(document, dict) else None
    found = document if isinstance(document, dict) else {}
    return {name: feature for name, feature in found.items() if isinstance(feature, dict)}


def split_of(file: str) -> str | None:
    """Return the split that a file's folder or name tells, or None."""
    found = _SHARD.fullmatch(Path(file).stem)
    word = split_name(found[1]) if found else None
    return split_folder(file) or (word if word in ("train", "val", "test") else None)


#: Descriptions of features with thousands of class names.
_MAX_INFO_BYTES = 16 * MAX_RECORD_BYTES
