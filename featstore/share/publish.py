"""Publish a set of one store in another, so that readers never see half a set.

A bucket has no renames and no locks. What stands in for them:

- ``.staging/push.json`` of the set says which revision is being put there. A publisher of the
  same revision puts the same bytes, so it may go on with what is there; one of another is refused
  until that one is published, or taken over. The claim of a published revision is over: the next
  publisher replaces it. It is never deleted, since a deletion has no condition: one that arrives
  late would end the claim of the next publisher.
- The pointer is put only if it is still the one that the decision was made from.
- The catalog is put only if it is still the one that was read, and states the pointers that were
  read after it: so no entry ever goes back to an earlier revision.

A place that is atomic (a draft of the hub) needs no claim: what was written appears at once, and
only if nobody else has written since it was read.
"""

from __future__ import annotations

import contextlib
import functools
import json
import secrets
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from featstore.errors import (
    CorruptStoreError,
    FeatstoreError,
    PublishConflictError,
    RemoteStoreError,
    StoreWriteError,
)
from featstore.remote.objects import FolderObjects, Objects, backoff
from featstore.store.blocks import check_file, layout_of, shard_name
from featstore.store.catalog import NAME as CATALOG
from featstore.store.catalog import catalog_bytes, parse_catalog, write_catalog
from featstore.store.convention import pointer_bytes
from featstore.store.files import (
    MAX_JSON_BYTES,
    MAX_METADATA_BYTES,
    facts_of,
    json_bytes,
    open_regular,
    parse_json,
    read_regular,
    same_file,
)
from featstore.store.gc import check_hash, make_store
from featstore.store.layout import FORMAT, ArrayLayout, SetKey, group_metadata, shard_tail
from featstore.store.listing import Listed, set_files
from featstore.store.lock import Claim, claim_folders, claim_set, folder_lock
from featstore.store.records import (
    POINTER,
    REVISIONS,
    Commit,
    StoreFormat,
    parse_commit,
    parse_pointer,
    parse_root,
    read_commit,
    read_pointer,
    read_root,
)
from featstore.store.staging import read_journal
from featstore.store.store import FeatureStore, SetInfo
from featstore.store.tables import MAX_ITEM_BYTES
from featstore.store.writer import settle_claimed, settle_set


@dataclass
class SetSource:
    """One set of an opened store.

    Attributes
    ----------
    store : FeatureStore
    info : SetInfo
        Its current revision.
    revision : str
        The revision_id that is sent.
    """

    store: FeatureStore
    info: SetInfo

    def __post_init__(self) -> None:
        self.directory = self.info.key.directory(self.store.root)
        self.history: list[str] = list(self.info.attributes.get("history", []))
        self.revision = self.info.commit.revision_id

    def layout(self) -> ArrayLayout:
        """Return how the array is cut into files."""
        return self.store.layout(self.info)

    def commits(self, known: Collection[str]) -> list[Commit]:
        """Return the commit of every revision that is not among the `known`, the oldest first."""
        missing = [revision for revision in self.history if revision not in known]
        if missing:
            self.store.place.fetch_records(self.info.key, "")
        return [*(read_commit(self.directory, revision) for revision in missing), self.info.commit]

    def small_files(self, known: Collection[str] = ()) -> dict[str, bytes]:
        """Return the files of the revisions but data and pointer: path below the store -> bytes.

        The metadata of the groups above the set come first, the commit records last.

        Parameters
        ----------
        known : collection of str
            Revisions that the target has published, with all their files.

        Raises
        ------
        CorruptStoreError
            If one is not what its commit states.
        """
        commits = self.commits(known)
        for commit in commits:
            self.store.place.fetch(self.info.key, commit)
        listed = set_files(self.info.key, commits[-1], commits[:-1], self.layout())
        key = self.info.key
        dataset = group_metadata({"dataset": key.dataset})
        kind = group_metadata({"dataset": key.dataset, "kind": key.kind})
        return {
            f"{key.dataset}/zarr.json": json_bytes(dataset),
            f"{key.dataset}/{key.kind}/zarr.json": json_bytes(kind),
            **{one.path: self._content(one) for one in listed.values() if one.part != "data"},
        }

    def pointer(self) -> tuple[str, bytes]:
        """Return the path of the set's pointer below the store, and what it holds."""
        return f"{self.info.key}/{POINTER}", pointer_bytes(self.info.attributes, self.info.commit)

    @functools.cached_property
    def data_file(self) -> Callable[[int], Path]:
        """From the number of a data file to its path; see `featstore.store.place.Place`."""
        return self.store.place.data_files(self.info.key, self.info.commit, self.layout())

    def parts(self, data: IO[bytes], file: int) -> Iterator[bytes]:
        """Yield the bytes of a data file from what is its opened copy, each block compared."""
        layout, commit = self.layout(), self.info.commit
        for block in layout.file_blocks(file):
            rows = data.read(layout.block_bytes(block))
            if commit.block_hash(rows) != commit.blocks[block]:
                raise CorruptStoreError(
                    f"Block {block:,} of {self.info.key} was changed while it was copied. Nothing "
                    "was published."
                )
            yield rows
        yield shard_tail(layout, file)

    def _content(self, one: Listed) -> bytes:
        data, path = one.content(), self.store.root / one.path
        if data is None and one.check(self.store.root).reasons:
            raise CorruptStoreError(
                f"{path} is missing or differs from its commit record. The set was not sent."
            )
        return read_regular(path, limit=MAX_ITEM_BYTES) if data is None else data


