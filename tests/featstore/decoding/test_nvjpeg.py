"""The path of GPU decoding, on the CPU's own JPEG decoder: which files take it, and what comes."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from featstore.decoding.pool import decode_on_gpu, is_plain_jpeg
from featstore.images import ImageError, decode_image


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
def test_a_plain_jpeg_is_what_pillow_says(mode: str) -> None:
    data = _file(mode, quality=90)
    assert is_plain_jpeg(data)
    ours, theirs = decode_on_gpu(data, "cpu"), decode_image(data)
    assert (ours.mode, ours.size) == ("RGB", (64, 48))
    assert np.abs(np.asarray(ours, int) - np.asarray(theirs, int)).max() <= 2  # rounding


@pytest.mark.parametrize(
    "data", [_file(kind="PNG"), _file("CMYK"), _turned()], ids=["png", "cmyk", "turned"]
)
def test_all_else_is_pillows(data: bytes) -> None:
    assert not is_plain_jpeg(data)
    assert decode_on_gpu(data, "cpu").tobytes() == decode_image(data).tobytes()


def test_damage_is_told_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImageError, match="truncated"):
        decode_on_gpu(_file()[:700], "cpu")
    with pytest.raises(ImageError, match="empty"):
        decode_on_gpu(b"", "cpu")
    monkeypatch.setattr("featstore.decoding.pool.is_plain_jpeg", lambda _, **__: True)
    with pytest.raises(ImageError):
        decode_on_gpu(b"\xff\xd8" + b"\0" * 100, "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_nvjpeg_is_close_to_pillow() -> None:
    data = _file(quality=95)
    ours = np.asarray(decode_on_gpu(data, "cuda:0"), int)
    assert np.abs(ours - np.asarray(decode_image(data), int)).mean() < 2
