"""The embeddings convention: what a Zarr group says of the vectors in it, stated and validated.

docs/embeddings-convention.md is the specification and ``embeddings.schema.json`` its schema. A set
of format 2 declares the convention beside ``featstore``; `validate` reads any Zarr v3 group that
does, whoever wrote it.
"""

from __future__ import annotations

import functools
import io
import json
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from featstore.errors import CorruptStoreError, UnknownSetError, needs_extra
from featstore.identity import HASHES, SHA256, canonical_json, hash_hex, sha256_hex
from featstore.remote.objects import Address, open_objects, parse_address
from featstore.store.files import MAX_JSON_BYTES, MAX_METADATA_BYTES, parse_json, read_regular
from featstore.store.layout import INTEGERS, from_bfloat16
from featstore.store.parquet_guard import unpack

if TYPE_CHECKING:
    from featstore.store.records import Commit

#: What identifies the convention; it never changes.
UUID = "eb7c9fe8-cf5c-4296-9b2f-2d95e0b1c7ab"

#: The attribute that holds the convention's properties, and its name.
KEY = "embeddings"

#: The attribute of the Zarr conventions framework that lists what a group conforms to.
CONVENTIONS = "zarr_conventions"

VERSION = 1

#: The JSON Schema of the attributes of a group.
SCHEMA = Path(__file__).with_name("embeddings.schema.json")

#: Properties whose absence is no fault, but noted.
SHOULD = ("weights_digest", "preprocessing", "revision")

DECLARATION = {
    "uuid": UUID,
    "name": KEY,
    "description": "Embeddings: one vector a row, with its model, space, items and revision",
}

#: What a column of an item table is for -> its name in the tables of Headstock.
_COLUMNS = {
    "split": "split", "class": "class_id", "parent": "parent_id", "text": "text",
    "location": "uri", "content_sha256": "content_sha256",
}  # fmt: skip

#: Facts of a text encoder's space that say what was done to a text.
_TEXT = ("prompt", "prefix", "lower_case", "max_seq_length", "max_length", "tokenizer_sha256")

#: A row that is said to be normalised has this norm, up to what the rounding to 8 bits changes.
_NORM, _TOLERANCE = 1.0, 0.01

#: A table or data file is not read whole above this size.
_MAX_BYTES = 2**33

#: Bytes of rows that are looked at together, where no record says how they are hashed.
_PIECE = 2**24


def declares(attributes: Any) -> bool:
    """Return whether the attributes of a group declare this convention."""
    stated = attributes.get(CONVENTIONS) if isinstance(attributes, dict) else None
    return isinstance(stated, list) and any(
        isinstance(one, dict) and one.get("uuid") == UUID for one in stated
    )


def properties(attributes: Mapping[str, Any], commit: Commit) -> dict[str, Any]:
    """Return what a set states under `KEY`: it follows from its attributes and its commit.

    Parameters
    ----------
    attributes : mapping
        ``attributes.featstore`` of the set.
    commit : Commit
        The current revision.
    """
    space, version = attributes["space"], attributes["facts"].get("manifest_revision")
    weights, layer, normalized = (space.get(k) for k in ("weights_sha256", "layer", "normalized"))
    of_text = {name: space[name] for name in _TEXT if name in space}
    preprocessing = space.get("preprocessing", of_text)
    source = attributes["dataset"]
    if isinstance(version, str) and version:
        source += f"@{version}"
    stated: dict[str, Any] = {
        "version": VERSION,
        "array": "embedding",
        "dimensions": commit.dim,
        "data_type": commit.dtype,
        "model": attributes["encoder"],
        "source_data": [source],
        "space": {"id": attributes["space_id"]},
        # Rows of a head lie in the space of its images, and have the norms that training gave them.
        "normalized": normalized is True and attributes["kind"] != "head_weight",
        "item_kind": attributes["kind"],
        "items": {
            "path": f"../{commit.items['file']}",
            "format": "parquet",
            "sha256": commit.items["sha256"],
            "key": "item_id",
            "columns": _COLUMNS,
        },
        "revision": {
            "id": commit.revision_id,
            "record": f"revisions/{commit.revision_id}.json",
        },
    }
    if isinstance(weights, str):
        stated["weights_digest"] = f"sha256:{weights}"
    if isinstance(layer, str):
        stated["space"]["layer"] = layer
    if isinstance(preprocessing, dict) and preprocessing:
        stated["preprocessing"] = preprocessing
    if commit.failed:
        blank: Any = 0 if commit.dtype in INTEGERS else "NaN"
        stated["missing_rows"] = {"count": commit.n_failed, "value": blank}
    if "bias/zarr.json" in commit.metadata:
        stated["bias"] = "bias"
    return stated


