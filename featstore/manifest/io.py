"""Read and write manifests; how the files of one take their places together.

    .building/new/…     files that are being made, by the names that they will have
    .building/ready     all of them are whole; lists the files that the new manifest replaces

Until ``ready`` is there, nothing outside ``.building`` has changed, and whatever a killed process
left is thrown away. From then on every move can be done again: the next command does the rest.
"""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import polars as pl
import tomli_w

from featstore.address import Address, parse_address
from featstore.durable import fsync_path, remove_tree, write_durably
from featstore.errors import ManifestError
from featstore.identity import sha256_hex
from featstore.manifest.manifest import (
    CLASSES,
    DATA_ROOT,
    FACTS_FILE,
    KINDS,
    SPLITS,
    Manifest,
    conform_classes,
    conform_items,
    validate_classes,
    validate_items,
)
from featstore.manifest.paths import (
    item_hashes,
    path_fault,
    require_hashes,
    resolve_inside,
)
from featstore.store.parquet_guard import table_bytes, unpack

#: Folder inside that of a manifest, there only while one is made.
STAGING = ".building"

_NEW, _READY, _STAGED = "new", "ready", "ready.staged"

#: A larger file of facts is refused before it is read.
MAX_FACTS_BYTES = 4 * 2**20


@contextmanager
def building(folder: Path) -> Iterator[Path]:
    """Yield an empty folder inside `folder` for new files; `publish` moves them out of it.

    Afterwards it is gone, and so is a `folder` that holds nothing.

    Raises
    ------
    ManifestError
        If the file system refuses.
    """
    staging = folder / STAGING
    with _refusals(folder):
        folder.mkdir(parents=True, exist_ok=True)
        settle(folder)
        remove_tree(staging)
        if staging.is_dir():
            shutil.rmtree(staging)  # says why it stays
        (staging / _NEW).mkdir(parents=True)
    try:
        yield staging / _NEW
    finally:
        if not (staging / _READY).exists():
            remove_tree(staging)
            with suppress(OSError):  # it holds something, or another `building` inside removed it
                folder.rmdir()


def publish(folder: Path, files: Mapping[str, bytes], *, replaced: Iterable[str] = ()) -> None:
    """Write `files`, and move them and what else `building` made to their places, the facts last.

    Parameters
    ----------
    files : mapping of str to bytes
        By name, relative to `folder`.
    replaced : iterable of str
        Files of the earlier manifest, relative to `folder`, that are removed in the end.

    Raises
    ------
    ManifestError
        If the file system refuses.
    """
    staging = folder / STAGING
    with _refusals(folder):
        for name, data in files.items():
            write_durably(staging / _NEW / name, [data])
        names = "".join(f"{name}\n" for name in replaced).encode()
        write_durably(staging / _READY, [names], staged=staging / _STAGED)
        settle(folder)


def settle(folder: Path) -> None:
    """Complete a publication that was interrupted in `folder`, if there is one.

    Raises
    ------
    ManifestError
        If a file would be moved or removed outside `folder`, or the file system refuses.
    """
    staging = folder / STAGING
    with _refusals(folder):
        if staging.is_symlink() or not (staging / _READY).is_file():
            return
        replaced = (staging / _READY).read_text(encoding="utf-8").splitlines()
        made = {
            path.relative_to(staging / _NEW).as_posix(): path
            for path in (staging / _NEW).rglob("*")
            if not path.is_dir()
        }
        places = {name: _inside(folder, name) for name in (*made, *replaced)}
        for name in sorted(made, key=lambda name: (name == FACTS_FILE, name)):
            places[name].parent.mkdir(parents=True, exist_ok=True)
            made[name].replace(places[name])
        for name in replaced:
            places[name].unlink(missing_ok=True)
        fsync_path(folder)
        shutil.rmtree(staging)


def _inside(folder: Path, name: str) -> Path:
    """Return the place of a file in `folder`, which need not be there."""
    fault = path_fault(name)
    if fault is None and not (folder / name).parent.resolve().is_relative_to(folder.resolve()):
        fault = "a symbolic link leads out of the folder"
    if fault is not None:
        raise ManifestError(
            f"{folder / STAGING} names the file {name!r}, but {fault}. Nothing was moved; remove "
            f"{folder / STAGING}, or choose an empty or new folder."
        )
    return folder / name


