"""Copying sets between stores, wherever they lie.

Each is published so that readers never see half a set.

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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from featstore.address import parse_address
from featstore.durable import (
    MAX_JSON_BYTES,
    json_bytes,
    open_regular,
    pieces,
    read_regular,
)
from featstore.errors import (
    CorruptStoreError,
    FeatstoreError,
    PublishConflictError,
    RemoteStoreError,
    SignatureError,
    StoreWriteError,
    UnknownSetError,
    listed,
)
from featstore.identity import SHA256
from featstore.remote import FolderObjects, Objects, open_objects, writable_objects
from featstore.remote.place import RemotePlace
from featstore.share.card import send_card
from featstore.store.gc import check_hash, make_store
from featstore.store.layout import SetKey
from featstore.store.listing import Listed, set_files
from featstore.store.lock import Claim, claim_set, folder_lock
from featstore.store.log import (
    MAX_COUNTER,
    Log,
    Signature,
    check_outside_stores,
    has_log,
    private_key,
    signed_bytes,
)
from featstore.store.log import NAME as LOG
from featstore.store.records import (
    FIRST,
    REVISIONS,
    Commit,
    commit_of,
    root_metadata,
    tag_document,
    tag_file,
    zarr_metadata,
)
from featstore.store.store import FeatureStore, SetInfo, open_store
from featstore.store.tables import MAX_ITEM_BYTES, write_thumbnails
from featstore.store.writer import (
    publish_commit,
    refuse_unfinished,
    tidy_claimed,
    tidy_set,
)


@dataclass
class SetSource:
    """One set of an opened store, as it is now."""

    store: FeatureStore
    info: SetInfo

    @functools.cached_property
    def _fetched(self) -> Callable[[int], Path] | None:
        """What brings a data file of a remote store into the cache, verified."""
        place = self.store.place
        if not isinstance(place, RemotePlace):
            return None
        return place.array(self.info.key, self.info.commit).fetch_file

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
        wrong = "; ".join(one.check(self.store.root)[0])
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
    """Make an empty store in a bucket, of blocks hashed so (sha256); True if it was made now.

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
        raise RemoteStoreError(f"{err} Choose another prefix if it is not yours.") from err
    check_hash(objects.address, log, hash_name)
    made = log or Log(hash_name or SHA256)
    if made.sets:
        return False
    with contextlib.suppress(FileNotFoundError):
        objects.read("zarr.json", limit=MAX_JSON_BYTES)
        return False
    # The group is there once the conditions were tried: a kill may have come between.
    check_conditions(objects, made)
    return objects.create("zarr.json", root_metadata(made.hash))


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
    names: Mapping[str, int] | None = None,
    *,
    progress: Callable[[int], object] = lambda _: None,
) -> Relation:
    """Copy a set into the store at `place`.

    Parameters
    ----------
    names : mapping, optional
        Name and size of the files of the place. A set of the same revision whose files are not all
        there is then copied like an earlier one.

    Raises
    ------
    PublishConflictError
        If another publisher was first; the message names its revision.
    """
    if isinstance(place, FolderObjects):
        return publish_to_folder(place, source, progress=progress)
    key, commit = source.info.key, source.info.commit
    base, before, found = _look(place, source)
    if found == "same" and base is not None and names and _lacking(key, base, names):
        base, found = None, "behind"
    if found not in TO_SEND:
        return found
    there = {} if place.is_atomic else dict(place.names(f"{key}/embedding/"))
    for one in source.files(base):
        _put(place, source, one, there)
        progress(one.data.size if one.data else 0)

    def enter(log: Log) -> Log:
        now = log.sets.get(str(key), "")
        if now == before:
            return log.with_sets({str(key): commit.digest})
        if commit.revision_id not in read_present(place, key, log)[1]:
            where = f"{place.address}/{key}"
            raise conflict(where, winner=now or "none", loser=commit.revision_id)
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


def mend(
    place: Objects,
    source: SetSource,
    there: Mapping[str, int],
    *,
    progress: Callable[[int], object],
) -> Relation:
    """Put the files of a set that a place lists as it is here, but has not in full.

    Parameters
    ----------
    there : mapping
        Name and size of the files of the place.

    Returns
    -------
    Relation
        ``"behind"`` if one was missing or had another size.
    """
    wrong = _lacking(source.info.key, source.info.commit, there)
    for one in wrong:
        place.put(one.path, source.content(one))
        progress(one.data.size if one.data else 0)
    if wrong:  # Zarr's, too, of which another publisher may have put a later one meanwhile
        put_metadata(place, source.info.key)
    return "behind" if wrong else "same"