@dataclass(frozen=True)
class Fault:
    """What a group states and does not hold; `where` is a file, and in it an attribute or row."""

    where: str
    what: str


@dataclass
class Validation:
    """What the validation of a place found.

    Attributes
    ----------
    groups : list of str
        The groups that declare the convention, below the place; ``.`` is the place itself.
    faults : list of Fault
        What breaks a MUST.
    notes : list of Fault
        What falls short of a SHOULD.
    """

    groups: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    notes: list[Fault] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every MUST is kept."""
        return not self.faults

    def as_dict(self) -> dict[str, Any]:
        """Return what ``featstore validate --json`` prints."""
        return {
            "ok": self.ok,
            "groups": self.groups,
            "faults": [vars(fault) for fault in self.faults],
            "notes": [vars(note) for note in self.notes],
        }


def validate(place: Path | str) -> Validation:
    """Compare the groups at a place that declare the convention with its schema and their arrays.

    Parameters
    ----------
    place : Path or str
        A Zarr v3 group, or a folder, bucket or store with such groups below it; a path, or an
        address such as ``s3://team/features``.

    Raises
    ------
    UnknownSetError
        If nothing there declares the convention.
    RemoteStoreError
        If an address cannot be read.
    MissingPackageError
        If jsonschema is missing.

    Examples
    --------
    >>> key = toy_store("store")["image"]
    >>> validate(f"store/{key}").ok
    True
    """
    found = parse_address(place)
    files: _Files = _Remote(found) if isinstance(found, Address) else _Local(found)
    schema, result = _schema(), Validation()
    for group in files.groups():
        result.groups.append(group)
        _Group(files, group, result).run(schema)
    if not result.groups:
        raise UnknownSetError(
            f"Nothing at {place} declares the embeddings convention (uuid {UUID} in "
            "zarr_conventions). docs/embeddings-convention.md says how a group declares it."
        )
    return result


class _Local:
    """The files below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def groups(self) -> Iterator[str]:
        for path in sorted(self.root.rglob("zarr.json")):
            group = path.parent.relative_to(self.root).as_posix()
            if self.declares(group):
                yield group

    def declares(self, group: str) -> bool:
        try:
            document = parse_json(
                self.read(f"{group}/zarr.json", limit=MAX_METADATA_BYTES), where=group
            )
        except (OSError, CorruptStoreError):
            return False
        return isinstance(document, dict) and declares(document.get("attributes"))

    def read(self, name: str, *, limit: int) -> bytes:
        """Return a file of at most `limit` bytes; `name` may lead above the place."""
        return read_regular(self.root / name, limit=limit)

    def array(self, name: str) -> Any:
        """Return a Zarr v3 array, of which nothing is read yet."""
        import zarr

        return zarr.open_array(str(self.root / name), mode="r", zarr_format=3)


class _Remote(_Local):
    """The files below an address."""

    def __init__(self, address: Address) -> None:
        self._address = address

    def groups(self) -> Iterator[str]:
        if self.declares("."):
            yield "."
            return
        try:  # a web server cannot list, but a store has a catalog
            catalog = json.loads(self.read("catalog.json", limit=MAX_JSON_BYTES))
            names = [one["key"] for one in catalog["sets"]]
        except (FileNotFoundError, ValueError, LookupError, TypeError):
            listed = [name for name, _ in open_objects(self._address).names()]
            names = [posixpath.dirname(name) for name in listed if name.endswith("/zarr.json")]
        yield from filter(self.declares, sorted(names))

    def read(self, name: str, *, limit: int) -> bytes:
        whole = posixpath.normpath(posixpath.join("/", self._address.path, name)).strip("/")
        above, _, file = whole.rpartition("/")
        url = f"{self._address.scheme}://{self._address.host}/{above}".rstrip("/")
        base = replace(self._address, path=above, url=url)
        return open_objects(base).read(file, limit=limit)

    def array(self, name: str) -> Any:
        import zarr
        from zarr.core.buffer import default_buffer_prototype
        from zarr.storage import MemoryStore

        # Of a shard index and blocks are asked for one by one: the last files are kept.
        @functools.lru_cache(maxsize=2)
        def fetched(key: str) -> Any:
            try:
                data = self.read(f"{name}/{key}", limit=_MAX_BYTES)
            except FileNotFoundError as err:
                raise KeyError(key) from err
            return default_buffer_prototype().buffer.from_bytes(data)

        class Fetched(dict[str, Any]):
            """Files by name, fetched whole when they are asked for."""

            def __getitem__(self, key: str) -> Any:
                return fetched(key)

        return zarr.open_array(MemoryStore(Fetched(), read_only=True), mode="r", zarr_format=3)


