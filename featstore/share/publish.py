"""Publish a set of one store in another, so that readers never see half a set.

A bucket has no renames and no locks. What stands in for them:

- No file is replaced that another publisher may have put. The name of a part that was appended, of
  an item table and of a commit follows from what it holds, so it may be put again. Any other file
  is put only if there is none; one that is there must hold the very same bytes. So of several
  publishers of a first revision the one that puts the first file of rows goes on, and whoever
  publishes the same revision goes on with what is there.
- The log is put only if it is still the one that was read, and changed only if its entry of the set
  is still the one that the decision was made from.
- Zarr's metadata go before the log, so that nothing is left to do behind it. Who finds that another
  publisher was faster writes that of the other's revision again, until the log stood still.

A place that is atomic (a draft of the hub) needs none of this: what was written appears at once,
and only if nobody else has written since it was read.
"""

from __future__ import annotations

import contextlib
import functools
import io
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from featstore.errors import (
    CorruptStoreError,
    PublishConflictError,
    RemoteStoreError,
)
from featstore.identity import SHA256
from featstore.remote.objects import FolderObjects, Objects
from featstore.remote.place import RemotePlace
from featstore.store.files import (
    MAX_JSON_BYTES,
    open_regular,
    parse_json,
    pieces,
    read_regular,
)
from featstore.store.gc import check_hash, make_store
from featstore.store.layout import SetKey
from featstore.store.listing import Listed, set_files
from featstore.store.lock import Claim, claim_set, folder_lock
from featstore.store.log import NAME as LOG
from featstore.store.log import Log, has_log, read_log
from featstore.store.records import (
    FIRST,
    REVISIONS,
    Commit,
    commit_of,
    root_metadata,
    zarr_metadata,
)
from featstore.store.store import FeatureStore, SetInfo
from featstore.store.tables import MAX_ITEM_BYTES
from featstore.store.writer import (
    publish_commit,
    refuse_unfinished,
    settle_claimed,
    settle_set,
)


@dataclass
class SetSource:
    """One set of an opened store.

    Attributes
    ----------
    store : FeatureStore
    info : SetInfo
        Its current revision.
    revision : str
        Its id.
    """

    store: FeatureStore
    info: SetInfo

    def __post_init__(self) -> None:
        self.revision = self.info.commit.revision_id

    @functools.cached_property
    def _fetched(self) -> Callable[[int], Path] | None:
        """What brings a data file of a remote store into the cache, verified."""
        place = self.store.place
        if not isinstance(place, RemotePlace):
            return None
        return place.data_files(self.info.key, self.info.commit)

    def files(self, base: Commit | None) -> list[Listed]:
        """Return the files that a target with the commit `base` lacks; the record comes last."""
        key = self.info.key
        there = set_files(key, base) if base else {}
        listed = set_files(key, self.info.commit).values()
        return [one for one in listed if one.part != "zarr" and one.path not in there]

    def content(self, one: Listed) -> bytes | Path:
        """Return what a file holds, all of it compared with its commit; of rows, a copy's path.

        Raises
        ------
        CorruptStoreError
            If it is not what the commit states.
        """
        place, path = self.store.place, self.store.root / one.path
        if one.content is not None:
            return one.content
        if one.data is not None and self._fetched is not None:
            return self._fetched(one.commit.layout.files.index(one.data))
        place.fetch(self.info.key, one.commit, one.part)
        wrong = "; ".join(one.check(self.store.root).reasons)
        if wrong:
            raise CorruptStoreError(f"{path} {wrong}. Nothing of {self.info.key} was sent.")
        return path if one.data else read_regular(path, limit=MAX_ITEM_BYTES)


#: ``new`` and ``behind`` are to be sent; ``same`` and ``newer`` need nothing.
Relation = Literal["new", "behind", "same", "newer"]

TO_SEND = ("new", "behind")


def relation(there: Sequence[str], here: Sequence[str], *, where: str) -> Relation:
    """Return how the set there stands to the one here, from the revisions of both, newest first.

    Raises
    ------
    PublishConflictError
        If each has a revision that the other lacks: both were extended apart.
    """
    if not there:
        return "new"
    if there[0] == here[0]:
        return "same"
    if there[0] in here:
        return "behind"
    if here[0] in there:
        return "newer"
    raise conflict(where, winner=there[0], loser=here[0])


