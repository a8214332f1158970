"""Making the manifest of a location, and reading the files of its images."""

import pytest

from featstore.sources.making import make_manifest
from featstore.sources.reader import open_reader


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """Every test has a cache of its own, and no pause between attempts."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("featstore.remote.PAUSE", 0.001)


@pytest.fixture
def make(tmp_path):
    """Make the manifest of a location in a new folder."""
    count = iter(range(99))

    def call(source, location, *, name="zoo", **options):
        out = tmp_path / f"made{next(count)}"
        return make_manifest(source, location, out, name=name, options=options)

    return call


def rows_of(manifest):
    """Return the file of each image."""
    with open_reader(manifest) as reader:
        return [reader.read(row) for row in manifest.items("image").iter_rows(named=True)]
