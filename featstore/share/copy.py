"""Copy sets between stores: what differs, in which order files go, and the tags that follow."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

import polars as pl

from featstore.address import parse_address
from featstore.errors import (
    FeatstoreError,
    RemoteStoreError,
    SignatureError,
    StoreWriteError,
    UnknownSetError,
)
from featstore.identity import sha256_hex
from featstore.remote.objects import FolderObjects, Objects, open_objects, writable_objects
from featstore.share.card import (
    croissant,
    croissant_text,
    hub_card,
    set_cards,
    stated_licences,
)
from featstore.share.publish import (
    ROUNDS,
    TO_SEND,
    Relation,
    SetSource,
    make_bucket_store,
    publish,
    read_present,
)
from featstore.store.files import MAX_JSON_BYTES, json_bytes
from featstore.store.layout import SetKey
from featstore.store.log import ABOUT, MAX_COUNTER, Log, Signed
from featstore.store.records import tag_document, tag_file
from featstore.store.signature import (
    Signature,
    check_outside_stores,
    private_key,
    remember,
    remembered,
    signed_bytes,
)
from featstore.store.store import FeatureStore, SetInfo, open_store
from featstore.store.tables import MAX_ITEM_BYTES, write_thumbnails


def send_thumbnails(
    source: FeatureStore, place: Objects | Path, keys: Iterable[str]
) -> frozenset[str]:
    """Copy the thumbnails of the kinds of these sets; return the names of files put in a bucket."""
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
    return frozenset(put)


def send_card(opened: FeatureStore, objects: Objects, licences: Mapping[str, str]) -> None:
    """Write the card and the Croissant metadata of what the draft of a store holds.

    A file of the same name that no push has written stays as it is.

    Parameters
    ----------
    licences : mapping
        Dataset -> licence of its items; those that the earlier card states are kept.
    """
    log = objects.log() or Log()
    old: dict[str, bytes] = {}
    for name in ABOUT:
        with contextlib.suppress(FileNotFoundError):
            old[name] = objects.read(name, limit=MAX_ITEM_BYTES)
    listed = log.about
    own = [name for name in ABOUT if name not in old or listed.get(name) == sha256_hex(old[name])]
    if "README.md" in own and "README.md" in old:
        licences = {**stated_licences(old["README.md"].decode()), **licences}
    cards = {
        str(card.info.key): card
        for card in set_cards(opened, licences)
        if log.sets.get(str(card.info.key)) == card.info.commit.digest
    }
    if log.sets.keys() - cards.keys():
        # What other publishers put there is described as it was before.
        there = set_cards(open_store(objects.pinned()), licences)
        cards = {**{str(card.info.key): card for card in there}, **cards}
    chosen = [cards[key] for key in sorted(cards) if key in log.sets]
    title = objects.address.rsplit("/", 1)[-1]
    metadata = croissant(title, chosen, url=objects.page, files=objects.downloads)
    texts = (hub_card(title, chosen, address=objects.address), croissant_text(metadata))
    new = {name: text.encode() for name, text in zip(ABOUT, texts, strict=True) if name in own}
    for name, data in new.items():
        if data != old.get(name):
            objects.put(name, data)
    digests = {name: sha256_hex(data) for name, data in new.items()}
    objects.update_log(lambda log: replace(log, about={**log.about, **digests}))


def make_tag(place: str | Path, name: str, *, select: Sequence[str] = ()) -> dict[str, str]:
    """Give the current revisions of a store's sets a name, and return key -> revision_id.

    Parameters
    ----------
    select : sequence of str
        Patterns of keys; all sets by default.

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
    send_tag(place, name, revisions)
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
            raise taken(objects.address, name)
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


def taken(where: str, name: str) -> StoreWriteError:
    """Return the error for a tag that is there and says something else."""
    return StoreWriteError(
        f"{where} has a tag {name!r} of other revisions. Tags never change: choose another name, "
        f"or, if nobody used it, drop it with `headstock store tag {where} {name} --delete`."
    )


