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
"""

from __future__ import annotations

import base64
import functools
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

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
from featstore.store.files import (
    MAX_JSON_BYTES,
    MAX_METADATA_BYTES,
    json_bytes,
    parse_json,
    read_json,
    read_regular,
)
from featstore.store.layout import (
    DTYPES,
    FORMAT,
    ArrayLayout,
    SetKey,
    SetLayout,
    SetSpec,
    check_component,
    is_component,
    is_shard,
)

#: Bounds of a set: far above any real one, far below where sizes overflow.
MAX_ROWS = 2**40
MAX_DIM = 2**24
MAX_BLOCK_ROWS = 2**24

#: A file of a set that a commit names is at most so large.
MAX_FILE_BYTES = 2**44

#: Revisions of a set, at most.
MAX_HISTORY = MAX_METADATA_BYTES // 64

#: What a commit may not name as metadata: data and the things that name the commit.
_NOT_METADATA = ("revisions", "runs", ".staging", "zarr.json")

_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_sha256(value: Any) -> bool:
    """Return whether `value` is 64 lower-case hexadecimal digits."""
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def is_size(value: Any, *, low: int, high: int) -> bool:
    """Return whether `value` is an integer (no bool, no float) from `low` to `high`."""
    return type(value) is int and low <= value <= high


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


def _is_facts(facts: Any, *more: str) -> bool:
    return (
        isinstance(facts, dict)
        and facts.keys() == {"bytes", "sha256", *more}
        and is_size(facts["bytes"], low=0, high=MAX_FILE_BYTES)
        and is_sha256(facts["sha256"])
    )


def _is_inside(name: Any, *, depth: int) -> bool:
    parts = name.split("/") if isinstance(name, str) else []
    return 0 < len(parts) <= depth and all(map(is_component, parts))


def _are_files(metadata: Any) -> bool:
    return isinstance(metadata, dict) and all(
        _is_inside(name, depth=4) and name.split("/")[0] not in _NOT_METADATA and _is_facts(facts)
        for name, facts in metadata.items()
    )


def _are_digests(ids: Any) -> bool:
    return isinstance(ids, list) and all(map(is_sha256, ids))


def _is_base64(text: Any) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except (TypeError, ValueError):
        return False
    return isinstance(text, str)


def _integer(high: int) -> Check:
    return (lambda value: is_size(value, low=1, high=high)), f"an integer from 1 to {high:,}"


def _one_of(known: Collection[str]) -> Check:
    return (lambda value: isinstance(value, str) and value in known), f"one of {', '.join(known)}"


#: What a value is by which function, and in words.
Check = tuple[Callable[[Any], bool], str]

_TEXT: Check = (lambda value: isinstance(value, str), "a text")
_TABLE: Check = (lambda value: isinstance(value, dict), "a table")

#: Where the first part of a set lies, unless it is a later one's: an array by itself.
FIRST = "embedding"

_PART = re.compile(FIRST + "(/[0-9a-f]{16})?")


def _is_part(part: Any) -> bool:
    """Return whether this is what a commit states of a part."""
    if not isinstance(part, dict) or part.keys() != Part.__annotations__.keys():
        return False
    return (
        isinstance(part["path"], str) and _PART.fullmatch(part["path"]) is not None
        and is_size(part["n"], low=1, high=MAX_ROWS)
        and is_size(part["shard_rows"], low=0, high=MAX_ROWS)
        and _are_digests(part["blocks"]) and _are_items(part["items"])
    )  # fmt: skip


def _are_items(items: Any) -> bool:
    return (
        _is_facts(items, "file", "chunks") and _is_inside(items["file"], depth=1)
        and _are_digests(items["chunks"]) and bool(items["chunks"])
    )  # fmt: skip


def _is_revision(stated: Any) -> bool:
    """Return whether this is what a commit states of a revision."""
    if not isinstance(stated, list) or len(stated) != len(Revision.__annotations__):
        return False
    name, n, recovered, tables = stated
    return (
        is_sha256(name) and is_size(n, low=1, high=MAX_ROWS)
        and isinstance(recovered, list) and all(is_size(r, low=0, high=n - 1) for r in recovered)
        and recovered == sorted({*recovered})
        and isinstance(tables, list) and all(map(_is_table, tables))
    )  # fmt: skip


def _is_table(items: Any) -> bool:
    """Return whether this is what a commit states of an item table that only history names."""
    if not isinstance(items, dict) or not is_size(items.get("n"), low=1, high=MAX_ROWS):
        return False
    return _are_items({name: items[name] for name in items if name != "n"})


#: Each field of a commit.
_COMMIT: dict[str, Check] = {
    "dim": _integer(MAX_DIM),
    "dtype": _one_of(DTYPES),
    "block_rows": _integer(MAX_BLOCK_ROWS),
    "parts": (
        lambda parts: isinstance(parts, list) and bool(parts) and all(map(_is_part, parts)),
        "a list of parts, each with path, rows, hashes and items",
    ),
    "metadata": (
        lambda files: _are_files(files),
        "a table of files, each of a name that a set can hold",
    ),
    "attributes": (lambda found: _are_attributes(found), "what a set says of itself"),
    "sequence": _integer(MAX_ROWS),
    "history": (
        lambda found: (
            isinstance(found, list)
            and len(found) <= MAX_HISTORY
            and all(map(_is_revision, found))
            and len({one[0] for one in found}) == len(found)
        ),
        "a list of revisions, each of them once",
    ),
    "failed": (_is_base64, "base64 of a bit a row"),
    "hash": _one_of(HASHES),
    "format": (lambda value: value == FORMAT, f"{FORMAT}"),
}

#: Each field of the attributes of a set.
_ATTRIBUTES: dict[str, Check] = {
    **dict.fromkeys(("dataset", "kind", "encoder", "space_id", "set_id", "precision"), _TEXT),
    "space": _TABLE,
    "facts": _TABLE,
}


def _are_attributes(found: Any) -> bool:
    return (
        isinstance(found, dict)
        and found.keys() == _ATTRIBUTES.keys()
        and not _wrong(found, _ATTRIBUTES)
    )


def _wrong(document: Mapping[str, Any], checks: Mapping[str, Check]) -> str:
    """Return which field of a record is not what it should be, or an empty string."""
    for name, (holds, what) in checks.items():
        if not holds(document.get(name)):
            return f"its {name} is not {what}"
    return ""


def _wrong_commit(document: Mapping[str, Any]) -> str:
    """Return why `document` is no commit record, or an empty string."""
    if document.keys() != _COMMIT.keys():
        odd = sorted(document.keys() ^ _COMMIT.keys())
        return f"it lacks or adds {', '.join(map(repr, odd))[:200]}"
    reason = _wrong(document, _COMMIT)
    if reason:
        return reason
    parts, block_rows = document["parts"], document["block_rows"]
    n = sum(part["n"] for part in parts)
    if len({part["path"] for part in parts}) < len(parts) or n > MAX_ROWS:
        return "its parts are not those of a set"
    for part in parts:
        if not is_shard(document["dim"], document["dtype"], block_rows, part["shard_rows"]):
            return f"its shard_rows are not those of a part of {part['n']:,} rows"
        n_blocks = -(-part["n"] // block_rows)
        if len(part["blocks"]) != n_blocks:
            return f"it lacks the hashes of {n_blocks:,} blocks"
    for _, rows, _, tables in document["history"]:
        if not rows <= (sum(one["n"] for one in tables) if tables else n) <= n:
            return f"its history is not that of {n:,} rows"
    bits = base64.b64decode(document["failed"])
    if bits and (len(bits) != -(-n // 8) or bits[-1] & (0xFF >> ((n - 1) % 8 + 1))):
        return f"its failed rows are not those of {n:,} rows"
    return ""


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
    items : dict
        ``{"file", "bytes", "sha256", "chunks"}`` of its item table.
    """

    path: str
    n: int
    shard_rows: int
    blocks: tuple[str, ...]
    items: dict[str, Any]