def kept_files(base: Commit | None, now: Commit, layout: ArrayLayout) -> set[int]:
    """Return the data files of `now` that a store with `base` has, byte for byte."""
    before = None if base is None else layout_of(base)
    if base is None or before is None:
        return set()
    names = {shard_name(before, file, base.blocks) for file in range(before.n_files)}
    return {file for file in range(layout.n_files) if shard_name(layout, file, now.blocks) in names}


#: ``new`` and ``behind`` are to be sent; ``same`` and ``newer`` need nothing.
Relation = Literal["new", "behind", "same", "newer"]

TO_SEND = ("new", "behind")


def relation(there: Mapping[str, Any] | None, here: Mapping[str, Any], *, where: str) -> Relation:
    """Return how the set there stands to the one here, from the attributes of both.

    Raises
    ------
    PublishConflictError
        If each has a revision that the other lacks: both were extended apart.
    """
    if there is None:
        return "new"
    theirs, ours = there["revision"], here["revision"]
    if theirs == ours:
        return "same"
    if theirs in here.get("history", []):
        return "behind"
    if ours in there.get("history", []):
        return "newer"
    raise conflict(where, winner=theirs, loser=ours)


def conflict(where: str, *, winner: str, loser: str) -> PublishConflictError:
    """Return the error of a publisher who came second."""
    return PublishConflictError(
        f"{where} has revision {winner[:12]}, which another publisher put there first; revision "
        f"{loser[:12]} does not follow from it and was not published. Pull theirs into a store of "
        "its own, and extend that."
    )


#: Times that a catalog, or a commit of the hub, is made again because another publisher was
#: faster, and after how many the pauses between them grow no longer.
ROUNDS, _LONGEST = 40, 4


def make_bucket_store(objects: Objects, form: StoreFormat | None = None) -> bool:
    """Make an empty store in a bucket; True if it was made now.

    Parameters
    ----------
    form : StoreFormat, optional
        Format of a new store, and the hash of its blocks.

    Raises
    ------
    StoreWriteError
        If there is a store with another hash of blocks.
    RemoteStoreError
        If the bucket ignores the conditions of puts, so that two publishers could overwrite each
        other, or cannot be written.
    """
    stated = bucket_format(objects)
    check_hash(objects.address, stated, form)
    if stated is not None:
        return False
    made = form or StoreFormat()
    check_conditions(objects, made)
    return objects.create("zarr.json", json_bytes(group_metadata(made.attributes())))


def read_record(objects: Objects, name: str) -> tuple[Any, str]:
    """Return the JSON document of a place, and its tag; None if there is none."""
    try:
        data, tag = objects.read_tagged(name, limit=MAX_JSON_BYTES)
    except FileNotFoundError:
        return None, ""
    return parse_json(data, where=f"{objects.address}/{name}"), tag