def _lacking(key: SetKey, commit: Commit, there: Mapping[str, int]) -> list[Listed]:
    """Return the files of a set that are missing, or of another size, where `there` are."""
    return [
        one
        for one in set_files(key, commit).values()
        if there.get(one.path) != (one.data.size if one.data else one.facts["bytes"])
    ]


def _look(place: Objects, source: SetSource) -> tuple[Commit | None, str, Relation]:
    """Return commit and digest of a set in a place, and how it stands to the source.

    Raises
    ------
    PublishConflictError
        If both were extended apart, or the source has what was withdrawn there.
    """
    (key, commit), log = (source.info.key, source.info.commit), place.log() or Log()
    base, published = read_present(place, key, log)
    found = relation(published, commit.published, where=f"{place.address}/{key}")
    if base is not None and found == "behind":
        # Rows that were tried again are failed ones of that revision here, too.
        back = base.failed_rows() & ~commit.at(base.revision_id).failed_rows()
        if back.any():
            ids = source.store.item_table(source.info)["item_id"].head(base.n).filter(back)
            raise PublishConflictError(
                f"{place.address}/{key} has withdrawn {len(ids):,} pictures that "
                f"{source.store.address} still has: {listed(ids)}. Withdraw them there, too "
                "(`headstock store rm KEY --items FILE`)."
            )
    return base, log.sets.get(str(key), ""), found


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
        _compare(objects, one.path, data, source.info.commit.revision_id)


def _compare(objects: Objects, name: str, data: bytes | Path, revision: str) -> None:
    """Raise PublishConflictError if a file of a place holds other bytes than those."""
    with io.BytesIO(data) if isinstance(data, bytes) else open_regular(data) as own:
        size = own.seek(0, io.SEEK_END)
        if objects.size(name) == size:
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
    found = _look(place, source)[-1]
    if found not in TO_SEND:
        tidy_set(root, key)  # a copy that was killed behind the log is completed
        return found
    with claim_set(directory, key) as claim:
        refuse_unfinished(root, key, "copy the set")
        # Somebody may have published between the first look and the claim.
        base, before, found = _look(place, source)
        if found not in TO_SEND:
            tidy_claimed(root, key, claim)
            return found
        for one in source.files(base):
            # Beside who takes out tables.
            tables = folder_lock(directory.parent)
            with tables if one.part == "items" else contextlib.nullcontext():
                _copy_file(claim, root, source, one)
            progress(one.data.size if one.data else 0)
        publish_commit(root, key, claim, commit, after=before)
    return found


def _copy_file(claim: Claim, root: Path, source: SetSource, one: Listed) -> None:
    """Copy a file, unless it is there as its commit says."""
    path = root / one.path
    if not one.check(root)[0]:
        claim.rely_on(path)
        return
    data = source.content(one)
    with io.BytesIO(data) if isinstance(data, bytes) else open_regular(data) as own:
        claim.write_file(path, pieces(own))


def send_thumbnails(source: FeatureStore, place: Objects | Path, keys: Iterable[str]) -> None:
    """Copy the thumbnails of the kinds of these sets, and enter them in the log."""
    objects = open_objects(place) if isinstance(place, Path) else place
    put: set[str] = set()
    for kind in sorted({key.rpartition("/")[0] for key in keys}):
        pictures = source.thumbnails(*kind.split("/"))  # fetched, and compared with their names
        if pictures and isinstance(objects, FolderObjects):
            write_thumbnails(objects.root / kind, pictures)
        elif pictures:
            there = dict(objects.names(f"{kind}/"))
            for path in sorted((source.root / kind).glob("thumbnails-*.parquet")):
                name = f"{kind}/{path.name}"
                if there.get(name) != path.stat().st_size:
                    objects.put(name, path)
                put.add(name)
    if put:
        objects.update_log(lambda log: replace(log, thumbnails=log.thumbnails | put))


def make_tag(place: str | Path, name: str, *, select: Sequence[str] = ()) -> dict[str, str]:
    """Give the current revisions of a store's sets a name, and return key -> revision_id.

    Named are those whose keys fit one of the patterns in `select`; all without any.

    Raises
    ------
    LayoutError
        If no tag can have this name.
    UnknownSetError
        If no set fits.
    StoreWriteError
        If there is a tag of this name that says something else.
    RemoteStoreError
        If the store cannot be written.
    """
    store = open_store(place)
    revisions = {
        str(info.key): info.commit.revision_id
        for info in store.sets()
        if fits(str(info.key), select)
    }
    if not revisions:
        raise UnknownSetError(
            f"{store.address} holds no set{' that fits' if select else ''}: nothing to tag."
        )
    send_tag(store.address, name, revisions)
    return revisions