def sign_store(place: str | Path, key: Path) -> Signature:
    """Sign what a store holds now, and return the signature; the one that is there if it does.

    Parameters
    ----------
    place : path or address
        A folder, or a bucket.
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
    there = Signature.of(log)
    if there is not None and there.public_key == public and there.covers(log):
        remember(store.address, public, there.counter)  # a kill may have come between the two
        return there
    before = there.counter if there is not None and there.public_key == public else 0
    counter = 1 + max(before, remembered(store.address, public))
    if counter > MAX_COUNTER:
        raise SignatureError(
            f"{store.address} is signed as number {counter - 1:,}, the highest: somebody forged "
            "it. Sign by a new key."
        )
    made = Signature(public, counter, private.sign(signed_bytes(log, counter)).hex())

    def enter(now: Log) -> Log:
        if (now.sets, now.tags) != (log.sets, log.tags):
            raise SignatureError(f"{store.address} was changed meanwhile. Sign it again.")
        return replace(now, signature=cast("Signed", vars(made)))

    objects.update_log(enter)
    remember(store.address, public, counter)
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
        dataset of the hub, which gets one commit, with a card. If
        all sets are copied, so are the tags,
        and a signature if it covers what the target then holds.
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
        """Send these sets and, with `everything`, what else the store holds.

        Returns
        -------
        list of str
            Keys of the sets that were sent.
        """
        # What a kill left untidy in a folder is tidied up.
        in_folder, current = isinstance(self.place, FolderObjects), dict[str, str]()
        if not in_folder:
            log = self.place.log()
            current = {} if log is None else log.sets
            make_bucket_store(self.place, self.opened.log.hash if log is None else log.hash)
        for key in chosen:
            try:
                there: Relation = "same"
                source = SetSource(self.opened, self.opened.info(key))
                self.published[key] = source.info.commit.published
                if source.info.commit.digest != current.get(key):
                    there = publish(self.place, source, progress=self.progress)
            except FeatstoreError as err:
                self.report.failed[key] = str(err)
                self.place.undo()
                continue
            # The cache may drop the files of one remote set for those of the next.
            self.place.keep()
            self.report.sets[key] = there
        if everything:
            self._send_tags()
        pictures = send_thumbnails(self.opened, self.place, sorted(self.report.sets))
        if pictures:
            self.place.update_log(lambda log: replace(log, thumbnails=log.thumbnails | pictures))
        if self.place.page:
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
        signature = Signature.of(mine)

        def enter(log: Log) -> Log:
            there = Signature.of(log)
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


@dataclass(frozen=True)
class SetDifference:
    """How a set differs.

    Attributes
    ----------
    key : str
    state : str
        ``"only in A"``, ``"only in B"``, or ``"differs"``.
    revisions : tuple of str
        Of A and of B; empty where the set is missing.
    added, removed : int
        Items that only B, or only A, has.
    changed_items : int
        Items of both whose row of the item table differs.
    changed_blocks : int or None
        Blocks of rows with another hash, of those that both have in full; None if the two cannot be
        compared by blocks (other dimension, dtype or block size).
    failed : tuple of int
        Items without an embedding in A and in B.
    """

    key: str
    state: str
    revisions: tuple[str, str]
    added: int = 0
    removed: int = 0
    changed_items: int = 0
    changed_blocks: int | None = None
    failed: tuple[int, int] = (0, 0)
    attributes: dict[str, tuple[Any, Any]] = field(default_factory=dict)


def compare_stores(a: FeatureStore, b: FeatureStore) -> list[SetDifference]:
    """Return the sets in which two stores differ, by key; rows are compared by their hashes.

    Of remote stores only records and item tables are fetched.
    """
    in_a = {str(info.key): info for info in a.sets()}
    in_b = {str(info.key): info for info in b.sets()}
    found = []
    for key in sorted({*in_a, *in_b}):
        one, other = in_a.get(key), in_b.get(key)
        if one is None or other is None:
            state = "only in A" if other is None else "only in B"
            ids = tuple("" if info is None else info.commit.revision_id for info in (one, other))
            found.append(SetDifference(key, state, (ids[0], ids[1])))
        elif one.commit.revision_id != other.commit.revision_id:
            found.append(_compare(key, (a, one), (b, other)))
    return found


def _compare(
    key: str, a: tuple[FeatureStore, SetInfo], b: tuple[FeatureStore, SetInfo]
) -> SetDifference:
    one, other = a[1].commit, b[1].commit
    first, second = (_facts(store.item_table(info)) for store, info in (a, b))
    blocks: int | None = None
    shape = (one.dim, one.dtype, one.block_rows)
    if shape == (other.dim, other.dtype, other.block_rows):
        mine, theirs = one.by_rows, other.by_rows
        blocks = sum(mine[rows] != theirs[rows] for rows in mine.keys() & theirs)
    stated = dict[str, Any](other.attributes)
    values = {name: (value, stated[name]) for name, value in one.attributes.items()}
    return SetDifference(
        key,
        "differs",
        (one.revision_id, other.revision_id),
        added=len(second.keys() - first),
        removed=len(first.keys() - second),
        changed_items=sum(second.get(item, facts) != facts for item, facts in first.items()),
        changed_blocks=blocks,
        failed=(one.n_failed, other.n_failed),
        attributes={name: pair for name, pair in values.items() if pair[0] != pair[1]},
    )


def _facts(table: pl.DataFrame) -> dict[str, str]:
    """Return item_id -> its facts as a text, in which a column without a value is as none."""
    names = sorted(set(table.columns) - {"item_id"})
    return {
        row["item_id"]: repr([(name, row[name]) for name in names if row[name] is not None])
        for row in table.iter_rows(named=True)
    }