@dataclass(frozen=True)
class Revision:
    """A state of a set: its first rows.

    Attributes
    ----------
    id : str
        The revision_id.
    n : int
        Its rows.
    recovered : tuple of int
        Those that had no embedding then, and have one now.
    tables : tuple of dict
        Where what is known of its items was changed since: their tables, each with its rows ``n``.
    """

    id: str
    n: int
    recovered: tuple[int, ...] = ()
    tables: tuple[dict[str, Any], ...] = ()


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
    attributes : dict
        What the set is: ``dataset``, ``kind``, ``encoder``, ``space``, ``space_id``, ``set_id``,
        ``precision`` and ``facts``; see `featstore.store.layout.SetSpec.attributes`.
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

    dim: int
    dtype: str
    block_rows: int
    parts: tuple[Part, ...]
    metadata: dict[str, dict[str, Any]]
    attributes: dict[str, Any]
    sequence: int = 1
    history: tuple[Revision, ...] = ()
    failed: str = ""
    hash: str = SHA256
    format: int = FORMAT
    past: Revision | None = None

    def record(self) -> dict[str, Any]:
        """Return the record as a document."""
        stated = {name: value for name, value in vars(self).items() if name in _COMMIT}
        history = [[*vars(one).values()] for one in self.history]
        return {**stated, "parts": [vars(part) for part in self.parts], "history": history}

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
        past = {one.id: one for one in self.revisions[:-1]}
        return replace(self, past=past.get(revision_id))

    @property
    def spec(self) -> SetSpec:
        """What the set is."""
        names = ("dataset", "kind", "encoder", "space", "precision")
        return SetSpec(dtype=self.dtype, **{name: self.attributes[name] for name in names})

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
    def tables(self) -> list[dict[str, Any]]:
        """The item tables, in order, each with its rows ``n``: together, no fewer than `n`."""
        return [*self.revision.tables] or [{"n": part.n, **part.items} for part in self.parts]

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
    if not is_sha256(digest):
        raise CorruptStoreError(
            f"The log names commit {digest[:80]!r} of {directory}, which is not a sha256."
        )
    path = directory / REVISIONS / f"{digest}.json"
    try:
        data = read_regular(path, limit=MAX_JSON_BYTES)
    except (FileNotFoundError, NotADirectoryError) as err:
        raise CorruptStoreError(
            f"{path} is missing, though the store lists it. Take it from a copy of the store "
            "(`headstock store repair --copy`), or `headstock store rm` the set and extract it "
            "again."
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
    reason = _wrong_commit(document)
    if reason:
        raise CorruptStoreError(f"{where} is not a commit record that Headstock writes: {reason}.")
    parts = (Part(**{**part, "blocks": tuple(part["blocks"])}) for part in document["parts"])
    past = (Revision(i, n, tuple(rows), tuple(t)) for i, n, rows, t in document["history"])
    lists = {"parts": tuple(parts), "history": tuple(past)}
    return Commit(**{**document, **lists})


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
    if not all(map(SetKey.parse, sets)) or not all(map(is_sha256, sets.values())):
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