_Files = _Local | _Remote


@functools.cache
def _schema() -> Any:
    with needs_extra("Validating the embeddings convention"):
        from jsonschema import Draft202012Validator
    return Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))


class _Group:
    """The check of one group."""

    def __init__(self, files: _Files, group: str, result: Validation) -> None:
        self._files, self._name, self._result = files, group, result

    def _path(self, name: str) -> str:
        return posixpath.normpath(posixpath.join(self._name, name))

    def _fault(self, name: str, what: str) -> None:
        self._result.faults.append(Fault(self._path(name), what))

    def _note(self, name: str, what: str) -> None:
        self._result.notes.append(Fault(self._path(name), what))

    def _read(self, name: str, limit: int) -> bytes | None:
        try:
            return self._files.read(self._path(name), limit=limit)
        except (FileNotFoundError, NotADirectoryError):
            self._fault(name, "is missing")
        except (CorruptStoreError, IsADirectoryError, PermissionError) as err:
            self._fault(name, f"cannot be read: {err}")
        return None

    def run(self, schema: Any) -> None:
        """Compare the attributes with the schema, then with array, items and record."""
        data = self._read("zarr.json", MAX_METADATA_BYTES)
        document = parse_json(data or b"{}", where=self._path("zarr.json"))
        attributes = document.get("attributes", {})
        wrong = sorted(schema.iter_errors(attributes), key=lambda one: list(map(str, one.path)))
        for one in wrong:
            where = ".".join(map(str, ["attributes", *one.path]))
            self._fault("zarr.json", f"{where}: {one.message[:200]}")
        if document.get("node_type") != "group" or document.get("zarr_format") != 3:
            self._fault("zarr.json", "is not the metadata of a Zarr v3 group")
        if wrong:
            return  # what has another form cannot be compared
        stated = attributes[KEY]
        for name in SHOULD:
            if name not in stated:
                self._note("zarr.json", f"attributes.{KEY}.{name} should be stated")
        array = self._array(stated)
        if array is not None:
            self._check_items(stated["items"], array.shape[0])
            self._check_rows(stated, array, self._record(stated, array))
            if "bias" in stated:
                self._check_bias(stated["bias"], array.shape[0])

    def _open(self, name: str) -> Any:
        try:
            return self._files.array(self._path(name))
        except (OSError, ValueError, KeyError, TypeError) as err:
            self._fault(name, f"is not a Zarr v3 array that can be opened: {err}")
            return None

    def _array(self, stated: Mapping[str, Any]) -> Any:
        """Return the array of the vectors if it has the shape and type that are stated."""
        name, dtype = stated["array"], stated["data_type"]
        array = self._open(name)
        if array is None:
            return None
        if array.ndim != 2 or array.shape[1] != stated["dimensions"]:
            want = f"(n, {stated['dimensions']})"
            self._fault(name, f"has shape {array.shape}; dimensions says {want}")
            return None
        if array.dtype.name not in (dtype, "uint16" if dtype == "bfloat16" else dtype):
            self._fault(name, f"has the data type {array.dtype.name}; data_type says {dtype}")
            return None
        return array

    def _check_items(self, items: Mapping[str, Any], n: int) -> None:
        name = items["path"]
        data = self._read(name, _MAX_BYTES)
        if data is None:
            return
        if sha256_hex(data) != items["sha256"]:
            self._fault(name, "has another sha256 than items.sha256")
        try:
            if items["format"] == "csv":
                table = pl.read_csv(io.BytesIO(data), infer_schema=False)
            else:
                table = unpack(data, rows=n)
        except (ValueError, pl.exceptions.PolarsError) as err:
            self._fault(name, f"is not {items['format']}: {err}")
            return
        if table.height != n:
            self._fault(name, f"has {table.height:,} rows; the array has {n:,}")
        key = items["key"]
        if key not in table.columns:
            self._fault(name, f"has no column {key!r}, which items.key names")
        elif table[key].null_count() or table[key].n_unique() < table.height:
            self._fault(name, f"does not have another {key!r} in every row")
        for role, column in items.get("columns", {}).items():
            if column not in table.columns:
                self._note(name, f"has no column {column!r}, which items.columns.{role} names")

    def _record(self, stated: Mapping[str, Any], array: Any) -> Mapping[str, Any]:
        """Return the record of the revision if it is the one that is stated, else an empty one."""
        name = stated.get("revision", {}).get("record")
        data = None if name is None else self._read(name, MAX_JSON_BYTES)
        if data is None:
            return {}
        try:
            record = parse_json(data, where=name)
            same = sha256_hex(canonical_json(record)) == stated["revision"]["id"]
        except (CorruptStoreError, ValueError) as err:
            self._fault(name, f"is not JSON: {err}")
            return {}
        if not same:
            self._fault(name, "does not hash to revision.id")
            return {}
        if not isinstance(record, dict) or not _hashes_rows(record):
            return {}
        if (record["n"], record["dim"]) != array.shape:
            self._fault(name, f"is of shape ({record['n']}, {record['dim']}), not {array.shape}")
            return {}
        return record

    def _check_rows(self, stated: Mapping[str, Any], array: Any, record: Mapping[str, Any]) -> None:
        """Read every row once: hashes, missing rows, values that are no number, and norms."""
        name, bits = stated["array"], stated["data_type"] == "bfloat16"
        row_bytes = array.dtype.itemsize * array.shape[1]
        step = record.get("block_rows") or max(1, _PIECE // row_bytes)
        missing = stated.get("missing_rows", {"count": 0, "value": "NaN"})
        n_blank = 0
        told: set[str] = set()
        for start in range(0, array.shape[0], step):
            try:
                stored = np.ascontiguousarray(array[start : start + step])
            except (OSError, ValueError, RuntimeError) as err:
                self._fault(name, f"cannot be read from row {start:,}: {err}")
                return
            little = stored.astype(stored.dtype.newbyteorder("<"), copy=False)
            if record:
                found = hash_hex(record.get("hash", SHA256), little.data.cast("B"))
                if found != record["blocks"][start // step]:
                    self._fault(name, f"has other rows from {start:,} than its record says")
            rows = from_bfloat16(stored) if bits and stored.dtype == np.uint16 else stored
            blank = (np.isnan(rows) if missing["value"] == "NaN" else rows == 0).all(axis=1)
            n_blank += int(blank.sum())
            for what, row in _odd_rows(rows[~blank], normalized=stated["normalized"]):
                if what not in told:
                    told.add(what)
                    self._fault(name, f"row {start + int(np.flatnonzero(~blank)[row]):,} {what}")
        # A row of zeros may be an embedding of a type that holds whole numbers.
        if n_blank < missing["count"] or (n_blank > missing["count"] and missing["value"] == "NaN"):
            count = f"missing_rows.count is {missing['count']:,}"
            self._fault(name, f"has {n_blank:,} rows of {missing['value']}; {count}")

    def _check_bias(self, name: str, n: int) -> None:
        bias = self._open(name)
        if bias is not None and bias.shape != (n,):
            self._fault(name, f"has shape {bias.shape}; the array has {n:,} rows")


def _hashes_rows(record: Mapping[str, Any]) -> bool:
    """Return whether a record holds the hash of every block of rows."""
    sizes = [record.get(name) for name in ("n", "dim", "block_rows")]
    blocks, name = record.get("blocks"), record.get("hash", SHA256)
    if not all(type(size) is int and size > 0 for size in sizes) or not isinstance(blocks, list):
        return False
    return name in HASHES and len(blocks) == -(-record["n"] // record["block_rows"])


def _odd_rows(rows: np.ndarray, *, normalized: bool) -> Iterator[tuple[str, int]]:
    """Yield what is wrong with present rows, (n, d), and the first row of which it is true."""
    if not np.issubdtype(rows.dtype, np.floating):
        return
    odd = ~np.isfinite(rows).all(axis=1)
    if odd.any():
        yield "holds NaN or Inf", int(odd.argmax())
    if normalized:
        length = np.linalg.norm(rows.astype(np.float64), axis=1)
        # A vector of zeros has no direction: normalising leaves it as it is.
        long = (np.abs(length - _NORM) > _TOLERANCE) & (length > 0) & ~odd
        if long.any():
            yield f"has norm {length[long.argmax()]:.3g}; normalized says 1", int(long.argmax())
