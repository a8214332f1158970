"""What is written to a folder of this machine makes no folder of an address."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import featstore
from featstore.address import PLACES
from featstore.durable import local_folder
from featstore.errors import AddressError, RemoteStoreError
from featstore.extraction.job import repair_set
from featstore.interop import import_rows
from featstore.store import make_store
from featstore.testing import toy_manifest
from tests.typed import headstock

SCHEMES = [f"{scheme}://team/x" for scheme in PLACES.built_in]
ADDRESSES = [*SCHEMES, "GS://team/x", Path("s3://team/features")]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_paths_stay_what_they_are(here):
    for path in ("store", "a/b", "/a/b", "C:/data", "with:colon/x", here):
        assert local_folder(path) == Path(path)
    assert local_folder("file:///a/b%20c") == Path("/a/b c")


@pytest.mark.parametrize("place", ADDRESSES)
def test_every_function_that_writes_a_store_refuses_an_address(here, place):
    manifest = toy_manifest(here / "manifest", 2).root
    np.save(here / "rows.npy", np.ones((2, 3), np.float32))
    (here / "items.csv").write_text("item_id\nb/0\nb/1\n")
    before = sorted(here.rglob("*"))
    calls = [
        lambda: featstore.extract(manifest, kind="image", encoder="a:b", store=Path(place)),
        lambda: make_store(Path(place)),
        lambda: import_rows(
            here / "rows.npy", store=Path(place), dataset="birds", kind="image", encoder="a:b",
            items=here / "items.csv",
        ),
        lambda: repair_set(place, "birds/image/x"),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(AddressError, match="is an address, but this is written to a folder"):
            call()
    assert sorted(here.rglob("*")) == before


def test_an_extraction_goes_into_buckets_and_nowhere_else(here, capsys):
    """What is written into a bucket: tests/featstore/remote/test_extraction.py."""
    manifest = toy_manifest(here / "manifest", 2).root
    before = sorted(here.rglob("*"))
    with pytest.raises(RemoteStoreError, match="cannot be written by featstore"):
        featstore.extract(manifest, kind="image", encoder="timm:none", store="https://host/x")
    assert headstock("store", "init", "gcs://team/x") == 1
    assert "://, file:// and paths. Did you mean 'gs'?" in capsys.readouterr().err
    with pytest.raises(AddressError, match="No store can be opened at ftp://"):
        featstore.extract(manifest, kind="image", encoder="timm:none", store="ftp://host/x")
    job = ["--kind", "image", "--encoder", "timm:resnet18", "--store", "s3://team/features"]
    assert headstock("extract", manifest, *job, "--dry-run") == 2
    assert "s3://team/features is an address" in capsys.readouterr().err
    assert sorted(here.rglob("*")) == before