def take_folder(folder: Path, name: str) -> None:
    """Make sure that `folder` is free for a manifest called `name`, and complete what is there.

    Free is a folder that does not exist, is empty, or holds a manifest of this name; what a
    killed process left in it beside, or alone, is put in order.

    Raises
    ------
    ManifestError
        If the folder holds anything else.
    """
    settle(folder)
    staging = folder / STAGING
    with _refusals(folder):
        if not folder.exists() or all(path == staging for path in folder.iterdir()):
            return
        if not (folder / FACTS_FILE).is_file():
            raise ManifestError(
                f"{folder} holds files that are no manifest. Choose an empty or new folder."
            )
        held = read_facts(folder).get("name")
        if held != name:
            raise ManifestError(
                f"{folder} holds the dataset {held!r}, not {name!r}. Choose another folder."
            )
        remove_tree(staging)


def read_facts(folder: Path) -> dict[str, Any]:
    """Return what dataset.toml in `folder` says, without reading any table.

    Raises
    ------
    ManifestError
        If the folder or the file is missing, or the file is too large or not TOML.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise ManifestError(
            f"{folder} {what}. `headstock data make` makes a manifest of your own files, "
            "`headstock data build` one of a known dataset."
        )
    if not (folder / FACTS_FILE).is_file():
        raise ManifestError(
            f"{folder} is not a manifest: it has no {FACTS_FILE}. `headstock data make {folder}` "
            "makes one of its files; a `headstock data build` that was interrupted is typed again."
        )
    data = read_bytes(folder, FACTS_FILE, MAX_FACTS_BYTES)
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as err:
        raise ManifestError(
            f"{folder / FACTS_FILE} is not TOML: {err}. Correct it, or build the dataset again."
        ) from err


def read_bytes(folder: Path, file: str, limit: int) -> bytes:
    """Return the bytes of a file in the folder of a manifest.

    Raises
    ------
    ManifestError
        If it is no regular file inside, cannot be read, or has more than `limit` bytes.
    """
    path = resolve_inside(folder, file)
    try:
        size = path.stat().st_size
        if size > limit:
            raise ManifestError(f"{path} has {size:,} bytes; more than {limit:,} are not read.")
        return path.read_bytes()
    except OSError as err:
        raise ManifestError(f"Cannot read {path}: {err.strerror or err}.") from err


@contextmanager
def _refusals(folder: Path) -> Iterator[None]:
    """Turn what the file system refuses into a ManifestError."""
    try:
        yield
    except OSError as err:
        if folder.exists() and not folder.is_dir():
            raise ManifestError(f"{folder} is not a folder. Choose another one.") from err
        raise ManifestError(
            f"Cannot write into {folder}: {err.strerror or err}. Free space or choose another "
            "folder."
        ) from err


def toml_text(facts: Mapping[str, Any]) -> str:
    """Return `facts` as TOML: plain values first, then one table a nested mapping.

    The same facts in the same order give the same text, and `tomllib` reads it back as they were.

    Raises
    ------
    ManifestError
        If a value is nothing that TOML has (None, bytes), or a text not Unicode.
    """
    try:
        text = tomli_w.dumps(facts)
        text.encode()  # not half of a surrogate pair
    except (TypeError, ValueError) as err:
        raise ManifestError(
            f"dataset.toml cannot hold the facts {[*facts]}: {err}. Give strings, numbers, "
            "booleans, dates, lists of those and mappings."
        ) from err
    return text


#: Facts that are not the caller's to give.
_COMPUTED = ("counts", "tables", DATA_ROOT)

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


def write_manifest(
    root: Path | str,
    *,
    facts: Mapping[str, Any],
    tables: Mapping[str, pl.DataFrame],
    classes: pl.DataFrame | None = None,
    data_root: Path | Address | None = None,
    made: Path | None = None,
    replaced: Iterable[str] = (),
) -> Manifest:
    """Validate tables, complete their content hashes, and write them below `root`.

    The files that uris name must lie there already. Each table becomes ``<kind>.parquet`` (same
    rows, same bytes), the label set ``classes.parquet``; ``dataset.toml`` takes its place last and
    holds their sha256, so an interrupted write is seen by the next reader, and completed by the
    next writer. Nothing is written unless everything is valid. Tables of an earlier manifest that
    are not among these are removed.

    Parameters
    ----------
    root : Path
        Folder of the manifest; made if need be.
    facts : mapping
        At least ``name``: lower-case letters, digits, ``_`` and ``-``. ``counts`` and
        ``tables`` are computed.
    tables : mapping
        Item table by kind; missing columns become null, content_sha256 is computed anew.
    classes : DataFrame, optional
        The label set.
    data_root : Path or Address, optional
        Folder or address that uris are relative to, if it is not `root`; recorded as a fact.
        Nothing is written there, and nothing is asked of an address.
    made : Path, optional
        The folder of `featstore.manifest.io.building` in `root` where the files that uris name
        were made, if they are not below `root` yet; they take their places with the tables.
    replaced : iterable of str
        Files below `root` that nothing needs once the new manifest is there.

    Returns
    -------
    Manifest
        What a reader will see.

    Raises
    ------
    ManifestError
        If a rule is broken (see `validate_items`, `validate_classes`), a fact cannot be
        written, or the file system refuses.

    Examples
    --------
    >>> captions = item_table(["a", "b"], "caption", text=["a wren", "two owls"])
    >>> write_manifest("birds", facts={"name": "birds"}, tables={"caption": captions}).name
    'birds'
    """
    folder = Path(root)
    name = check_name(facts.get("name"))
    labels = None if classes is None else conform_classes(classes)
    if labels is not None:
        validate_classes(labels)
    files = (made or folder) if data_root is None else data_root.resolve()
    validate_items(tables, labels, root=files)
    complete = {}
    for kind in (kind for kind in KINDS if kind in tables):
        table = conform_items(tables[kind], kind)
        require_hashes(table, kind, every=isinstance(files, Address))
        complete[kind] = table.with_columns(item_hashes(files, table))
    named = {**complete, **({} if labels is None else {CLASSES: labels})}
    data = {
        f"{stem}.parquet": table_bytes(table, row_group_size=2**17) for stem, table in named.items()
    }
    whole = {
        **{key: value for key, value in facts.items() if key not in _COMPUTED},
        **({} if data_root is None else {DATA_ROOT: str(files)}),
        "counts": {kind: split_counts(table) for kind, table in complete.items()},
        "tables": {
            stem: {"rows": table.height, "sha256": sha256_hex(data[f"{stem}.parquet"])}
            for stem, table in named.items()
        },
    }
    text = toml_text(whole)
    data[FACTS_FILE] = text.encode("utf-8")
    gone = [f"{stem}.parquet" for stem in (*KINDS, CLASSES) if stem not in named]
    with building(folder) if made is None else nullcontext():
        publish(folder, data, replaced=[*replaced, *gone])
    lie = folder if data_root is None else files
    return Manifest(name, lie, tomllib.loads(text), complete, labels)


def check_name(name: object) -> str:
    """Return a dataset's name, which becomes a folder of the store.

    Raises
    ------
    ManifestError
        If it is not 1 to 64 lower-case letters, digits, ``_`` or ``-``.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ManifestError(
            f"The dataset's name is {name!r}. It must be 1 to 64 lower-case letters, digits, _ or "
            "-, beginning with a letter or digit, because it becomes a folder of the store."
        )
    return name


