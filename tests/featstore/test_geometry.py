"""The geometry of pictures is torchvision's, and the floats made of it are the transform's."""

from __future__ import annotations

import io
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

from featstore.encoders.preprocessing import Preprocessing
from featstore.images import Geometry, decode_image

SIDES = st.integers(1, 90)


def picture(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width * 1000 + height)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@given(
    size=st.tuples(SIDES, SIDES),
    resize=st.one_of(st.tuples(st.integers(1, 40)), st.tuples(SIDES, SIDES)),
    crop=st.tuples(SIDES, SIDES),
    name=st.sampled_from(["NEAREST", "BILINEAR", "BICUBIC", "LANCZOS"]),
)
def test_it_is_that_of_torchvision(size, resize, crop, name):
    image = picture(*size)
    theirs = transforms.Compose(
        [
            transforms.Resize(
                list(resize) if len(resize) > 1 else resize[0], transforms.InterpolationMode[name]
            ),
            transforms.CenterCrop(crop),
        ]
    )
    ours = Geometry(resize, crop, name)
    pixels = ours.pixels(image)
    np.testing.assert_array_equal(pixels, np.asarray(theirs(image)))
    assert pixels.shape == ours.shape
    assert pixels.nbytes == ours.n_bytes


def _timm(**options: Any) -> Any:
    return create_transform((3, 32, 32), is_training=False, **options)


def _open_clip(**options: Any) -> Any:
    return image_transform_v2(PreprocessCfg(size=32, **options), is_train=False)


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize(
    ("transform", "known"),
    [
        (_timm(crop_pct=0.875, interpolation="bicubic", mean=MEAN, std=STD), True),
        (_timm(crop_pct=1.0, interpolation="bilinear", crop_mode="squash"), True),
        (_timm(crop_pct=0.9, crop_mode="border"), False),
        (_open_clip(), True),
        (_open_clip(resize_mode="squash", mean=MEAN, std=STD), True),
        (_open_clip(resize_mode="longest"), False),
        (transforms.Compose([transforms.Resize((32, 32)), transforms.ToTensor()]), False),
        (lambda image: transforms.functional.to_tensor(image.resize((32, 32))), False),
    ],
)
def test_both_halves_give_the_bits_of_the_transform(transform, known):
    halves = Preprocessing(transform, (3, 32, 32))
    assert (halves.geometry is not None) == known
    images = [picture(70, 40), picture(33, 90), picture(32, 32)]
    batch = [halves.prepare(image) for image in images]
    assert {one.dtype for one in batch} == {np.dtype(np.uint8 if known else np.float32)}
    expected = torch.stack([transform(image) for image in images])
    if known:
        stacked = torch.from_numpy(np.stack(batch))
        there = halves.floats_there(stacked, torch.channels_last)
        assert there.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(there, expected)
    assert torch.equal(halves.floats(batch), expected)
    # The library's own floats are taken as well; the memory is used again, for fewer too.
    assert torch.equal(halves.floats(list(expected.numpy()[1:])), expected[1:])
    assert halves.fits(list(expected.numpy()))
    assert not halves.fits([batch[0], np.zeros((3, 8, 8), np.float32)])


def test_a_transform_that_only_looks_known_is_run_as_it_is():
    class Darker(transforms.ToTensor):
        def __call__(self, pic: Any) -> Any:
            return super().__call__(pic) * 0.5

    steps = [transforms.Resize(32), transforms.CenterCrop(32), Darker()]
    halves = Preprocessing(
        transforms.Compose([*steps, transforms.Normalize(MEAN, STD)]), (3, 32, 32)
    )
    assert halves.geometry is None
    assert halves.prepare(picture(40, 50)).dtype == np.float32


@given(size=st.tuples(SIDES, SIDES), resize=st.integers(1, 40), side=st.integers(1, 40))
def test_torchvision_resizes_its_own_way(size, resize, side):
    from torchvision.transforms import v2

    image = picture(*size)
    ours = Geometry((resize,), (side, side), "BICUBIC", "torchvision")
    theirs = v2.Compose(
        [v2.Resize(resize, transforms.InterpolationMode.BICUBIC), v2.CenterCrop(side)]
    )
    expected = theirs(torch.from_numpy(np.array(image)).permute(2, 0, 1)).permute(1, 2, 0)
    np.testing.assert_array_equal(ours.pixels(image), expected)
    assert ours.data(image) == expected.contiguous().numpy().tobytes()


def test_scaled_decoding_halves_large_jpegs_and_leaves_all_else():
    def file(width: int, height: int, kind: str = "JPEG") -> bytes:
        buffer = io.BytesIO()
        smooth = picture(8, 8).resize((width, height), Image.Resampling.BICUBIC)
        smooth.save(buffer, kind)
        return buffer.getvalue()

    sizes = {(1024, 1100): 2, (1023, 1500): 1, (2100, 2048): 4, (600, 400): 1}
    for (width, height), scale in sizes.items():
        whole = decode_image(file(width, height))
        scaled = decode_image(file(width, height), scaled=True)
        assert scaled.size == (-(-width // scale), -(-height // scale))
        small = np.asarray(whole.resize(scaled.size, Image.Resampling.BOX), float)
        assert np.abs(np.asarray(scaled, float) - small).mean() < 1.5
    assert decode_image(file(1200, 1100, "PNG"), scaled=True).size == (1200, 1100)