def bucket_format(objects: Objects) -> StoreFormat | None:
    """Return what the root of a store in a bucket states; None if there is none.

    Raises
    ------
    RemoteStoreError
        If there is another Zarr group.
    FormatVersionError
        If a newer version wrote the store.
    """
    document, _ = read_record(objects, "zarr.json")
    try:
        where = f"{objects.address}/zarr.json"
        return None if document is None else parse_root(document, where=where)
    except CorruptStoreError as err:
        raise RemoteStoreError(
            f"{objects.address} holds another Zarr group, no store. Choose another prefix."
        ) from err


def check_conditions(objects: Objects, form: StoreFormat) -> None:
    """Make an empty catalog; RemoteStoreError if the bucket ignores the conditions of puts.

    The catalog itself is what the conditions are tried on, in two forms that say the same, so that
    nothing is left of the trial wherever it is interrupted. The tag of one of them, which nobody
    else writes, is stale after the second replacement, whatever others do at the same time.
    """
    empty = catalog_bytes(form, sets={}, thumbnails=(), tags={}, about={})
    own = empty + bytes(secrets.choice(b" \t") for _ in range(64)) + b"\n"
    objects.create(CATALOG, empty)  # False if there is one: an earlier attempt made it
    ignored = objects.create(CATALOG, empty)
    for other in (own, empty):
        data, tag = objects.read_tagged(CATALOG, limit=MAX_JSON_BYTES)
        # A publisher that was faster has shown that conditions are honoured.
        if data.strip() != empty.strip() or not objects.replace(CATALOG, other, tag):
            break
        ignored |= data == own and objects.replace(CATALOG, own, tag)
    if ignored:
        if data.strip() == empty.strip():
            objects.delete(CATALOG)
        raise RemoteStoreError(
            f"{objects.address} ignores the conditions of puts (If-None-Match, If-Match): two "
            "publishers could overwrite each other without notice. No store was made. Use a "
            "service that honours them, or one folder that a single machine publishes from."
        )


def read_remote_pointer(objects: Objects, key: SetKey) -> tuple[dict[str, Any] | None, str]:
    """Return the attributes of a set in a bucket, or None, and the tag of its pointer."""
    document, tag = read_record(objects, f"{key}/{POINTER}")
    where = f"{objects.address}/{key}/{POINTER}"
    return (None if document is None else parse_pointer(document, where=where)), tag


def publish(
    place: Objects,
    source: SetSource,
    *,
    force: bool = False,
    progress: Callable[[int], object] = lambda _: None,
) -> Relation:
    """Copy a set into the store at `place`; see `publish_to_bucket` and `publish_to_folder`."""
    if isinstance(place, FolderObjects):
        return publish_to_folder(place.root, source, progress=progress)
    return publish_to_bucket(place, source, force=force, progress=progress)


def publish_to_bucket(
    objects: Objects,
    source: SetSource,
    *,
    force: bool = False,
    progress: Callable[[int], object],
) -> Relation:
    """Put a set into the store at `objects`; the catalog is left to `update_catalog`.

    Parameters
    ----------
    force : bool
        Replace another publisher's unfinished push: only if it is known to be dead.

    Raises
    ------
    PublishConflictError
        If another publisher was first, or is at work; the message names its revision.
    """
    key = source.info.key
    where = f"{objects.address}/{key}"
    claim = f"{key}/.staging/push.json"
    held = _read_claim(objects, claim)  # before the pointer, which says whether it is over
    there, tag = read_remote_pointer(objects, key)
    found = relation(there, source.info.attributes, where=where)
    if found not in TO_SEND:
        return found
    published = set() if there is None else {*there.get("history", []), there["revision"]}
    base = None if there is None else _remote_commit(objects, key, there["revision"])
    sizes: dict[str, int] = {}
    if not objects.is_atomic:
        sizes = _strange_files(objects, key, base)
        # By its size a file is believed only if nobody but this publisher can have put it.
        if not _claim(
            objects, claim, held, source.revision, published, where=where,
            force=force, strange=bool(sizes),
        ):  # fmt: skip
            sizes = {}
    layout, kept = source.layout(), kept_files(base, source.info.commit, source.layout())
    for file in range(layout.n_files):
        name, whole = f"{key}/embedding/{layout.file_name(file)}", layout.file_bytes(file)
        if file not in kept and sizes.get(name) != whole:
            _put_data(objects, name, source.data_file(file))
        progress(whole)
    for name, data in source.small_files(published if base else ()).items():
        objects.put(name, data)
    if not objects.is_atomic and _read_claim(objects, claim)[0].get("revision") != source.revision:
        raise PublishConflictError(
            f"The push of {where} was taken over by another publisher. Nothing was published."
        )
    name, pointer = source.pointer()
    if not (objects.replace(name, pointer, tag) if tag else objects.create(name, pointer)):
        now = read_remote_pointer(objects, key)[0] or {"revision": "?"}
        if source.revision not in (now["revision"], *now.get("history", [])):
            raise conflict(where, winner=now["revision"], loser=source.revision)
    return found