def split_counts(table: pl.DataFrame) -> dict[str, int]:
    """Return the number of items by split, then ``total``; items without split are ``unsplit``."""
    counts = dict(table["split"].fill_null("unsplit").value_counts().iter_rows())
    order = [split for split in SPLITS if split in counts]
    order += sorted(split for split in counts if split not in SPLITS)
    return {**{split: counts[split] for split in order}, "total": table.height}


#: Larger tables are refused before they are read.
MAX_TABLE_BYTES = 8 * 2**30


def read_manifest(root: Path | str, *, unchecked: bool = False) -> Manifest:
    """Read and validate the manifest in the folder `root`.

    ``dataset.toml`` needs a ``name``. If it lists ``tables`` (as `write_manifest` does), those
    are read and their sha256 must agree; else (a manifest made by hand) every ``.parquet`` beside
    it is. Uris are relative to the folder, or to the ``data_root`` that the facts name; items that
    lie there must have a content hash, and nothing but bytes of that hash is ever read for them.

    Parameters
    ----------
    root : Path
        Folder with dataset.toml, ``<kind>.parquet`` and, if items have classes, classes.parquet.
    unchecked : bool
        Do not look for the files that uris name. Whoever reads them calls
        `Manifest.check_files` before.

    See Also
    --------
    featstore.sources.check_bytes : also reads every file, and compares its content hash.

    Raises
    ------
    ManifestError
        If the folder is no manifest, a file cannot be read or differs from the facts, or a
        rule is broken (see `validate_items`, `validate_classes`).

    Examples
    --------
    >>> made = toy_manifest("birds", 4)
    >>> read_manifest("birds").items("image").height
    4
    """
    folder = Path(root)
    facts = read_facts(folder)
    name = check_name(facts.get("name"))
    found = {stem: _read_table(folder, stem, facts) for stem in _stems(folder, facts)}
    classes = found.pop(CLASSES, None)
    if classes is not None:
        classes = conform_classes(classes)
        validate_classes(classes)
    files = _data_root(folder, facts)
    validate_items(found, classes, root=None if unchecked else files)
    tables = {kind: conform_items(found[kind], kind) for kind in KINDS if kind in found}
    for kind, table in tables.items():
        require_hashes(table, kind, every=files != folder)
    return Manifest(name, files, facts, tables, classes, unchecked)


