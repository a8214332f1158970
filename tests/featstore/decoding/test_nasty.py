"""Pictures that harm decoders, and pictures that a GPU decodes."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from featstore.decoding.pool import DecodePool, decode_on_gpu, is_plain_jpeg
from featstore.images import FORMATS, ImageError, decode_image
from tests.featstore.nasty_images import NASTY


@pytest.fixture(scope="module")
def pools():
    with DecodePool(2) as usual, DecodePool(1, formats=["TIFF"]) as tiff:
        yield {None: usual, ("TIFF",): tiff}


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


# ---- The path of GPU decoding, on the CPU's own JPEG decoder: which files take it, ----------


def _file(mode: str = "RGB", kind: str = "JPEG", **options: object) -> bytes:
    y, x = np.mgrid[0:48, 0:64]
    pixels = np.stack([4 * x, 5 * y, 255 - 4 * x], axis=-1).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return _file(exif=exif)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_plain_jpeg_is_what_pillow_says(mode):
    data = _file(mode, quality=90)
    assert is_plain_jpeg(data)
    ours, theirs = decode_on_gpu(data, "cpu"), decode_image(data)
    assert (ours.mode, ours.size) == ("RGB", (64, 48))
    assert np.abs(np.asarray(ours, int) - np.asarray(theirs, int)).max() <= 2  # rounding


@pytest.mark.parametrize(
    "data", [_file(kind="PNG"), _file("CMYK"), _turned()], ids=["png", "cmyk", "turned"]
)
def test_all_else_is_pillows(data):
    assert not is_plain_jpeg(data)
    assert decode_on_gpu(data, "cpu").tobytes() == decode_image(data).tobytes()


def test_damage_is_told_as_ever(monkeypatch):
    with pytest.raises(ImageError, match="truncated"):
        decode_on_gpu(_file()[:700], "cpu")
    with pytest.raises(ImageError, match="empty"):
        decode_on_gpu(b"", "cpu")
    monkeypatch.setattr("featstore.decoding.pool.is_plain_jpeg", lambda _, **__: True)
    with pytest.raises(ImageError):
        decode_on_gpu(b"\xff\xd8" + b"\0" * 100, "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_nvjpeg_is_close_to_pillow():
    data = _file(quality=95)
    ours = np.asarray(decode_on_gpu(data, "cuda:0"), int)
    assert np.abs(ours - np.asarray(decode_image(data), int)).mean() < 2
