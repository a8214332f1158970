"""Copy sets from any store to any other: push, pull and sync."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from featstore.errors import FeatstoreError, RemoteStoreError, UnknownSetError
from featstore.objects.address import Address, parse_address
from featstore.objects.base import Objects
from featstore.objects.opening import open_objects
from featstore.share.relation import Relation
from featstore.share.source import SetSource
from featstore.share.tagging import send_tag
from featstore.share.thumbnails import send_thumbnails
from featstore.share.to_bucket import make_bucket_store, publish_to_bucket, update_catalog
from featstore.share.to_folder import publish_to_folder
from featstore.store.catalog import NAME as CATALOG
from featstore.store.catalog import parse_catalog
from featstore.store.commit import key_of, read_pointer
from featstore.store.files import MAX_JSON_BYTES, parse_json
from featstore.store.opening import open_store
from featstore.store.remote.store import RemoteStore
from featstore.store.store import FeatureStore
from featstore.store.tags import tag_file, tag_names


@dataclass
class CopyReport:
    """What became of each set: key -> how the destination stood to it before.

    Attributes
    ----------
    sets : dict
        ``"new"`` and ``"behind"`` were sent, ``"same"`` and ``"newer"`` needed nothing.
    failed : dict
        Key -> why it was not sent; the other sets were.
    """

    sets: dict[str, Relation] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def copy_sets(
    source: str | Path,
    target: str | Path,
    *,
    select: Sequence[str] = (),
    take_over: bool = False,
    progress: Callable[[int], object] | None = None,
    tell: Callable[[str, Relation], object] | None = None,
) -> CopyReport:
    """Copy the sets of one store that another lacks or has an earlier revision of.

    Parameters
    ----------
    source, target : path or address
        Any that `open_store` knows; the target one that can be written: a folder or a bucket. If
        all sets are copied, so are the tags; those of a remote source where it can list.
    select : sequence of str
        Patterns of keys such as ``stamps/image/*`` or ``*/*/timm.*``; a set that fits one of them
        is copied. All by default.
    take_over : bool
        See `featstore.share.to_bucket.publish_to_bucket`.
    progress, tell : callable, optional
        Called with bytes that were sent, and with each set that is done.

    Raises
    ------
    UnknownSetError
        If no set fits.
    FeatstoreError
        If the source cannot be opened or the target not be made. What is wrong with one set stops
        only that one, and is in the report.
    """
    opened = open_store(source)
    place = parse_address(target)
    objects = writable_objects(place) if isinstance(place, Address) else None
    if objects is not None:
        make_bucket_store(objects)
    report, current = CopyReport(), _listed(objects)
    chosen = [path for path in opened.folders() if _fits(str(key_of(path)), select)]
    if select and not chosen:
        msg = f"{opened.address} holds no set that fits {', '.join(select)}."
        raise UnknownSetError(msg)
    for folder in chosen:
        key = str(key_of(folder))
        try:
            there: Relation = "same"
            if _revision(folder) != current.get(key):
                info = opened.info(key)
                there = _publish(
                    objects or place, SetSource(opened, info), take_over=take_over,
                    progress=progress or (lambda _: None),
                )  # fmt: skip
        except FeatstoreError as err:
            report.failed[key] = str(err)
            continue
        report.sets[key] = there
        if tell is not None:
            tell(key, there)
    if not select:
        _send_tags(opened, target, report)
    pictures = send_thumbnails(opened, objects or place, sorted(report.sets))
    if objects is not None:
        sent = {
            name: _revision(opened.root / name)
            for name, there in report.sets.items()
            if there != "newer" and current.get(name) != _revision(opened.root / name)
        }
        update_catalog(objects, sent, pictures)
    return report


def _send_tags(opened: FeatureStore, target: str | Path, report: CopyReport) -> None:
    """Send the tags whose sets are all at the target now."""
    names = opened.tags() if isinstance(opened, RemoteStore) else tag_names(opened.root)
    for name in names:
        revisions = opened.tag(name)
        if set(revisions) <= set(report.sets):
            try:
                send_tag(target, name, revisions)
            except FeatstoreError as err:
                report.failed[tag_file(name)] = str(err)


def _publish(
    place: Objects | Address | Path,
    source: SetSource,
    *,
    take_over: bool,
    progress: Callable[[int], object],
) -> Relation:
    if isinstance(place, Path):
        return publish_to_folder(place, source, progress=progress)
    assert isinstance(place, Objects)
    return publish_to_bucket(place, source, take_over=take_over, progress=progress)


def writable_objects(address: Address) -> Objects:
    """Return the files behind an address; RemoteStoreError if it cannot be written."""
    objects = open_objects(address)
    if not objects.can_write:
        msg = (
            f"{address.url} cannot be written by featstore. Push to a folder, and upload that "
            "(docs/sharing.md)."
        )
        raise RemoteStoreError(msg)
    return objects


def _listed(objects: Objects | None) -> dict[str, str]:
    """Return key -> revision as a bucket's catalog lists them: one request for all sets."""
    if objects is None:
        return {}
    try:
        data = objects.read(CATALOG, limit=MAX_JSON_BYTES)
    except FileNotFoundError:
        return {}
    catalog = parse_catalog(parse_json(data, where=f"{objects.address}/{CATALOG}"))
    return dict(catalog["sets"]) if catalog else {}


def _revision(folder: Path) -> str:
    attributes = read_pointer(folder)
    return "" if attributes is None else str(attributes["revision"])


def _fits(key: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatchcase(key, pattern) for pattern in patterns)
