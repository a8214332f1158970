"""Copy sets between stores: what differs, in which order files go, and the tags that follow."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import polars as pl

from featstore.address import parse_address
from featstore.errors import (
    CorruptStoreError,
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
    Relation,
    SetSource,
    bucket_format,
    make_bucket_store,
    publish,
    read_record,
    update_catalog,
)
from featstore.store.catalog import (
    ABOUT,
    parse_catalog,
    read_catalog,
)
from featstore.store.catalog import NAME as CATALOG
from featstore.store.files import (
    MAX_JSON_BYTES,
    json_bytes,
)
from featstore.store.records import (
    REVISIONS,
    SIGNATURE,
    StoreFormat,
    key_of,
    read_pointer,
    tag_document,
    tag_file,
)
from featstore.store.signature import (
    MAX_COUNTER,
    Signature,
    check_outside_stores,
    check_sets,
    private_key,
    read_signature,
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
    catalog = bucket_catalog(objects)
    old: dict[str, bytes] = {}
    for name in ABOUT:
        with contextlib.suppress(FileNotFoundError):
            old[name] = objects.read(name, limit=MAX_ITEM_BYTES)
    listed = catalog.get("about", {})
    own = [name for name in ABOUT if name not in old or listed.get(name) == sha256_hex(old[name])]
    if "README.md" in own and "README.md" in old:
        licences = {**stated_licences(old["README.md"].decode()), **licences}
    cards = {
        str(card.info.key): card
        for card in set_cards(opened, licences)
        if catalog["sets"].get(str(card.info.key)) == card.info.commit.revision_id
    }
    if catalog["sets"].keys() - cards.keys():
        # What other publishers put there is described as it was before.
        there = set_cards(open_store(objects.pinned()), licences)
        cards = {**{str(card.info.key): card for card in there}, **cards}
    chosen = [cards[key] for key in sorted(cards) if key in catalog["sets"]]
    title = objects.address.rsplit("/", 1)[-1]
    metadata = croissant(title, chosen, url=objects.page, files=objects.downloads)
    texts = (hub_card(title, chosen, address=objects.address), croissant_text(metadata))
    new = {name: text.encode() for name, text in zip(ABOUT, texts, strict=True) if name in own}
    for name, data in new.items():
        if data != old.get(name):
            objects.put(name, data)
    digests = {name: sha256_hex(data) for name, data in new.items()}
    update_catalog(objects, (), about=digests)


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
        if _fits(str(info.key), select)
    }
    if not revisions:
        raise UnknownSetError(
            f"{store.address} holds no set{' that fits' if select else ''}: nothing to tag."
        )
    send_tag(place, name, revisions)
    return revisions


def send_tag(place: str | Path | Objects, name: str, revisions: dict[str, str]) -> bool:
    """Write a tag to a folder or a bucket, in the format of its store.

    The file comes first, then its entry in the catalog, without which no reader takes it: the same
    call again ends well wherever it was stopped, and gives a listed tag its file back.

    Returns
    -------
    bool
        False if all was there and said the same.

    Raises
    ------
    StoreWriteError
        If there is a tag of this name that says something else, or the file system refuses.
    RemoteStoreError
        If the store cannot be written.
    """
    objects = place if isinstance(place, Objects) else writable_objects(parse_address(place))
    document = tag_document(name, revisions)
    data, path = json_bytes(document), tag_file(name)
    with objects.hold(f"{key}/{REVISIONS}/{revision}.json" for key, revision in revisions.items()):
        listed = bucket_catalog(objects).get("tags", {}).get(name)
        if listed not in (None, document["digest"]):
            raise taken(objects.address, name)
        created = objects.create(path, data)
        if not created and objects.read(path, limit=MAX_JSON_BYTES) != data:
            if listed is None:
                raise taken(objects.address, name)
            objects.put(path, data)
            return True
        if listed is None:
            update_catalog(objects, (), tags={name: document["digest"]})
        return created or listed is None


def drop_tag(place: str | Path, name: str) -> bool:
    """Take a tag out of a store: first out of the catalog, then its file; False if there is none.

    Raises
    ------
    StoreWriteError, RemoteStoreError
        If the store cannot be written.
    """
    objects = writable_objects(parse_address(place))
    with objects.hold():
        there = name in open_store(place).tags()
        if name in bucket_catalog(objects).get("tags", {}):
            update_catalog(objects, (), tags={name: ""})
        objects.delete(tag_file(name))
    return there


def taken(where: str, name: str) -> StoreWriteError:
    """Return the error for a tag that is there and says something else."""
    return StoreWriteError(
        f"{where} has a tag {name!r} of other revisions. Tags never change: choose another name, "
        f"or, if nobody used it, drop it with `featstore tag {where} {name} --delete`."
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
        If the key is none or lies in a store, or a set is not as the catalog lists it.
    CorruptStoreError
        If a record or a tag is damaged.
    StoreWriteError, RemoteStoreError
        If the store has no catalog, or cannot be written.
    """
    check_outside_stores(key)
    private = private_key(key)
    public = private.public_key().public_bytes_raw().hex()
    objects = writable_objects(parse_address(place))
    store = open_store(place)
    catalog = read_catalog(store.root)
    if catalog is None:
        raise StoreWriteError(
            f"{store.address} has no catalog: what it holds is not listed. Run `featstore repair`, "
            "and sign that."
        )
    found = {str(info.key): info.commit.revision_id for info in store.sets()}
    check_sets(found, catalog["sets"], where=store.address, what="listed")
    for name in store.tags():
        store.tag(name)
    try:
        store.place.refresh(SIGNATURE)
        there = read_signature(store.root, where=store.address)
    except (SignatureError, CorruptStoreError):
        there = None  # a damaged one is replaced
    if there is not None and there.public_key == public and there.covers(catalog):
        remember(store.address, public, there.counter)  # a kill may have come between the two
        return there
    before = there.counter if there is not None and there.public_key == public else 0
    counter = 1 + max(before, remembered(store.address, public))
    if counter > MAX_COUNTER:
        raise SignatureError(
            f"{store.address}/{SIGNATURE} has number {before:,}, the highest: somebody forged it. "
            "Delete it, and sign again."
        )
    signed = private.sign(signed_bytes(catalog, counter)).hex()
    made = Signature(public, counter, signed)
    objects.put(SIGNATURE, json_bytes(made.document()))
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
    force: bool = False,
    progress: Callable[[int], object] | None = None,
    key: str | Path | bytes | None = None,
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
    force : bool
        See `featstore.share.publish.publish_to_bucket`.
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
    chosen = [path for path in opened.folders() if _fits(str(key_of(path)), select)]
    if select and not chosen:
        raise UnknownSetError(f"{opened.address} holds no set that fits {', '.join(select)}.")
    for _ in range(ROUNDS):
        report = CopyReport()
        with open_objects(place).draft() as there:
            copying = _Copying(opened, there, report, force, progress or (lambda _: None))
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
    force: bool
    progress: Callable[[int], object]
    published: dict[str, list[str]] = field(default_factory=dict)

    def send(
        self, chosen: Sequence[Path], *, everything: bool, licences: Mapping[str, str]
    ) -> list[str]:
        """Send the sets of these folders and, with `everything`, what else the store holds.

        Returns
        -------
        list of str
            Keys of the sets that were sent.
        """
        in_folder = isinstance(self.place, FolderObjects)
        if not in_folder and bucket_format(self.place) is None:
            make_bucket_store(self.place, StoreFormat(hash=self.opened.form.hash))
        # In a folder the pointers say it, and what a kill left untidy there is tidied up.
        current = {} if in_folder else bucket_catalog(self.place)["sets"]
        for folder in chosen:
            key = str(key_of(folder))
            try:
                there: Relation = "same"
                pointer = read_pointer(folder) or {"revision": ""}
                self.published[key] = [pointer["revision"], *pointer.get("history", [])]
                if pointer["revision"] != current.get(key):
                    source = SetSource(self.opened, self.opened.info(key))
                    there = publish(self.place, source, force=self.force, progress=self.progress)
            except FeatstoreError as err:
                self.report.failed[key] = str(err)
                self.place.undo()
                continue
            # The cache may drop the files of one remote set for those of the next.
            self.place.keep(arrived=self.opened.place.is_remote)
            self.report.sets[key] = there
        if everything:
            self._send_tags()
        pictures = send_thumbnails(self.opened, self.place, sorted(self.report.sets))
        here = [key for key, there in self.report.sets.items() if there != "newer"]
        if not in_folder:
            new = [key for key in here if current.get(key) != self.published[key][0]]
            update_catalog(self.place, new, thumbnails=pictures)
        if self.place.page:
            send_card(self.opened, self.place, licences)
        if everything:
            self._send_signature()
        return [key for key in here if self.report.sets[key] != "same"]

    def _send_tags(self) -> None:
        """Send the tags of which the target has every set at the revision that they name."""
        for name in self.opened.tags():
            try:
                tag = self.opened.tag(name)
                if all(key in self.report.sets and tag[key] in self.published[key] for key in tag):
                    send_tag(self.place, name, tag)
            except FeatstoreError as err:
                self.report.failed[tag_file(name)] = str(err)

    def _send_signature(self) -> None:
        """Send the signature to a copy that lists the very sets and tags that the store lists."""
        try:
            self.opened.place.refresh(SIGNATURE)
            signature = read_signature(self.opened.root, where=self.opened.address)
        except FeatstoreError as err:
            self.report.failed[SIGNATURE] = str(err)
            return
        if signature is None:
            return
        there, where = None, f"{self.place.address}/{SIGNATURE}"
        with contextlib.suppress(SignatureError, CorruptStoreError):  # a damaged one is replaced
            document, _ = read_record(self.place, SIGNATURE)
            there = None if document is None else Signature.parse(document, where=where)
        theirs, mine = bucket_catalog(self.place), read_catalog(self.opened.root) or {}
        same = all(mine.get(name) == theirs.get(name) for name in ("sets", "tags"))
        # That of another key stays: whose signature a store carries, its owner says.
        own = there is None or there.public_key == signature.public_key
        if same and own and (there is None or there.counter < signature.counter):
            self.place.put(SIGNATURE, json_bytes(signature.document()))


def bucket_catalog(objects: Objects) -> dict[str, Any]:
    """Return the catalog of a store, empty if it has none: one request for all sets."""
    document, _ = read_record(objects, CATALOG)
    return parse_catalog(document) or {"sets": {}}


def _fits(key: str, patterns: Sequence[str]) -> bool:
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
        whole = min(one.n, other.n) // one.block_rows
        whole = len(one.blocks) if one.n == other.n else whole
        pairs = zip(one.blocks[:whole], other.blocks[:whole], strict=True)
        blocks = sum(left != right for left, right in pairs)
    names = sorted({*a[1].attributes, *b[1].attributes} - {"revision", "history"})
    values = {name: (a[1].attributes.get(name), b[1].attributes.get(name)) for name in names}
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
