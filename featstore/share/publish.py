"""Publish a set of one store in another, so that readers never see half a set.

A bucket has no renames and no locks. What stands in for them:

- ``.staging/push.json`` of the set says which revision is being put there. A publisher of the
  same revision puts the same bytes, so it may go on with what is there; one of another is refused
  until that one is published, or taken over. The claim of a published revision is over: the next
  publisher replaces it. It is never deleted, since a deletion has no condition: one that arrives
  late would end the claim of the next publisher.
- The log is put only if it is still the one that was read, and changed only if its entry of the set
  is still the one that the decision was made from.
- Zarr's metadata go before the log, so that nothing is left to do behind it. Who finds that another
  publisher was faster writes that of the other's revision again, until the log stood still.

A place that is atomic (a draft of the hub) needs no claim: what was written appears at once, and
only if nobody else has written since it was read.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from featstore.errors import (
    CorruptStoreError,
    PublishConflictError,
    RemoteStoreError,
    StoreWriteError,
)
from featstore.identity import SHA256
from featstore.remote.objects import FolderObjects, Objects
from featstore.store.blocks import check_file
from featstore.store.convention import root_metadata, zarr_metadata
from featstore.store.files import (
    MAX_JSON_BYTES,
    MAX_METADATA_BYTES,
    json_bytes,
    open_regular,
    parse_json,
    pieces,
    read_regular,
)
from featstore.store.gc import check_hash, make_store
from featstore.store.layout import FORMAT, SetKey
from featstore.store.listing import Listed, set_files
from featstore.store.lock import Claim, claim_folders, claim_set, folder_lock
from featstore.store.log import NAME as LOG
from featstore.store.log import Log, has_log, read_log
from featstore.store.records import REVISIONS, Commit, commit_of, read_commit
from featstore.store.staging import read_journal
from featstore.store.store import FeatureStore, SetInfo
from featstore.store.tables import MAX_ITEM_BYTES
from featstore.store.writer import publish_commit, settle_claimed, settle_set, write_file_once


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
        self.revision = self.info.commit.revision_id
        self._copies: dict[str, Callable[[int], Path]] = {}

    def commits(self, known: Collection[str]) -> list[Commit]:
        """Return the commit of every revision that is not among the `known`, the oldest first."""
        missing = [name for name in self.info.commit.history if name not in known]
        self.store.place.fetch_records(self.info.key, *missing)
        return [*(read_commit(self.directory, name) for name in missing), self.info.commit]

    def small_files(self, known: Collection[str] = ()) -> dict[str, bytes]:
        """Return the small files of the revisions: path below the store -> bytes.

        The commit records come last.

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
        listed = set_files(self.info.key, commits[-1], commits[:-1]).values()
        return {one.path: self._content(one) for one in listed if one.part not in ("data", "zarr")}

    def data(self, known: Collection[str], base: Commit | None) -> list[tuple[Commit, int]]:
        """Return the files of rows to be sent: a commit, and the number of the file in it.

        Parameters
        ----------
        known, base
            Revisions that the target has published, and the present one.
        """
        there = {file.path for file in base.layout.files} if base else set()
        found = {}
        for commit in self.commits(known if base else ()):
            for number, file in enumerate(commit.layout.files):
                if file.path not in there:
                    found[file.path] = commit, number
        return [*found.values()]

    def data_file(self, commit: Commit, number: int) -> Path:
        """Return the path of a copy of a data file; see `featstore.store.place.Place`."""
        identity = commit.revision_id
        if identity not in self._copies:
            self._copies[identity] = self.store.place.data_files(self.info.key, commit)
        return self._copies[identity](number)

    def _content(self, one: Listed) -> bytes:
        data, path = one.content, self.store.root / one.path
        if data is None and one.check(self.store.root).reasons:
            raise CorruptStoreError(
                f"{path} is missing or differs from its commit record. The set was not sent."
            )
        return read_regular(path, limit=MAX_ITEM_BYTES) if data is None else data


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
    """Return the present commit of a set in a place, and the ids of its revisions, newest first.

    The commit is None if there is none, or it is damaged: everything is sent then.
    """
    revision = log.sets.get(str(key)) if log else None
    if revision is None:
        return None, []
    name = f"{key}/{REVISIONS}/{revision}.json"
    with contextlib.suppress(CorruptStoreError, FileNotFoundError):
        data = objects.read(name, limit=MAX_JSON_BYTES)
        commit = commit_of(data, key, revision, where=f"{objects.address}/{name}")
        return commit, [*commit.published]
    return None, [revision]


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
    """Put a set into the store at `objects`.

    Parameters
    ----------
    force : bool
        Replace another publisher's unfinished push: only if it is known to be dead.

    Raises
    ------
    PublishConflictError
        If another publisher was first, or is at work; the message names its revision.
    """
    key, commit = source.info.key, source.info.commit
    where = f"{objects.address}/{key}"
    claim = f"{key}/.staging/push.json"
    held = _read_claim(objects, claim)  # before the log, which says whether it is over
    base, published = read_present(objects, key, objects.log())
    found = relation(published, commit.published, where=where)
    if found not in TO_SEND:
        return found
    sizes: dict[str, int] = {}
    if not objects.is_atomic:
        sizes = _strange_files(objects, key, base)
        # By its size a file is believed only if nobody but this publisher can have put it.
        if not _claim(
            objects, claim, held, source.revision, published, where=where,
            force=force, strange=bool(sizes),
        ):  # fmt: skip
            sizes = {}
    for own, number in source.data(published, base):
        file = own.layout.files[number]
        if sizes.get(f"{key}/{file.path}") != file.size:
            objects.put(f"{key}/{file.path}", source.data_file(own, number))
        progress(file.size)
    for name, data in source.small_files(published if base else ()).items():
        objects.put(name, data)
    if not objects.is_atomic and _read_claim(objects, claim)[0].get("revision") != source.revision:
        raise PublishConflictError(
            f"The push of {where} was taken over by another publisher. Nothing was published."
        )

    def enter(log: Log) -> Log:
        now = log.sets.get(str(key), "")
        if now == "".join(published[:1]):
            return log.with_sets({str(key): source.revision})
        if source.revision not in read_present(objects, key, log)[1]:
            raise conflict(where, winner=now or "none", loser=source.revision)
        return log  # another publisher of this revision was faster, and may have extended it

    for name, data in zarr_metadata(key, commit).items():
        objects.put(name, data)
    ours = False
    try:
        ours = objects.update_log(enter)
    finally:
        if not ours:
            put_metadata(objects, key)
    return found


