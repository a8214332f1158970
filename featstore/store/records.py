"""Records of a store that never change: the commits of its sets, and tags.

A record from a stranger may name any file and any size. Whatever passes here is a plain value
of the right type, a name that stays inside its set, and a size that arithmetic can hold.

A commit is the only thing that makes rows readable. It names the set, the number of rows, the hash
of each block's valid rows, the items, the failed rows, the small files, and the revisions: sets
only grow, so each is the first rows of the set as it is now. The log names the commit of each set
by its sha256, which is the id of the revision that it was written for.

A tag names itself, and revisions by the hashes of their commits, so whoever opens a store by a tag
reads the same bytes wherever it lies.

Every record carries its format, and there is one.

What a set says to readers of Zarr, its ``zarr.json`` files, follows from the commit; our own
readers need none of them. A set whose only part is `FIRST` declares the convention for embeddings
that docs/ref/convention.md and ``embeddings.schema.json`` specify.
"""

from __future__ import annotations

import base64
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from featstore.durable import (
    MAX_JSON_BYTES,
    MAX_METADATA_BYTES,
    Facts,
    Sha256,
    json_bytes,
    parse_json,
    read_json,
    read_regular,
)
from featstore.errors import (
    CorruptStoreError,
    FeatstoreError,
    FormatVersionError,
)
from featstore.identity import (
    HASHES,
    SHA256,
    SHORT,
    canonical_json,
    hash_hex,
    sealed,
    sha256_hex,
)
from featstore.store.layout import (
    COMPONENT,
    DTYPES,
    FORMAT,
    INTEGERS,
    ArrayLayout,
    Attributes,
    SetKey,
    SetLayout,
    SetSpec,
    array_metadata,
    check_component,
    group_metadata,
    is_shard,
    vector_metadata,
)

#: Bounds of a set: far above any real one, far below where sizes overflow.
MAX_ROWS = 2**40
MAX_DIM = 2**24
MAX_BLOCK_ROWS = 2**24

#: Revisions of a set, at most.
MAX_HISTORY = MAX_METADATA_BYTES // 64

_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_format(found: Any, *, where: str) -> None:
    """Raise if a document's format is missing or not the one that this version reads."""
    if type(found) is not int or found < 1:
        raise CorruptStoreError(
            f"{where} states no store format. It is not a Headstock store, or is damaged."
        )
    if found != FORMAT:
        raise FormatVersionError(
            f"{where} has store format {str(found)[:20]}; this headstock reads format {FORMAT} "
            "alone. Upgrade headstock, or extract or pull the store again."
        )


def one_of(*names: str) -> str:
    """Return the pattern of one of these names."""
    return rf"\A({'|'.join(map(re.escape, names))})\Z"


# What a record states, in which form: a record that is read is held against these.

RowCount = Annotated[int, Meta(ge=1, le=MAX_ROWS)]

#: A file of a set: neither data nor what names the commit.
FileName = Annotated[
    str,
    Meta(pattern=rf"\A(?!(revisions|runs|zarr\.json)(/|\Z)){COMPONENT}(/{COMPONENT}){{0,3}}\Z"),
]


class Items(Facts):
    """What it states of an item table."""

    file: Annotated[str, Meta(pattern=rf"\A{COMPONENT}\Z")]
    chunks: Annotated[list[Sha256], Meta(min_length=1)]


class Table(Items):
    """What it states of one that only history names."""

    n: RowCount


#: Where the first part of a set lies, unless it is a later one's: an array by itself.
FIRST = "embedding"

REVISIONS = "revisions"

#: The file of a head's bias.
BIAS = "bias/c/0"


@dataclass(frozen=True)
class Part:
    """Rows that were written together, and never change.

    Attributes
    ----------
    path : str
        Of its array, below the set.
    n, shard_rows : int
        Its rows, and those of a data file; 0 where one plain chunk holds the array.
    blocks : tuple of str
        Hash of each block's rows, as stored.
    items : Items
        Its item table.
    """

    path: Annotated[str, Meta(pattern=rf"\A{FIRST}(/[0-9a-f]{{16}})?\Z")]
    n: RowCount
    shard_rows: Annotated[int, Meta(ge=0, le=MAX_ROWS)]
    blocks: tuple[Sha256, ...]
    items: Items


