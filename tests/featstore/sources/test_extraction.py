"""A made manifest goes through extraction: what is stored is what the source's files show."""

import numpy as np
import pytest
from PIL import Image

from featstore import extract, open_store
from featstore.sources.making import make_manifest
from tests.featstore.extraction.conftest import SPACE, MeanColour, expected_row


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(5):
        path = tmp_path / "photos" / "test" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (6, 5 + number, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


def test_images_of_a_folder_are_extracted_where_they_lie(photos, tmp_path):
    manifest = make_manifest("folder", photos, tmp_path / "manifest")
    result = extract(
        manifest,
        kind="image",
        encoder=MeanColour(),
        space=SPACE,
        store=tmp_path / "store",
        dtype="float32",
    )
    assert (result.new, result.failed) == (5, 0)
    view = open_store(tmp_path / "store").view(result.key)
    expected = [expected_row(photos / uri) for uri in manifest.items("image")["uri"]]
    np.testing.assert_allclose(view.numpy(), expected, rtol=1e-6)
    assert view.items["item_id"].to_list() == [f"photos/image/test/{n}.png" for n in range(5)]