def _put_data(objects: Objects, name: str, path: Path) -> None:
    """Put a data file that was checked: what replaces it meanwhile is not sent in its place."""
    with open_regular(path) as data:
        objects.put(name, path if objects.is_atomic else data)


def update_catalog(
    objects: Objects,
    keys: Iterable[str],
    *,
    thumbnails: frozenset[str] = frozenset(),
    tags: Mapping[str, str] | None = None,
    about: Mapping[str, str] | None = None,
) -> bool:
    """Enter sets, thumbnails and tags in the catalog of a store; False if all was there already.

    That of a folder follows from the sets that are there.

    Parameters
    ----------
    keys : iterable of str
        Keys of the sets; the catalog states the revisions that their pointers name.
    tags, about : mapping, optional
        Name -> digest, of tags and of the files about the store.
    """
    if isinstance(objects, FolderObjects):
        write_catalog(objects.root, tags=tags, about=about, held=objects.held)
        return True
    named = [key for key in map(SetKey.parse, keys) if key is not None]
    for attempt in range(1, ROUNDS + 1):
        try:
            data, tag = objects.read_tagged(CATALOG, limit=MAX_JSON_BYTES)
            old = parse_catalog(parse_json(data, where=f"{objects.address}/{CATALOG}"))
        except FileNotFoundError:
            data, tag, old = b"", "", {"sets": {}}
        if old is None:
            raise CorruptStoreError(
                f"{objects.address}/{CATALOG} is no catalog that featstore writes."
            )
        # After the catalog: if that is still the same when it is put, no pointer in it was newer.
        pointers = {str(key): read_remote_pointer(objects, key)[0] for key in named}
        now = {key: there["revision"] for key, there in pointers.items() if there is not None}
        new = catalog_bytes(
            old.get("form") or bucket_format(objects) or StoreFormat(), sets={**old["sets"], **now},
            thumbnails={*old.get("thumbnails", []), *thumbnails},
            tags={**old.get("tags", {}), **(tags or {})},
            about={**old.get("about", {}), **(about or {})},
        )  # fmt: skip
        if new == data:
            return False
        if objects.replace(CATALOG, new, tag) if tag else objects.create(CATALOG, new):
            return True
        time.sleep(backoff(min(attempt, _LONGEST)))
    raise RemoteStoreError(
        f"The catalog of {objects.address} changes all the time. Push again; the sets are there."
    )


def _strange_files(objects: Objects, key: SetKey, base: Commit | None) -> dict[str, int]:
    """Return name -> size of the data files in a bucket that its current revision does not name."""
    layout = None if base is None else layout_of(base)
    named = () if layout is None else map(layout.file_name, range(layout.n_files))
    own = {f"{key}/embedding/{name}" for name in named}
    found = objects.names(f"{key}/embedding/c/")
    return {name: size for name, size in found if name not in own}


def _read_claim(objects: Objects, name: str) -> tuple[dict[str, Any], str]:
    """Return who claims a set, and the tag of that; both empty if nobody ever did."""
    try:
        data, tag = objects.read_tagged(name, limit=MAX_METADATA_BYTES)
        document = json.loads(data)
    except FileNotFoundError:
        return {}, ""
    except ValueError:
        document = None
    return document if isinstance(document, dict) else {}, tag


