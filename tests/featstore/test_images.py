"""Image files: what is decoded, to which pixels, and how they are cut and scaled."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from timm.data import create_transform
from torchvision import transforms

from featstore.encoders.runtime import Preprocessing
from featstore.images import Geometry, ImageError, decode_image, thumbnail_webp
from tests.featstore.nasty_images import RED, WHITE, chunk, noise, png, turned_by
from tests.featstore.nasty_images import encoded as file_of


def png16(values: np.ndarray, key: int | None = None) -> bytes:
    """A 16-bit grey PNG by hand: Pillow is not asked to write what it is tested to read."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    transparent = b"" if key is None else chunk(b"tRNS", struct.pack(">H", key))
    return png((*values.shape[::-1], 16, 0, 0), rows, extra=transparent)


JPEG = file_of(Image.fromarray(noise()), "JPEG", quality=95)
PNG = file_of(Image.fromarray(noise()))
GIF = file_of(Image.fromarray(noise()).convert("P"), "GIF")
WEBP = file_of(Image.fromarray(noise()), "WEBP", lossless=True)


@given(data=st.binary(max_size=200), at=st.integers(0, len(PNG)))
def test_no_damage_gives_anything_but_a_picture_or_an_image_error(data, at):
    for good in (PNG, JPEG, GIF, WEBP):
        damaged = good[:at] + data + good[at + len(data) :]
        try:
            image = decode_image(damaged)
        except ImageError:
            continue
        assert image.mode == "RGB"


def pixel(data, at=(0, 0)):
    return decode_image(data).getpixel(at)


@pytest.mark.parametrize(
    ("alpha", "expected"), [(0, WHITE), (255, RED), (51, (244, 210, 206)), (128, (227, 142, 132))]
)
def test_alpha_is_composited_over_white(alpha, expected):
    data = file_of(Image.new("RGBA", (3, 3), (*RED, alpha)))
    assert np.abs(np.subtract(pixel(data), expected)).max() <= 1


def two(mode, *values):
    image = Image.new(mode, (2, 1))
    image.putdata(values)
    return image


DARK = (1, 2, 3)

#: What is odd about a file -> the file, and its pixels in a row or column. More are in NASTY.
ODD = {
    "colour key": (file_of(two("RGB", RED, DARK), transparency=RED), [WHITE, DARK]),
    "colour key, turned": (
        file_of(two("RGB", RED, DARK), transparency=RED, exif=turned_by(6)), [WHITE, DARK],
    ),
    "16 bits, one value transparent": (
        png16(np.array([[1000, 2000]]), key=1000), [WHITE, (8, 8, 8)],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("data", "expected"), ODD.values(), ids=ODD)
def test_an_odd_file_has_the_pixels_that_it_says(data, expected):
    assert list(map(tuple, np.asarray(decode_image(data)).reshape(-1, 3).tolist())) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(0, 0), (257, 1), (128, 0), (129, 1), (32896, 128), (65535, 255)]
)
def test_16_bit_grey_is_scaled_not_clipped(value, expected):
    assert pixel(png16(np.full((2, 3), value))) == (expected,) * 3


def test_pixels_without_a_fixed_range_are_refused():
    wide = np.array([[0, 70_000]], dtype=np.int32)
    for array in (wide, wide.astype(np.float32)):
        data = file_of(Image.fromarray(array), "TIFF")
        with pytest.raises(ImageError, match="8 or 16 bits"):
            decode_image(data, formats=["TIFF"])


ORIENTATIONS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_exif_orientation_is_applied(orientation):
    pixels = noise(5, 7)
    data = file_of(Image.fromarray(pixels), exif=turned_by(orientation))
    np.testing.assert_array_equal(np.asarray(decode_image(data)), ORIENTATIONS[orientation](pixels))


def test_metadata_changes_no_pixel_and_is_in_no_plain_picture_and_no_thumbnail():
    exif = turned_by(6)
    exif[0x010E] = "the home of somebody"
    for data in (
        file_of(Image.fromarray(noise(90, 130)), "JPEG", comment=b"secret"),
        file_of(Image.fromarray(noise(90, 130)), "JPEG", exif=exif),
        file_of(Image.fromarray(noise()), transparency=tuple(map(int, noise()[3, 4]))),
    ):
        whole, plain = decode_image(data, metadata=True), decode_image(data)
        np.testing.assert_array_equal(np.asarray(whole), np.asarray(plain))
        assert (type(plain), plain.mode, plain.info) == (Image.Image, "RGB", {})
        assert not plain.getexif()
        small = thumbnail_webp(whole)
        assert small == thumbnail_webp(plain)
        assert b"secret" not in small
        assert b"somebody" not in small