def send_tag(place: str | Path | Objects, name: str, revisions: dict[str, str]) -> None:
    """Write a tag to a folder or a bucket.

    The file comes first, then its entry in the log, without which there is no tag: the same call
    again ends well wherever it was stopped, and gives a listed tag its file back.

    Raises
    ------
    StoreWriteError
        If there is a tag of this name that says something else, a set does not have the revision
        that it names any more, or the file system refuses.
    RemoteStoreError
        If the store cannot be written.
    """
    objects = place if isinstance(place, Objects) else writable_objects(parse_address(place))
    document = tag_document(name, revisions)
    data, digest = json_bytes(document), document["digest"]
    path = tag_file(name, digest)

    def enter(log: Log) -> Log:
        if log.tags.get(name, digest) != digest:
            raise StoreWriteError(
                f"{objects.address} has a tag {name!r} of other revisions. Tags never change: "
                "choose another name, or, if nobody used it, drop it with `headstock store tag "
                f"{objects.address} {name} --delete`."
            )
        for key, revision in () if name in log.tags else revisions.items():
            if revision not in read_present(objects, SetKey(*key.split("/")), log)[1]:
                raise StoreWriteError(
                    f"{key} of {objects.address} was removed, or written anew, meanwhile: nothing "
                    "was written. Type the command again."
                )
        # In a folder under the lock of the log, under which tags that it does not list are removed.
        if not objects.create(path, data) and objects.read(path, limit=MAX_JSON_BYTES) != data:
            objects.put(path, data)  # it was damaged
        return replace(log, tags={**log.tags, name: digest})

    objects.update_log(enter)


def drop_tag(place: str | Path, name: str) -> bool:
    """Take a tag out of the log of a store; False if there is none. Its file is left to gc.

    Raises
    ------
    StoreWriteError, RemoteStoreError
        If the store cannot be written.
    """
    open_store(place)
    return writable_objects(parse_address(place)).update_log(
        lambda log: replace(log, tags={one: log.tags[one] for one in log.tags if one != name})
    )


def sign_store(place: str | Path, key: Path) -> Signature:
    """Sign what a store holds now, and return the signature; the one that is there if it does.

    Parameters
    ----------
    key : Path
        A private Ed25519 key, in PEM.

    Raises
    ------
    SignatureError
        If the key is none or lies in a store, or the store was changed meanwhile.
    CorruptStoreError
        If a record or a tag is damaged.
    StoreWriteError, RemoteStoreError
        If the store cannot be written.
    """
    check_outside_stores(key)
    private = private_key(key)
    public = private.public_key().public_bytes_raw().hex()
    objects = writable_objects(parse_address(place))
    store = open_store(place)
    log = store.log
    store.sets()
    for name in log.tags:
        store.tag(name)
    there = log.signature
    if there is not None and there.public_key == public and there.covers(log):
        return there
    before = there.counter if there is not None and there.public_key == public else 0
    counter = before + 1
    if counter > MAX_COUNTER:
        raise SignatureError(
            f"{store.address} is signed as number {before:,}, the highest: somebody forged it. "
            "Sign by a new key."
        )
    made = Signature(public, counter, private.sign(signed_bytes(log, counter)).hex())

    def enter(now: Log) -> Log:
        if (now.sets, now.tags) != (log.sets, log.tags):
            raise SignatureError(f"{store.address} was changed meanwhile. Sign it again.")
        return replace(now, signature=made)

    objects.update_log(enter)
    return made


