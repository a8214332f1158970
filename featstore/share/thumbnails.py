"""Thumbnails travel with the sets of their dataset and kind."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from featstore.objects.base import Objects
from featstore.store.store import FeatureStore
from featstore.store.thumbnails import write_thumbnails


def send_thumbnails(
    source: FeatureStore, place: Objects | object, keys: Iterable[str]
) -> frozenset[str]:
    """Copy the thumbnails of the kinds of these sets; return the names of files put in a bucket."""
    put: set[str] = set()
    for kind in sorted({key.rpartition("/")[0] for key in keys}):
        pictures = source.thumbnails(*kind.split("/"))  # fetched, and compared with their names
        if not pictures:
            continue
        if isinstance(place, Path):
            write_thumbnails(place / kind, pictures)
        elif isinstance(place, Objects):
            there = dict(place.names(f"{kind}/"))
            for path in sorted((source.root / kind).glob("thumbnails-*.parquet")):
                name = f"{kind}/{path.name}"
                if there.get(name) != path.stat().st_size:
                    place.put(name, path)
                put.add(name)
    return frozenset(put)