def conflict(where: str, *, winner: str, loser: str) -> PublishConflictError:
    """Return the error of a publisher who came second."""
    return PublishConflictError(
        f"{where} has revision {winner[:12]}, which another publisher put there first; revision "
        f"{loser[:12]} does not follow from it and was not published. Pull theirs into a store of "
        "its own, and extend that."
    )


#: Times that a commit of the hub is made again because another publisher was faster.
ROUNDS = 40


def make_bucket_store(objects: Objects, hash_name: str | None = None) -> bool:
    """Make an empty store in a bucket; True if it was made now.

    Parameters
    ----------
    hash_name : str, optional
        The hash of the blocks of a new store; sha256 by default.

    Raises
    ------
    StoreWriteError
        If there is a store with another hash of blocks.
    RemoteStoreError
        If the bucket ignores the conditions of puts, so that two publishers could overwrite each
        other, or cannot be written; or holds another Zarr group.
    """
    try:
        log = objects.log()
    except CorruptStoreError as err:
        raise RemoteStoreError(f"{err} Choose another prefix, or let its owner push.") from err
    check_hash(objects.address, log, hash_name)
    made = log or Log(hash_name or SHA256)
    if made.sets or read_record(objects, "zarr.json")[0] is not None:
        return False
    # The group is there once the conditions were tried: a kill may have come between.
    check_conditions(objects, made)
    return objects.create("zarr.json", root_metadata(made.hash))


def read_record(objects: Objects, name: str) -> tuple[Any, str]:
    """Return the JSON document of a place, and its tag; None if there is none."""
    try:
        data, tag = objects.read_tagged(name, limit=MAX_JSON_BYTES)
    except FileNotFoundError:
        return None, ""
    return parse_json(data, where=f"{objects.address}/{name}"), tag


def check_conditions(objects: Objects, made: Log) -> None:
    """Make an empty log; RemoteStoreError if the bucket ignores the conditions of puts.

    The log itself is what the conditions are tried on, in two forms that say the same, so that
    nothing is left of the trial wherever it is interrupted. The tag of one of them, which nobody
    else writes, is stale after the second replacement, whatever others do at the same time.
    """
    empty = made.data()
    own = empty + bytes(secrets.choice(b" \t") for _ in range(64)) + b"\n"
    objects.create(LOG, empty)  # False if there is one: an earlier attempt made it
    ignored = objects.create(LOG, empty)
    for other in (own, empty):
        data, tag = objects.read_tagged(LOG, limit=MAX_JSON_BYTES)
        # A publisher that was faster has shown that conditions are honoured.
        if data.strip() != empty.strip() or not objects.replace(LOG, other, tag):
            break
        ignored |= data == own and objects.replace(LOG, own, tag)
    if ignored:
        if data.strip() == empty.strip():
            objects.delete(LOG)
        raise RemoteStoreError(
            f"{objects.address} ignores the conditions of puts (If-None-Match, If-Match): two "
            "publishers could overwrite each other without notice. No store was made. Use a "
            "service that honours them, or one folder that a single machine publishes from."
        )


def read_present(objects: Objects, key: SetKey, log: Log | None) -> tuple[Commit | None, list[str]]:
    """Return the commit of a set in a place, and the ids of its revisions, newest first.

    The commit is None if there is none, or it is damaged: everything is sent then.
    """
    digest = log.sets.get(str(key)) if log else None
    if digest is None:
        return None, []
    name = f"{key}/{REVISIONS}/{digest}.json"
    with contextlib.suppress(CorruptStoreError, FileNotFoundError):
        data = objects.read(name, limit=MAX_JSON_BYTES)
        commit = commit_of(data, key, digest, where=f"{objects.address}/{name}")
        return commit, [*commit.published]
    return None, [digest]


def publish(
    place: Objects,
    source: SetSource,
    *,
    progress: Callable[[int], object] = lambda _: None,
) -> Relation:
    """Copy a set into the store at `place`.

    Raises
    ------
    PublishConflictError
        If another publisher was first; the message names its revision.
    """
    if isinstance(place, FolderObjects):
        return publish_to_folder(place, source, progress=progress)
    key, commit = source.info.key, source.info.commit
    where = f"{place.address}/{key}"
    before = place.log() or Log()
    base, published = read_present(place, key, before)
    found = relation(published, commit.published, where=where)
    if found not in TO_SEND:
        return found
    there = {} if place.is_atomic else dict(place.names(f"{key}/embedding/"))
    for one in source.files(base):
        _put(place, source, one, there)
        progress(one.data.size if one.data else 0)

    def enter(log: Log) -> Log:
        now = log.sets.get(str(key), "")
        if now == before.sets.get(str(key), ""):
            return log.with_sets({str(key): commit.digest})
        if source.revision not in read_present(place, key, log)[1]:
            raise conflict(where, winner=now or "none", loser=source.revision)
        return log  # another publisher of this revision was faster, and may have extended it

    for name, data in zarr_metadata(key, commit).items():
        place.put(name, data)
    ours = False
    try:
        ours = place.update_log(enter)
    finally:
        if not ours:
            put_metadata(place, key)
    return found