def _data_root(folder: Path, facts: Mapping[str, Any]) -> Path | Address:
    """Return the folder or address that uris are relative to."""
    if DATA_ROOT not in facts:
        return folder
    given = facts[DATA_ROOT]
    if not isinstance(given, str) or not given or "\0" in given:
        raise ManifestError(
            f"{DATA_ROOT} of {folder / FACTS_FILE} is {given!r}; it must be the path of a folder."
        )
    given = parse_address(given)
    if isinstance(given, Address):
        return given
    files = (folder / given).resolve()
    if not files.is_dir():
        raise ManifestError(
            f"The files of {folder} are said to lie in {files}, which is no folder. Correct "
            f"{DATA_ROOT} in {FACTS_FILE}, or make the manifest again."
        )
    return files


def _stems(folder: Path, facts: Mapping[str, Any]) -> Iterable[str]:
    """Return the names of the tables: those that the facts list, else those that lie there."""
    if "tables" not in facts:
        return sorted(path.stem for path in folder.glob("*.parquet"))
    listed = facts["tables"]
    known = (*KINDS, CLASSES)
    right = isinstance(listed, dict) and all(
        stem in known and isinstance(entry, dict) and isinstance(entry.get("sha256"), str)
        for stem, entry in listed.items()
    )
    if not right:
        raise ManifestError(
            f"The tables of {folder / FACTS_FILE} are not lists of rows and sha256 by kind. Known "
            f"names: {', '.join(known)}. Leave the section out in a manifest made by hand."
        )
    return list(listed)


def _read_table(folder: Path, stem: str, facts: Mapping[str, Any]) -> pl.DataFrame:
    file = f"{stem}.parquet"
    stated = facts.get("tables", {}).get(stem, {})
    rows = stated["rows"] if type(stated.get("rows")) is int else 0
    try:
        # Held by nobody here: the table is moved together once its file is let go.
        return unpack(_verified(folder, file, stated.get("sha256")), rows=rows)
    except ManifestError:
        raise
    except ValueError as err:
        raise ManifestError(
            f"{folder / file} is not a readable Parquet file: {err}. Build the dataset again."
        ) from err


def _verified(folder: Path, file: str, sha256: str | None) -> bytes:
    """Return the bytes of a table's file, which must have this hash if one is stated."""
    data = read_bytes(folder, file, MAX_TABLE_BYTES)
    if sha256 is not None and sha256_hex(data) != sha256:
        raise ManifestError(
            f"{folder / file} differs from the sha256 in {FACTS_FILE}: it was changed, or writing "
            "was interrupted. Build the dataset again."
        )
    return data
