"""A location of one's own is one registered class: stores in a zip archive, made in this file."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from featstore import copy_sets, open_store
from featstore.address import PLACES, Address
from featstore.identity import sha256_hex
from featstore.plugins import register
from featstore.remote import Answer, Objects, Pace
from featstore.share import drop_tag, make_tag
from featstore.store import verify_store
from tests.featstore.remote.conftest import make_rows, make_store
from tests.featstore.remote.test_buckets import extend


class ZipObjects(Objects):
    """``zip://NAME``: the archive NAME.zip in $ZIPS, written anew, whole, at each change."""

    can_write = True

    def __init__(self, address: Address) -> None:
        super().__init__(address.url)
        self._path = Path(os.environ["ZIPS"], f"{address.host}.zip")

    def names(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        return iter([(n, len(d)) for n, d in self._all().items() if n.startswith(prefix)])

    def put(self, name: str, data: bytes | Path | IO[bytes]) -> None:
        if isinstance(data, Path):
            data = data.read_bytes()
        self._write({**self._all(), name: data if isinstance(data, bytes) else data.read()})

    def create(self, name: str, data: bytes) -> bool:
        if name in self._all():
            return False
        self.put(name, data)
        return True

    def replace(self, name: str, data: bytes, tag: str) -> bool:
        if sha256_hex(self._all().get(name, b"")) != tag:
            return False
        self.put(name, data)
        return True

    def _all(self) -> dict[str, bytes]:
        if not self._path.exists():
            return {}
        with zipfile.ZipFile(self._path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}

    def _write(self, files: dict[str, bytes]) -> None:
        with zipfile.ZipFile(self._path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)

    @contextmanager
    def _get(self, name: str, span: tuple[int, int] | None, pace: Pace) -> Iterator[Answer]:
        data = self._all().get(name)
        if data is None:
            raise FileNotFoundError(f"{self.address}/{name}")
        asked = data if span is None else data[slice(*span)]
        yield Answer(len(data), sha256_hex(data), span is not None, [asked])


@pytest.fixture(autouse=True)
def zips(tmp_path, monkeypatch):
    """Where archives lie, while their place is registered."""
    monkeypatch.setenv("ZIPS", str(tmp_path))
    register("place", "zip", ZipObjects)
    yield tmp_path
    del PLACES["zip"]


def test_every_verb_works_in_a_location_of_ones_own(tmp_path):
    root = make_store(tmp_path / "store")
    assert set(copy_sets(root, "zip://one").sets.values()) == {"new"}
    assert set(copy_sets(root, "zip://one").sets.values()) == {"same"}
    key = next(str(info.key) for info in open_store(root).sets() if info.key.kind == "image")
    rows = open_store("zip://one", verify="first-touch").view(key).numpy()
    assert np.array_equal(rows, np.delete(make_rows(), 7, axis=0))
    assert make_tag("zip://one", "v1") == open_store("zip://one").tag("v1")
    extend(root, 30)
    assert set(copy_sets(root, "zip://one").sets.values()) == {"behind", "same"}
    assert len(open_store("zip://one", revision="v1").view(key)) == 999
    assert len(open_store("zip://one").view(key)) == 1029
    assert not copy_sets("zip://one", tmp_path / "pulled").failed
    assert verify_store(tmp_path / "pulled").problems == []
    assert drop_tag("zip://one", "v1")
    assert open_store("zip://one").tags() == []