@dataclass
class CopyReport:
    """What became of each set: key -> how the destination stood to it before.

    Attributes
    ----------
    sets : dict
        ``"new"`` and ``"behind"`` were sent, ``"same"`` and ``"newer"`` needed nothing.
    failed : dict
        Key -> why it was not sent; the other sets were.
    address : str
        Where exactly this state can be read: the commit, on the hub; empty elsewhere.
    """

    address: str = ""
    sets: dict[str, Relation] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def copy_sets(
    source: str | Path,
    target: str | Path,
    *,
    select: Sequence[str] = (),
    progress: Callable[[int], object] | None = None,
    key: str | None = None,
    at_least: int = 0,
    licences: Mapping[str, str] | None = None,
) -> CopyReport:
    """Copy the sets of one store that another lacks or has an earlier revision of.

    Parameters
    ----------
    source, target : path or address
        Any that `open_store` knows; the target one that can be written: a folder, a bucket or a
        dataset of the hub, which gets one commit, with a card. If all sets are copied, so are the
        tags, and a signature if it covers what the target then holds.
    select : sequence of str
        Patterns of keys such as ``stamps/image/*`` or ``*/*/timm.*``; a set that fits one of them
        is copied. All by default.
    progress : callable, optional
        Called with bytes that were sent.
    key, at_least
        Public key that the source must be signed by: see `featstore.store.store.open_store`.
    licences : mapping, optional
        Dataset -> licence of its items, for the card that is written to a dataset of the hub.

    Raises
    ------
    UnknownSetError
        If no set fits.
    FeatstoreError
        If the source cannot be opened or the target not be made. What is wrong with one set stops
        only that one, and is in the report.

    Examples
    --------
    >>> key = toy_store("store")
    >>> report = copy_sets("store", "copy", select=["toy/*"])
    >>> len(open_store("copy").sets())
    2
    """
    opened = open_store(source, key=key, at_least=at_least)
    place = parse_address(target)
    chosen = [key for key in opened if fits(key, select)]
    if select and not chosen:
        raise UnknownSetError(f"{opened.address} holds no set that fits {', '.join(select)}.")
    for _ in range(ROUNDS):
        report = CopyReport()
        with open_objects(place).draft() as there:
            copying = _Copying(opened, there, report, progress or (lambda _: None))
            sent = copying.send(chosen, everything=not select, licences=licences or {})
            # Whoever was slower looks at what the other has published, and decides anew.
            if there.publish(f"Publish {', '.join(sent) or 'nothing new'}"[:120]):
                report.address = there.pinned() if there.is_atomic else ""
                return report
    raise RemoteStoreError(f"{target} changes all the time. Push again.")


@dataclass
class _Copying:
    """One attempt to bring sets, tags and signature of a store to another place."""

    opened: FeatureStore
    place: Objects
    report: CopyReport
    progress: Callable[[int], object]
    published: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def send(
        self, chosen: Sequence[str], *, everything: bool, licences: Mapping[str, str]
    ) -> list[str]:
        """Send these sets and, with `everything`, what else the store holds; return keys sent."""
        # What a kill left untidy in a folder is tidied up.
        in_folder, current = isinstance(self.place, FolderObjects), dict[str, str]()
        if not in_folder:
            log = self.place.log()
            current = {} if log is None else log.sets
            make_bucket_store(self.place, self.opened.log.hash if log is None else log.hash)
        there = dict(self.place.names()) if current else {}
        for key in chosen:
            try:
                source = SetSource(self.opened, self.opened.info(key))
                self.published[key] = source.info.commit.published
                self.report.sets[key] = (
                    mend(self.place, source, there, progress=self.progress)
                    if source.info.commit.digest == current.get(key)
                    else publish(self.place, source, there, progress=self.progress)
                )
            except FeatstoreError as err:
                self.report.failed[key] = str(err)
            # The cache may drop the files of one remote set for those of the next.
            self.place.keep()
        if everything:
            self._send_tags()
        send_thumbnails(self.opened, self.place, sorted(self.report.sets))
        if self.place.is_atomic:
            send_card(self.opened, self.place, licences)
        if everything:
            self._send_signature()
        return [key for key, there in self.report.sets.items() if there in TO_SEND]

    def _send_tags(self) -> None:
        """Send the tags of which the target has every set at the revision that they name."""
        for name in self.opened.tags():
            try:
                tag = self.opened.tag(name)
                if all(key in self.report.sets and tag[key] in self.published[key] for key in tag):
                    send_tag(self.place, name, tag)
            except FeatstoreError as err:
                self.report.failed[name] = str(err)

    def _send_signature(self) -> None:
        """Send the signature to a copy that lists the very sets and tags that the store lists."""
        mine = self.opened.log
        signature = mine.signature

        def enter(log: Log) -> Log:
            there = log.signature
            # That of another key stays: whose signature a store carries, its owner says.
            own = there is None or (
                signature is not None and there.public_key == signature.public_key
                and there.counter < signature.counter
            )  # fmt: skip
            same = (mine.sets, mine.tags) == (log.sets, log.tags)
            return replace(log, signature=mine.signature) if own and same else log

        if signature is not None:
            self.place.update_log(enter)


def fits(key: str, patterns: Sequence[str]) -> bool:
    """Return whether a key matches one of these patterns; without any, each does."""
    return not patterns or any(fnmatchcase(key, pattern) for pattern in patterns)