def _claim(
    objects: Objects,
    name: str,
    held: tuple[dict[str, Any], str],
    revision: str,
    published: Collection[str],
    *,
    where: str,
    force: bool,
    strange: bool,
) -> bool:
    """Claim a set for a revision; True if files that are there must be this publisher's.

    Parameters
    ----------
    held : tuple
        What `_read_claim` returned before the pointer was read.
    published : collection of str
        The revisions that are published: a claim for one of them is over.
    strange : bool
        Whether there are data files that no published revision names: those of a publisher that was
        taken over, unless it was this one.
    """
    holder, tag = held
    if holder.get("revision") != revision:
        record = {"format": FORMAT, "host": socket.gethostname(), "revision": revision}
        over = not tag or holder.get("revision") in published
        if strange or not over:
            record["taken_over"] = True
        data = json_bytes(record)
        if over or force:
            done = objects.replace(name, data, tag) if tag else objects.create(name, data)
            if done:
                return False
        # Another was faster; or it was this one, and the answer to an earlier attempt was lost.
        holder = _read_claim(objects, name)[0]
    if holder.get("revision") == revision:
        return not holder.get("taken_over")
    raise PublishConflictError(
        f"{where} is being pushed from {str(holder.get('host', 'elsewhere'))[:80]!r}, revision "
        f"{str(holder.get('revision', '?'))[:12]}; it was first. Wait for it, or, if that push is "
        "dead, push again with --force."
    )


def _remote_commit(objects: Objects, key: SetKey, revision: str) -> Commit | None:
    """Return a commit of the bucket; None, so that everything is sent, if it is damaged."""
    name = f"{key}/{REVISIONS}/{revision}.json"
    with contextlib.suppress(FeatstoreError):
        commit = parse_commit(read_record(objects, name)[0], where=name)
        return commit if commit.revision_id == revision else None
    return None


def publish_to_folder(
    root: Path, source: SetSource, *, progress: Callable[[int], object]
) -> Relation:
    """Copy a set into the store at `root`, which is made if it is missing.

    The order is that of every publication: data, small files, commit records, pointer, catalog; all
    under the set's claim, and every data file is compared with the commit where it lies now. What
    an interrupted copy left is used if it is right.

    Raises
    ------
    PublishConflictError
        If the set there was extended otherwise.
    StoreWriteError
        If another process writes it, an extraction of it is unfinished, or the disk refuses.
    """
    key = source.info.key
    directory = key.directory(root)
    make_store(root, form=read_root(root) or StoreFormat(hash=source.store.form.hash))
    found = relation(read_pointer(directory), source.info.attributes, where=f"{root}/{key}")
    if found not in TO_SEND:
        settle_set(root, key)  # a copy that was killed behind the pointer is completed
        return found
    claim = claim_set(directory, key)
    try:
        if any(read_journal(folder)[1] for folder in claim_folders(directory)):
            raise StoreWriteError(
                f"An extraction of {key} into {root} is unfinished. Finish it, or remove it with "
                "`featstore gc`, and copy the set then."
            )
        # Somebody may have published between the first look and the claim.
        there = read_pointer(directory)
        found = relation(there, source.info.attributes, where=f"{root}/{key}")
        if found in TO_SEND:
            base = None if there is None else read_commit(directory, there["revision"])
            layout = source.layout()
            kept = kept_files(base, source.info.commit, layout)
            for file in sorted(set(range(layout.n_files)) - kept):
                _copy_file(claim, directory, source, file)
                progress(layout.file_bytes(file))
            if base is not None:
                claim.sync()  # rows come before the metadata that says how many there are
            with folder_lock(directory.parent):  # who takes out item tables saw no claim, or waits
                for name, data in source.small_files().items():
                    if same_file(root / name, facts_of(data)):
                        claim.rely_on(root / name)
                    else:
                        claim.write_file(root / name, [data])
            name, data = source.pointer()
            claim.write_pointer(root / name, [data])
        settle_claimed(root, key, claim)
    finally:
        claim.release()
    return found


def _copy_file(claim: Claim, directory: Path, source: SetSource, file: int) -> None:
    """Copy a data file unless it is there; what is copied is compared with the commit."""
    target = directory / "embedding" / source.layout().file_name(file)
    if (
        target.exists()
        and not check_file(target, source.layout(), file, source.info.commit).reasons
    ):
        claim.rely_on(target)
        return
    with open_regular(source.data_file(file)) as data:
        claim.write_file(target, source.parts(data, file))
