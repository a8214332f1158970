"""Make a tag of a store, wherever it lies."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from featstore.errors import RemoteStoreError, UnknownSetError
from featstore.objects.address import Address, parse_address
from featstore.objects.opening import open_objects
from featstore.store.files import MAX_JSON_BYTES, parse_json
from featstore.store.opening import open_store
from featstore.store.tags import parse_tag, tag_bytes, tag_file, taken, write_tag


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
        if not select or any(fnmatchcase(str(info.key), pattern) for pattern in select)
    }
    if not revisions:
        msg = f"{store.address} holds no set{' that fits' if select else ''}: nothing to tag."
        raise UnknownSetError(msg)
    send_tag(place, name, revisions)
    return revisions


def send_tag(place: str | Path, name: str, revisions: dict[str, str]) -> bool:
    """Write a tag to a folder or a bucket; False if it is there and says the same."""
    address = parse_address(place)
    if not isinstance(address, Address):
        return write_tag(address, name, revisions)
    objects = open_objects(address)
    if not objects.can_write:
        msg = f"{address.url} cannot be written by featstore. Tag the folder, and copy that."
        raise RemoteStoreError(msg)
    if objects.create(tag_file(name), tag_bytes(revisions)):
        return True
    where = f"{address.url}/{tag_file(name)}"
    data = objects.read(tag_file(name), limit=MAX_JSON_BYTES)
    if parse_tag(parse_json(data, where=where), where=where) != revisions:
        raise taken(address.url, name)
    return False