def _put(objects: Objects, source: SetSource, one: Listed, there: Mapping[str, int]) -> None:
    """Put a file of a set, unless it is there; `there` has the sizes of the files of rows.

    Raises
    ------
    PublishConflictError
        If another publisher has put another one of this name.
    """
    first = one.data is not None and one.data.part.path == FIRST
    if one.data is not None and not first and there.get(one.path) == one.data.size:
        return
    data = source.content(one)
    if objects.is_atomic or not (first or one.part in ("rows", "rest")):
        objects.put(one.path, data)
    elif one.path in there or not objects.create(one.path, data):
        _compare(objects, one.path, data, source.revision)


def _compare(objects: Objects, name: str, data: bytes | Path, revision: str) -> None:
    """Raise PublishConflictError if a file of a place holds other bytes than those."""
    with io.BytesIO(data) if isinstance(data, bytes) else open_regular(data) as own:
        size = own.seek(0, io.SEEK_END)
        if objects.stat(name)[0] == size:
            own.seek(0)
            there = objects.stream(name, 0, size, size=size)
            if all(own.read(len(piece)) == piece for piece in there):
                return
    raise PublishConflictError(
        f"{objects.address}/{name} is there and holds other bytes than revision {revision[:12]}: "
        "another push was first, and has not ended, or the file is damaged. Nothing was "
        "published. Wait for that push, or, if it is dead, delete its files and push again."
    )


def put_metadata(objects: Objects, key: SetKey) -> None:
    """Bring Zarr's metadata of a set in a bucket in line with the log, until that stood still."""
    log = None
    while log != (now := objects.log()):
        log = now
        commit, _ = read_present(objects, key, log)
        for name, data in zarr_metadata(key, commit).items() if commit else ():
            objects.put(name, data)


def publish_to_folder(
    place: FolderObjects, source: SetSource, *, progress: Callable[[int], object]
) -> Relation:
    """Copy a set into the store in a folder, which is made if it is missing.

    The order is that of every publication: data, small files, commit records, log, Zarr's metadata;
    all under the set's claim, and every data file is compared with the commit where it lies now.
    What an interrupted copy left is used if it is right.

    Raises
    ------
    PublishConflictError
        If the set there was extended otherwise.
    StoreWriteError
        If another process writes it, an extraction of it is unfinished, or the disk refuses.
    """
    key, commit, root = source.info.key, source.info.commit, place.root
    directory = key.directory(root)
    if not has_log(root):
        make_store(root, hash_name=source.store.log.hash)

    def look() -> tuple[Commit | None, str, Relation]:
        log = read_log(root)
        base, published = read_present(place, key, log)
        found = relation(published, commit.published, where=f"{root}/{key}")
        return base, log.sets.get(str(key), ""), found

    found = look()[-1]
    if found not in TO_SEND:
        settle_set(root, key)  # a copy that was killed behind the log is completed
        return found
    claim = claim_set(directory, key)
    try:
        refuse_unfinished(root, key, "copy the set")
        # Somebody may have published between the first look and the claim.
        base, before, found = look()
        if found not in TO_SEND:
            settle_claimed(root, key, claim)
            return found
        for one in source.files(base):
            # Beside who takes out tables.
            tables = folder_lock(directory.parent)
            with tables if one.part == "items" else contextlib.nullcontext():
                _copy_file(claim, root, source, one)
            progress(one.data.size if one.data else 0)
        publish_commit(root, key, claim, commit, after=before)
    finally:
        claim.release()
    return found


def _copy_file(claim: Claim, root: Path, source: SetSource, one: Listed) -> None:
    """Copy a file, unless it is there as its commit says."""
    path = root / one.path
    if not one.check(root).reasons:
        claim.rely_on(path)
        return
    data = source.content(one)
    with io.BytesIO(data) if isinstance(data, bytes) else open_regular(data) as own:
        claim.write_file(path, pieces(own))