def put_metadata(objects: Objects, key: SetKey) -> None:
    """Bring Zarr's metadata of a set in a bucket in line with the log, until that stood still."""
    log = None
    while log != (now := objects.log()):
        log = now
        commit, _ = read_present(objects, key, log)
        for name, data in zarr_metadata(key, commit).items() if commit else ():
            objects.put(name, data)


def _strange_files(objects: Objects, key: SetKey, base: Commit | None) -> dict[str, int]:
    """Return name -> size of the data files in a bucket that its current revision does not name."""
    own = {f"{key}/{file.path}" for file in base.layout.files} if base else set()
    found = objects.names(f"{key}/embedding/")
    return {name: size for name, size in found if name not in own and name.endswith("/0")}


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
        What `_read_claim` returned before the log was read.
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
        "dead, push again with --take-over."
    )


def publish_to_folder(
    root: Path, source: SetSource, *, progress: Callable[[int], object]
) -> Relation:
    """Copy a set into the store at `root`, which is made if it is missing.

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
    key, commit = source.info.key, source.info.commit
    directory = key.directory(root)
    if not has_log(root):
        make_store(root, hash_name=source.store.log.hash)
    objects = FolderObjects(root)

    def look() -> tuple[Commit | None, list[str], Relation]:
        base, published = read_present(objects, key, read_log(root))
        return base, published, relation(published, commit.published, where=f"{root}/{key}")

    found = look()[-1]
    if found not in TO_SEND:
        settle_set(root, key)  # a copy that was killed behind the log is completed
        return found
    claim = claim_set(directory, key)
    try:
        if any(read_journal(folder)[1] for folder in claim_folders(directory)):
            raise StoreWriteError(
                f"An extraction of {key} into {root} is unfinished. Finish it, or remove it with "
                "`headstock store gc`, and copy the set then."
            )
        # Somebody may have published between the first look and the claim.
        base, published, found = look()
        if found not in TO_SEND:
            settle_claimed(root, key, claim)
            return found
        for own, number in source.data(published, base):
            _copy_file(claim, directory, source, own, number)
            progress(own.layout.files[number].size)
        with folder_lock(directory.parent, patience=claim.patience):  # beside who takes out tables
            for name, data in source.small_files().items():
                write_file_once(claim, root / name, data)
        publish_commit(root, key, claim, commit, after="".join(published[:1]))
    finally:
        claim.release()
    return found


def _copy_file(
    claim: Claim, directory: Path, source: SetSource, commit: Commit, number: int
) -> None:
    """Copy a data file, of which every byte is compared with the commit, unless it is there."""
    file = commit.layout.files[number]
    target = directory / file.path
    if target.exists() and not check_file(target, file, commit).reasons:
        claim.rely_on(target)
        return
    with open_regular(source.data_file(commit, number)) as data:
        claim.write_file(target, pieces(data))
