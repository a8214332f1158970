"""The zoo, on disk."""

import pytest

from featstore import write_manifest
from tests.featstore.manifest.zoo import FACTS, captions, classes, images


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "zoo"
    (folder / "images" / "deep").mkdir(parents=True)
    for uri in images()["uri"]:
        (folder / uri).write_bytes(f"picture {uri}".encode())
    return folder


@pytest.fixture
def written(root):
    return write_manifest(
        root, facts=FACTS, tables={"image": images(), "caption": captions()}, classes=classes()
    )
