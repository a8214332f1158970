"""Decoding images: whatever the file, the result is an upright RGB picture, or an ImageError.

The rules are part of what an embedding means, so they stand in :data:`DECODE_RULE`, which the
image encoders put into their keyed facts.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from featstore.errors import FeatstoreError, needs_extra

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL import Image

#: Pixels an image may have: 10,000 × 10,000, i.e. 300 MB once decoded.
MAX_PIXELS = 100_000_000

#: How the reason begins why an image is not decoded that an option would take.
LEFT_OUT = "Left out:"

#: Formats that are tried, by Pillow's names. TIFF is left to callers who ask for it.
FORMATS: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
WITH_TIFF: tuple[str, ...] = (*FORMATS, "TIFF")

#: What decoding does, as keyed facts. Changing a rule changes every space_id, as it must.
DECODE_RULE: dict[str, str] = {
    "mode": "RGB",
    "orientation": "EXIF orientation applied",
    "alpha": "composited over white",
    "grey16": "divided by 257",
    "icc": "ignored",
    "frame": "first",
}

#: The shorter side of a JPEG that is decoded scaled, at least.
SCALED_SIDE = 512

#: What is keyed beside the other rules of decoding then.
SCALED_RULE = f"large JPEG scaled by its transform, to at least {SCALED_SIDE}"

#: Who resizes: Pillow, or torchvision's antialiased filters on uint8 tensors.
Resizer = Literal["pillow", "torchvision"]

#: How TIFF files begin, by byte order.
_TIFF = (b"II*\0", b"MM\0*")

_EXIF_ORIENTATION = 0x0112


class ImageError(FeatstoreError, ValueError):
    """An image cannot be decoded; the message gives the reason in one line."""


def decode_image(
    source: str | Path | bytes,
    *,
    max_pixels: int = MAX_PIXELS,
    formats: Sequence[str] = FORMATS,
    scaled: bool = False,
    metadata: bool = False,
) -> Image.Image:
    """Decode an image file into an upright RGB picture.

    EXIF orientation is applied; transparency of any kind (alpha channel, palette, colour key)
    is composited over white; 16-bit grey is scaled to 8 bits; CMYK is converted; of an animation
    the first frame is taken. Colour profiles are ignored. The result carries no metadata, unless
    they are allowed.

    Parameters
    ----------
    source : str, Path or bytes
        A file, or the bytes of one.
    max_pixels : int
        An image that declares more is left out before any pixel is decoded. It stands in the place
        of Pillow's own limit, ``PIL.Image.MAX_IMAGE_PIXELS``.
    formats : sequence of str
        Pillow's names of the formats that are tried.
    scaled : bool
        Decode a large JPEG at a half, a quarter or an eighth of its size, the smallest whose
        shorter side is `SCALED_SIDE` pixels at least: the transform's low frequencies alone.
    metadata : bool
        Whether the result may carry the metadata of the file. A file that holds plain RGB then
        needs no second copy of its pixels, which takes 2 to 3 % of the time. For callers that
        pass on nothing but pixels.

    Raises
    ------
    ImageError
        If the file is missing, empty, truncated, too large or no image. Where an option would take
        it, the message begins with `LEFT_OUT`.
    """
    with needs_extra("Decoding images"):
        from PIL import UnidentifiedImageError

    label = f"{len(source):,} bytes" if isinstance(source, bytes) else f"'{Path(source).name}'"
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        if not data:
            raise ImageError(f"Cannot decode {label}: the file is empty.")
        with opened_image(io.BytesIO(data), formats) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ImageError(
                    f"{LEFT_OUT} {label} with {width:,} × {height:,} pixels, more than the limit "
                    f"of {max_pixels:,} (-s max_pixels=N)."
                )
            if scaled:
                image.draft(None, (SCALED_SIDE, SCALED_SIDE))
            image.load()
            upright = _upright(image)
            if metadata and upright.mode == "RGB" and not upright.has_transparency_data:
                return upright
            return to_rgb(upright)
    except ImageError:
        raise
    except UnidentifiedImageError as err:
        if data.startswith(_TIFF) and "TIFF" not in formats:
            raise ImageError(
                f"{LEFT_OUT} {label}. TIFF is decoded when asked for (-s tiff)."
            ) from err
        raise ImageError(
            f"Cannot decode {label}: it is no image in a known format ({', '.join(formats)})."
        ) from err
    except Exception as err:
        # Pillow's decoders raise nearly anything on damaged files (OSError, SyntaxError,
        # struct.error, zlib.error, EOFError, IndexError, ...): each means a bad image.
        said = getattr(err, "strerror", None) or " ".join(str(err).split()) or type(err).__name__
        raise ImageError(f"Cannot decode {label}: {said.rstrip('.')}.") from err


def to_rgb(image: Image.Image) -> Image.Image:
    """Return `image` as RGB by the rules of :data:`DECODE_RULE`, orientation apart.

    Raises
    ------
    ImageError
        If the pixels have no fixed range (float, or integers of more than 16 bits).
    """
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        image = _grey8(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, rgba)
    rgb = image.convert("RGB")
    if rgb is image:
        rgb = image.copy()
    # EXIF holds places and names of people: it must not travel into thumbnails.
    rgb.info.clear()
    return rgb


@dataclass(frozen=True)
class Geometry:
    """How a picture becomes the rectangle that a model sees: resized, then cropped at its centre.

    The pixels of torchvision's ``Resize`` and ``CenterCrop``, bit for bit: on a picture of Pillow,
    or on a tensor, which is faster and rounds differently.

    Attributes
    ----------
    resize : tuple of int
        Height and width, or one number, which the shorter side is resized to.
    crop : tuple of int
        Height and width; black is added where the picture is smaller.
    interpolation : str
        Pillow's name of the filter: ``BICUBIC``.
    resizer : {"pillow", "torchvision"}
    device : str
        Where torchvision resizes a picture of Pillow; it rounds as the device does.

    Examples
    --------
    >>> Geometry(resize=(256,), crop=(224, 224), interpolation="BICUBIC").shape
    (224, 224, 3)
    """

    resize: tuple[int, ...]
    crop: tuple[int, int]
    interpolation: str
    resizer: Resizer = "pillow"
    device: str = "cpu"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the result."""
        return (*self.crop, 3)

    @property
    def n_bytes(self) -> int:
        """Bytes of the result."""
        return 3 * self.crop[0] * self.crop[1]

    def facts(self) -> dict[str, Any]:
        """Return what is keyed of it: all but the device."""
        return {name: value for name, value in asdict(self).items() if name != "device"}

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Return (width, height) of a picture of this size after it was resized."""
        if len(self.resize) == 2:
            return self.resize[1], self.resize[0]
        (short,) = self.resize
        long = int(short * max(width, height) / min(width, height))
        return (short, long) if width <= height else (long, short)

    def data(self, image: Image.Image) -> bytes:
        """Return the part of an RGB picture that a model sees, row by row."""
        if self.resizer == "torchvision":
            return self.pixels(image).tobytes()
        return self._cropped(image).tobytes()

    def pixels(self, image: Image.Image) -> np.ndarray:
        """Return the same as an array, (height, width, 3) uint8."""
        import numpy as np

        if self.resizer == "pillow":
            return np.array(self._cropped(image))
        import torch

        picture = torch.from_numpy(np.array(image)).to(self.device)
        found: np.ndarray = self.on_tensor(picture).cpu().numpy()
        return found

    def on_tensor(self, picture: torch.Tensor) -> torch.Tensor:
        """Return the same of a (height, width, 3) uint8 tensor, on its device, by torchvision."""
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional

        height, width = picture.shape[:2]
        size = [*reversed(self.resized(width, height))]
        # A view of channels that lie last is what the fast code for uint8 takes.
        resized = functional.resize(
            picture.permute(2, 0, 1), size, InterpolationMode[self.interpolation], antialias=True
        )
        found: torch.Tensor = functional.center_crop(resized, [*self.crop])
        return found.permute(1, 2, 0).contiguous()

    def _cropped(self, image: Image.Image) -> Image.Image:
        from PIL import Image

        width, height = self.resized(*image.size)
        left, right = _centred(width, self.crop[1])
        upper, lower = _centred(height, self.crop[0])
        image = image.resize((width, height), Image.Resampling[self.interpolation])
        return image.crop((left, upper, right, lower))


def _centred(length: int, wanted: int) -> tuple[int, int]:
    """Return where a part of this length in the middle begins and ends; outside if it is longer."""
    spare = length - wanted
    first = round(spare / 2) if spare >= 0 else -(-spare // 2)
    return first, first + wanted


def thumbnail_webp(image: Image.Image, *, side: int = 96, quality: int = 80) -> bytes:
    """Return `image` as a small WebP file whose longer side is at most `side` pixels.

    Never enlarged, shape kept, no metadata; the same picture gives the same bytes with the
    same Pillow.
    """
    from PIL import Image

    small = to_rgb(image)
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="WEBP", quality=quality, method=4)
    return buffer.getvalue()


def _upright(image: Image.Image) -> Image.Image:
    """Return `image` turned as its EXIF orientation says; damaged EXIF turns nothing."""
    from PIL import Image

    turn = Image.Transpose
    turns = {
        2: turn.FLIP_LEFT_RIGHT,
        3: turn.ROTATE_180,
        4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE,
        6: turn.ROTATE_270,
        7: turn.TRANSVERSE,
        8: turn.ROTATE_90,
    }
    try:
        method = turns.get(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # a broken tag directory, of whatever kind, is no reason to lose a picture
        return image
    if method is None:
        return image
    turned = image.transpose(method)
    turned.info = dict(image.info)  # the colour key of a transparent PNG
    return turned


def _grey8(image: Image.Image) -> Image.Image:
    """Return a 16-bit grey picture as 8 bits: 65,535 becomes 255."""
    # Imported here: it is two thirds of the time in which a decoding process starts.
    import numpy as np
    from PIL import Image

    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 0xFFFF:
        raise ImageError(
            f"Cannot convert pixels of mode {image.mode}: they have no fixed range. "
            "Save the image with 8 or 16 bits a channel."
        )
    grey = np.round(values / 257.0).astype(np.uint8)
    key: Any = image.info.get("transparency")
    if isinstance(key, int):
        grey[values == key] = 255  # the transparent grey, over white
    return Image.fromarray(grey)


_opening = threading.Lock()


@contextmanager
def opened_image(source: IO[bytes], formats: Sequence[str]) -> Iterator[Image.Image]:
    """Yield an image of which Pillow has read the header, whatever its size.

    Pillow's remarks on odd but readable files, for instance a damaged EXIF block, are silenced. The
    filter is as narrow as can be, because the list of filters belongs to the process: were it left
    behind by two threads crossing each other, only these remarks would stay silent.
    """
    from PIL import Image

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.|featstore\.images")
        with _opening:  # the limit is the process's, too
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                opened = Image.open(source, formats=list(formats))
            finally:
                Image.MAX_IMAGE_PIXELS = limit
        with opened as image:
            yield image
