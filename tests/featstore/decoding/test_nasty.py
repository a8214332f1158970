"""The nasty files through the decoder here, and through the decoding processes."""

import re

import numpy as np
import pytest

from featstore.decoding.pool import DecodePool
from featstore.images import FORMATS, ImageError, decode_image
from tests.featstore.nasty_images import NASTY


@pytest.fixture(scope="module")
def pools():
    with DecodePool(2) as usual, DecodePool(1, formats=["TIFF"]) as tiff:
        yield {None: usual, ("TIFF",): tiff}


def test_there_are_enough_of_them():
    assert len(NASTY) >= 25
    assert sum(nasty.reason is not None for nasty in NASTY.values()) >= 12


@pytest.mark.parametrize("name", NASTY)
def test_each_nasty_file_has_its_outcome(name, pools):
    nasty = NASTY[name]
    future = pools[nasty.formats].submit(nasty.data)
    if nasty.reason is not None:
        with pytest.raises(ImageError, match=nasty.reason) as here:
            decode_image(nasty.data, formats=nasty.formats or FORMATS)
        with pytest.raises(ImageError) as there:
            future.result(timeout=60)
        assert str(here.value) == str(there.value)
        assert not re.search(r"\n|0x[0-9a-f]{6}", str(here.value))
        return
    image = decode_image(nasty.data, formats=nasty.formats or FORMATS)
    assert (image.mode, image.size) == ("RGB", nasty.size)
    for place, colour in nasty.pixels.items():
        assert np.abs(np.subtract(image.getpixel(place), colour)).max() <= nasty.within, place
    other = future.result(timeout=60)
    np.testing.assert_array_equal(np.asarray(other), np.asarray(image))
    assert other.info == {}