class Revision(NamedTuple):
    """A state of a set: its first rows.

    Attributes
    ----------
    id : str
        The revision_id.
    n : int
        Its rows.
    recovered : tuple of int
        Those that had no embedding then, and have one now.
    tables : tuple of Table
        Where what is known of its items was changed since: their tables, each with its rows ``n``.
    """

    id: Sha256
    n: RowCount
    recovered: tuple[Annotated[int, Meta(ge=0)], ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Commit:
    """A set as it lies, at its present revision or at one before.

    Attributes
    ----------
    dim, dtype : int, str
        Of its rows, as stored.
    block_rows : int
        Rows of a block.
    parts : tuple of Part
        Its rows, in order.
    metadata : dict
        Relative path of each small file of the set -> its bytes and sha256.
    attributes : Attributes
        What the set is.
    sequence : int
        One more than that of the commit that this one was made from; 1 of the first.
    history : tuple of Revision
        Those that can be read, the oldest first; the present one only if it was written anew.
    failed : str
        Base64 of the packed bits of rows that have no embedding; empty if there is none.
    hash : str
        What the hashes of the blocks are, one of `featstore.identity.HASHES`.
    format : int
        The store format of the record.
    past : Revision, optional
        The revision that is read, if it is not the present one; no part of the record.
    """

    dim: Annotated[int, Meta(ge=1, le=MAX_DIM)]
    dtype: Annotated[str, Meta(pattern=one_of(*DTYPES))]
    block_rows: Annotated[int, Meta(ge=1, le=MAX_BLOCK_ROWS)]
    parts: Annotated[tuple[Part, ...], Meta(min_length=1)]
    metadata: dict[FileName, Facts]
    attributes: Attributes
    sequence: RowCount = 1
    history: Annotated[tuple[Revision, ...], Meta(max_length=MAX_HISTORY)] = ()
    failed: str = ""
    hash: Annotated[str, Meta(pattern=one_of(*HASHES))] = SHA256
    format: int = FORMAT
    past: Revision | None = None

    def record(self) -> dict[str, Any]:
        """Return the record as a document."""
        stated = {name: getattr(self, name) for name in self.__dataclass_fields__}
        del stated["past"]
        return {**stated, "parts": [vars(part) for part in self.parts]}

    def block_hash(self, data: bytes | memoryview) -> str:
        """Return the hash of a block's rows, to be compared with that of `blocks`."""
        return hash_hex(self.hash, data)

    @functools.cached_property
    def digest(self) -> str:
        """Sha256 of the record's canonical JSON: what the log knows the set by."""
        return sha256_hex(canonical_json(self.record()))

    @functools.cached_property
    def revisions(self) -> tuple[Revision, ...]:
        """Every revision that can be read, the oldest first, the present one last."""
        n = self.layout.n
        if self.history and self.history[-1] == Revision(self.history[-1].id, n):
            return self.history
        return (*self.history, Revision(self.digest, n))

    @property
    def revision(self) -> Revision:
        """The one that is read."""
        return self.past or self.revisions[-1]

    @property
    def revision_id(self) -> str:
        """Id of the revision that is read: the digest of the commit that it was written with."""
        return self.revision.id

    def at(self, revision_id: str) -> Commit:
        """Return the set at one of its revisions."""
        return replace(self, past={one.id: one for one in self.revisions[:-1]}.get(revision_id))

    @property
    def spec(self) -> SetSpec:
        """What the set is."""
        own = self.attributes
        named = (own["dataset"], own["kind"], own["encoder"], own["space"])
        return SetSpec(*named, self.dtype, own["precision"])

    @property
    def space_id(self) -> str:
        """Id of the embedding space."""
        return str(self.attributes["space_id"])

    @property
    def set_id(self) -> str:
        """Id of the set."""
        return str(self.attributes["set_id"])

    @property
    def published(self) -> tuple[str, ...]:
        """Ids of this revision and those before it, the newest first."""
        ids = [one.id for one in self.revisions]
        return tuple(reversed(ids[: ids.index(self.revision_id) + 1]))

    @property
    def n(self) -> int:
        """Number of rows. Readers take it from here, never from the shape of an array."""
        return self.revision.n

    @property
    def tables(self) -> list[Table]:
        """The item tables, in order, each with its rows ``n``: together, no fewer than `n`."""
        return [*self.revision.tables] or [Table(n=part.n, **part.items) for part in self.parts]

    @functools.cached_property
    def blocks(self) -> tuple[str, ...]:
        """Hash of each block of all parts."""
        return tuple(block for part in self.parts for block in part.blocks)

    @functools.cached_property
    def by_rows(self) -> dict[tuple[int, int], str]:
        """First row of each block, and the one behind its last -> its hash."""
        rows = map(self.layout.block_slice, range(self.layout.n_blocks))
        return {(one.start, one.stop): it for one, it in zip(rows, self.blocks, strict=True)}

    @functools.cached_property
    def layout(self) -> SetLayout:
        """How the parts are cut into files."""
        found, start = [], 0
        for part in self.parts:
            shape = (part.n, self.dim, self.dtype, self.block_rows, part.shard_rows)
            found.append(ArrayLayout(*shape, start, part.path))
            start += part.n
        return SetLayout(tuple(found))

    @property
    def n_failed(self) -> int:
        """Number of rows that have no embedding."""
        return int(self.failed_rows().sum()) if self.failed or self.revision.recovered else 0

    def failed_rows(self) -> np.ndarray:
        """Return a boolean array of shape (n,): True where a row has no embedding."""
        found = np.zeros(self.n, dtype=bool)
        if self.failed:
            bits = np.frombuffer(base64.b64decode(self.failed), dtype=np.uint8)
            found[:] = np.unpackbits(bits, count=self.n)
        found[[*self.revision.recovered]] = True
        return found


def pack_failed(failed: np.ndarray) -> str:
    """Return the base64 bitmap of a boolean array, or an empty string if none is True."""
    if not failed.any():
        return ""
    return base64.b64encode(np.packbits(failed).tobytes()).decode("ascii")


def commit_bytes(commit: Commit) -> bytes:
    """Return the record as it is written."""
    return json_bytes(commit.record())


def read_commit(directory: Path, digest: str) -> Commit:
    """Read the commit of a set and check that it is the one its name says.

    Raises
    ------
    CorruptStoreError
        If the record is missing, malformed, that of another set, or has another hash.
    FormatVersionError
        If it has another format.
    """
    path = directory / REVISIONS / f"{digest}.json"
    try:
        data = read_regular(path, limit=MAX_JSON_BYTES)
    except (FileNotFoundError, NotADirectoryError) as err:
        raise CorruptStoreError(
            f"{path} is missing, though the store lists it. `headstock store repair` mends a log "
            "that is older than the set, and with --copy takes the record from a copy of the "
            "store. If neither helps, `headstock store rm` the set and extract it again."
        ) from err
    return commit_of(data, key_of(directory), digest, where=str(path))


@functools.lru_cache(8)  # a writer reads what it publishes again and again
def commit_of(data: bytes, key: SetKey, digest: str, *, where: str) -> Commit:
    """Return the commit of a set that the bytes of a record state; raises as `read_commit`."""
    commit = parse_commit(parse_json(data, where=where), where=where)
    if not belongs(key, commit):
        raise CorruptStoreError(f"{where} carries the metadata of another set than {key}.")
    if commit.digest != digest:
        raise CorruptStoreError(
            f"{where} was changed after it was written: its content has another hash than its name."
        )
    return commit


def parse_commit(document: Any, *, where: str) -> Commit:
    """Return the commit that a JSON document states.

    Raises
    ------
    CorruptStoreError
        If it is not a record that a writer makes; nothing of its sizes was believed.
    FormatVersionError
        If it has another format.
    """
    check_format(document.get("format") if isinstance(document, dict) else None, where=where)
    try:
        commit = msgspec.convert(document, Commit)
        reason = _wrong(document, commit)
    except ValueError as err:
        reason = str(err)
    if reason:
        raise CorruptStoreError(f"{where} is not a commit record that Headstock writes: {reason}.")
    return commit


def _wrong(document: Mapping[str, Any], commit: Commit) -> str:
    """Return why a document whose values have the right form is no commit, or an empty string."""
    parts, history, n = commit.parts, commit.history, sum(part.n for part in commit.parts)
    if odd := document.keys() ^ commit.record():
        return f"it lacks or adds {', '.join(map(repr, sorted(odd)))[:200]}"
    if len({part.path for part in parts}) < len(parts) or n > MAX_ROWS:
        return "its parts are not those of a set"
    for part in parts:
        if not is_shard(commit.dim, commit.dtype, commit.block_rows, part.shard_rows):
            return f"its shard_rows are not those of a part of {part.n:,} rows"
        n_blocks = -(-part.n // commit.block_rows)
        if len(part.blocks) != n_blocks:
            return f"it lacks the hashes of {n_blocks:,} blocks"
    for one in history:
        held = sum(table["n"] for table in one.tables) if one.tables else n
        rising = [*one.recovered] == sorted({*one.recovered})
        if not (one.n <= held <= n and rising and max(one.recovered, default=0) < one.n):
            return f"its history is not that of {n:,} rows"
    if len({one.id for one in history}) < len(history):
        return "its history has a revision twice"
    bits = base64.b64decode(commit.failed, validate=True)
    if bits and (len(bits) != -(-n // 8) or bits[-1] & (0xFF >> ((n - 1) % 8 + 1))):
        return f"its failed rows are not those of {n:,} rows"
    return ""


def belongs(key: SetKey, commit: Commit) -> bool:
    """Return whether a commit is of this set, whose ids are the hashes of what it says it is."""
    stated, spec = commit.attributes, commit.spec
    try:
        return spec.key == key and (spec.space_id, spec.set_id) == (
            stated["space_id"], stated["set_id"],
        )  # fmt: skip
    except (ValueError, RecursionError):
        return False


def staging_of(directory: Path) -> Path:
    """Return where a set's unfinished blocks lie."""
    return directory / ".staging"


def key_of(directory: Path) -> SetKey:
    """Return the key that a set's directory stands for."""
    return SetKey(directory.parent.parent.name, directory.parent.name, directory.name)


def tag_file(name: str, digest: str) -> str:
    """Return the path of a tag below the store; LayoutError if no tag can have this name."""
    return f"tags/{check_component(name, what='tag')}-{digest[:SHORT]}.json"


def tag_document(name: str, revisions: Mapping[str, str]) -> dict[str, Any]:
    """Return a tag, which names itself, under a digest.

    Parameters
    ----------
    revisions : mapping
        Key -> revision_id.
    """
    return sealed({"format": FORMAT, "name": name, "sets": dict(revisions)})


def parse_tag(document: Any, *, where: str) -> dict[str, Any]:
    """Return the document of a tag, its ``sets`` as {key: revision_id}.

    Raises
    ------
    CorruptStoreError
        If the document is no tag, or was changed.
    FormatVersionError
        If it has another format.
    """
    if not isinstance(document, dict) or not isinstance(document.get("sets"), dict):
        raise CorruptStoreError(f"{where} is no tag that Headstock writes.")
    check_format(document.get("format"), where=where)
    sets, name = document["sets"], document.get("name")
    named = (isinstance(one, str) and _SHA256.fullmatch(one) for one in sets.values())
    if not all(map(SetKey.parse, sets)) or not all(named):
        raise CorruptStoreError(f"{where} names what is no set or no revision. It was not used.")
    if not isinstance(name, str) or document != tag_document(name, sets):
        raise CorruptStoreError(
            f"{where} is not the tag that Headstock wrote there: it was changed. It was not used."
        )
    return document


def read_tag(root: Path, name: str, digest: str) -> dict[str, str]:
    """Return key -> revision_id of the tag that a store lists under this name with this digest.

    Raises
    ------
    CorruptStoreError
        If it is missing, damaged, or not the one that the store lists.
    """
    path = root / tag_file(name, digest)
    try:
        document = parse_tag(read_json(path), where=str(path))
    except (FileNotFoundError, NotADirectoryError) as err:
        raise CorruptStoreError(f"{path} is missing, though the store lists the tag.") from err
    if (document["name"], document["digest"]) != (name, digest):
        raise CorruptStoreError(
            f"{path} is not the tag that the store lists: it was replaced. It was not used."
        )
    return dict(document["sets"])


#: What readers compute with of a run's facts. No commit covers them: what has another shape is no
#: record of ours.
_RUN = {"versions": dict, "truncated": int}


def runs(directory: Path) -> list[dict[str, Any]]:
    """Return the facts of each run that wrote to a set, the newest first."""
    found = []
    for path in sorted((directory / "runs").glob("*.json"), reverse=True):
        try:
            document = read_json(path, limit=MAX_METADATA_BYTES)
        except (FeatstoreError, OSError):
            continue
        if isinstance(document, dict) and all(
            isinstance(document.get(name, kind()), kind) for name, kind in _RUN.items()
        ):
            found.append(document)
    return found


#: Where the first of several parts is an array: its chunks have no folder of their own.
BARE = "/c"

#: What identifies the convention; it never changes.
UUID = "eb7c9fe8-cf5c-4296-9b2f-2d95e0b1c7ab"

#: The attribute that holds the convention's properties, and its name.
KEY = "embeddings"

#: The attribute of the Zarr conventions framework that lists what a group conforms to.
CONVENTIONS = "zarr_conventions"

VERSION = 1

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


def properties(attributes: Mapping[str, Any], commit: Commit) -> dict[str, Any]:
    """Return what a set of one part states under `KEY`; it follows from attributes and commit.

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
    items = commit.parts[0].items
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
            "path": f"../{items['file']}",
            "format": "parquet",
            "sha256": items["sha256"],
            "key": "item_id",
            "columns": _COLUMNS,
        },
        "revision": {
            "id": commit.digest,
            "record": f"revisions/{commit.digest}.json",
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
    if BIAS in commit.metadata:
        stated["bias"] = "bias"
    return stated


def root_metadata(hash_name: str) -> bytes:
    """Return the ``zarr.json`` of a store whose new blocks have this hash."""
    return json_bytes(group_metadata({"format": FORMAT, "hash": hash_name}))


def zarr_metadata(key: SetKey, commit: Commit) -> dict[str, bytes]:
    """Return path below the store -> content of Zarr's metadata of a set, the groups above first.

    Parameters
    ----------
    commit : Commit
        The present revision.
    """
    stated = {"format": FORMAT, **commit.attributes, "revision": commit.revision_id}
    alone = [part.path for part in commit.parts] == [FIRST]
    # A group of parts is no array, which is what the convention speaks of.
    beside = {CONVENTIONS: [DECLARATION], KEY: properties(commit.attributes, commit)}
    found = {
        key.dataset: _group(dataset=key.dataset),
        f"{key.dataset}/{key.kind}": _group(dataset=key.dataset, kind=key.kind),
        f"{key}": json_bytes(group_metadata(stated, **(beside if alone else {}))),
    }
    if not alone:
        parts = [
            {"path": (part.path + BARE).split("/")[1], "items": part.items["file"]}
            for part in commit.parts
        ]
        found[f"{key}/{FIRST}"] = json_bytes(group_metadata({"parts": parts}))
    for one in commit.layout.parts:
        bare = not alone and one.path == FIRST
        found[f"{key}/{one.path}{BARE if bare else ''}"] = _array(one, bare=bare)
    if BIAS in commit.metadata:
        found[f"{key}/bias"] = json_bytes(vector_metadata(commit.n, "float32"))
    return {f"{path}/zarr.json": data for path, data in found.items()}


@functools.lru_cache(4096)
def _group(**attributes: str) -> bytes:
    return json_bytes(group_metadata(attributes))


@functools.lru_cache(4096)
def _array(layout: ArrayLayout, *, bare: bool) -> bytes:
    return json_bytes(array_metadata(layout, bare=bare))
