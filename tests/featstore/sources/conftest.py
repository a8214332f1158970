"""Making the manifest of a location."""

import pytest


@pytest.fixture
def make(tmp_path):
    """Make the manifest of a location in a new folder."""
    from featstore.sources.making import make_manifest

    count = iter(range(99))

    def call(source, location, *, name="zoo", **options):
        out = tmp_path / f"made{next(count)}"
        return make_manifest(source, location, out, name=name, options=options)

    return call