@pytest.mark.parametrize(
    ("size", "expected"), [((640, 480), (96, 72)), ((10, 20), (10, 20)), ((2348, 3), (96, 1))]
)
def test_thumbnails_fit_a_square_and_are_never_enlarged(size, expected):
    data = thumbnail_webp(Image.new("RGB", size, RED))
    with Image.open(io.BytesIO(data)) as small:
        assert small.format == "WEBP"
        assert small.size == expected
        assert np.abs(np.asarray(small.convert("RGB"), int) - RED).max() < 8


SIDES = st.integers(1, 90)


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(noise(height, width, seed=width * 1000 + height))


@given(
    size=st.tuples(SIDES, SIDES),
    resize=st.one_of(st.tuples(st.integers(1, 40)), st.tuples(SIDES, SIDES)),
    crop=st.tuples(SIDES, SIDES),
    name=st.sampled_from(["NEAREST", "BILINEAR", "BICUBIC", "LANCZOS"]),
)
def test_it_is_that_of_torchvision(size, resize, crop, name):
    image = picture(*size)
    side = list(resize) if len(resize) > 1 else resize[0]
    resized = transforms.Resize(side, transforms.InterpolationMode[name])
    theirs = transforms.Compose([resized, transforms.CenterCrop(crop)])
    ours = Geometry(resize, crop, name)
    pixels = ours.pixels(image)
    np.testing.assert_array_equal(pixels, np.asarray(theirs(image)))
    assert pixels.shape == ours.shape


def _timm(**options: Any) -> Any:
    return create_transform((3, 32, 32), is_training=False, **options)


def _open_clip(**options: Any) -> Any:
    return image_transform_v2(PreprocessCfg(size=32, **options), is_train=False)


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CROP = [transforms.Resize(32), transforms.CenterCrop(32)]


class Darker(transforms.ToTensor):
    """Looks like a known step, and is none."""

    def __call__(self, pic: Any) -> Any:
        return super().__call__(pic) * 0.5


@pytest.mark.parametrize(("transform", "known"), [
    (_timm(crop_pct=0.875, interpolation="bicubic", mean=MEAN, std=STD), True),
    (_timm(crop_pct=1.0, interpolation="bilinear", crop_mode="squash"), True),
    (_timm(crop_pct=0.9, crop_mode="border"), False),
    (_open_clip(), True),
    (_open_clip(resize_mode="squash", mean=MEAN, std=STD), True),
    (_open_clip(resize_mode="longest"), False),
    (transforms.Compose([transforms.Resize((32, 32)), transforms.ToTensor()]), False),
    (transforms.Compose([*CROP, Darker(), transforms.Normalize(MEAN, STD)]), False),
    (lambda image: transforms.functional.to_tensor(image.resize((32, 32))), False),
])  # fmt: skip
def test_both_halves_give_the_bits_of_the_transform(transform, known):
    halves = Preprocessing(transform, (3, 32, 32))
    assert (halves.geometry is not None) == known
    images = [picture(70, 40), picture(33, 90), picture(32, 32)]
    batch = [halves.prepare(image) for image in images]
    assert {one.dtype for one in batch} == {np.dtype(np.uint8 if known else np.float32)}
    expected = torch.stack([transform(image) for image in images])
    for layout in torch.channels_last, torch.contiguous_format:
        floats = halves.floats(torch.from_numpy(np.stack(batch)), layout)
        assert floats.is_contiguous(memory_format=layout)
        assert torch.equal(floats, expected)
    # The library's own floats are taken as well.
    assert torch.equal(halves.floats(expected), expected)
    assert halves.fits(list(expected.numpy()))
    assert not halves.fits([batch[0], np.zeros((3, 8, 8), np.float32)])


def test_scaled_decoding_halves_large_jpegs_and_leaves_all_else():
    def file(width: int, height: int, kind: str = "JPEG") -> bytes:
        return file_of(picture(8, 8).resize((width, height), Image.Resampling.BICUBIC), kind)

    for (width, height), scale in (
        {(1024, 1100): 2, (1023, 1500): 1, (2100, 2048): 4, (600, 400): 1}
    ).items():
        whole = decode_image(file(width, height))
        scaled = decode_image(file(width, height), scaled=True)
        assert scaled.size == (-(-width // scale), -(-height // scale))
        small = np.asarray(whole.resize(scaled.size, Image.Resampling.BOX), float)
        assert np.abs(np.asarray(scaled, float) - small).mean() < 1.5
    assert decode_image(file(1200, 1100, "PNG"), scaled=True).size == (1200, 1100)
