"""Decoding JPEG files on a GPU: plain ones; whatever is not plain is Pillow's.

nvJPEG rounds differently from Pillow's decoder, so what it decodes is another preprocessing, and
`RULE` is a keyed fact of the space.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from featstore.images import FORMATS, MAX_PIXELS, decode_image

if TYPE_CHECKING:
    from PIL import Image

#: What is keyed beside the other rules of decoding.
RULE = "upright grey and RGB JPEG by nvJPEG, all else by Pillow"

_ORIENTATION = 0x0112

#: Bytes at the end of a file among which the end marker of a whole one is.
_TAIL = 1024


def decode_on_gpu(data: bytes, device: str, *, formats: Sequence[str] = FORMATS) -> Image.Image:
    """Decode an image file into an upright RGB picture, a plain JPEG on `device`.

    Raises
    ------
    ImageError
        As `featstore.images.decode_image`.
    """
    if not is_plain_jpeg(data):
        return decode_image(data, formats=formats)
    import torch
    from PIL import Image
    from torchvision.io import ImageReadMode, decode_jpeg

    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    try:
        pixels = decode_jpeg(encoded, mode=ImageReadMode.RGB, device=device)
    except RuntimeError:
        # Damaged, or a kind that nvJPEG lacks: Pillow says which.
        return decode_image(data, formats=formats)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())


def is_plain_jpeg(data: bytes) -> bool:
    """Return whether the bytes are a whole, upright JPEG of grey or RGB, of an allowed size."""
    if not data.startswith(b"\xff\xd8") or b"\xff\xd9" not in data[-_TAIL:]:
        return False
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=["JPEG"])
            upright = image.getexif().get(_ORIENTATION, 1) in (0, 1)
    except Exception:  # whatever it is, decode_image says it in its own words
        return False
    return upright and image.mode in ("L", "RGB") and image.width * image.height <= MAX_PIXELS
