"""Images: whatever the file, what is decoded is an upright RGB picture, or an ImageError.

The rules are part of what an embedding means, so they stand in :data:`DECODE_RULE`, which the
image encoders put into their keyed facts.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from featstore.errors import FeatstoreError, ManifestError, needs_extra
from featstore.identity import canonical_json, sha256_hex

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
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

#: How TIFF files begin, by byte order.
_TIFF = (b"II*\0", b"MM\0*")


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
        from PIL import ImageOps, UnidentifiedImageError

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
            with suppress(Exception):  # a broken tag directory is no reason to lose a picture
                ImageOps.exif_transpose(image, in_place=True)
            if metadata and image.mode == "RGB" and not image.has_transparency_data:
                return image
            return to_rgb(image)
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


def declared_pixels(path: Path) -> int:
    """Return how many pixels the header of an image file declares; 0 where that is not known.

    Known they are where Pillow is installed, of the files that it can open.
    """
    from featstore.manifest_files import open_plain

    with suppress(Exception), open_plain(path) as file, opened_image(file, FORMATS) as image:
        return image.width * image.height
    return 0


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

    The pixels of torchvision's ``Resize`` and ``CenterCrop`` on a picture of Pillow, bit for bit.

    Attributes
    ----------
    resize : tuple of int
        Height and width, or one number, which the shorter side is resized to.
    crop : tuple of int
        Height and width; black is added where the picture is smaller.
    interpolation : str
        Pillow's name of the filter: ``BICUBIC``.

    Examples
    --------
    >>> Geometry(resize=(256,), crop=(224, 224), interpolation="BICUBIC").shape
    (224, 224, 3)
    """

    resize: tuple[int, ...]
    crop: tuple[int, int]
    interpolation: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the result."""
        return (*self.crop, 3)

    def facts(self) -> dict[str, Any]:
        """Return what is keyed of it."""
        return {**asdict(self), "resizer": "pillow"}

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Return (width, height) of a picture of this size after it was resized."""
        if len(self.resize) == 2:
            return self.resize[1], self.resize[0]
        (short,) = self.resize
        long = int(short * max(width, height) / min(width, height))
        return (short, long) if width <= height else (long, short)

    def data(self, image: Image.Image) -> bytes:
        """Return the part of an RGB picture that a model sees, row by row."""
        return self._cropped(image).tobytes()

    def pixels(self, image: Image.Image) -> np.ndarray:
        """Return the same as an array, (height, width, 3) uint8."""
        import numpy as np

        return np.array(self._cropped(image))

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


#: What a view is, as facts of its set; part of its content hash.
RECIPE: dict[str, Any] = {
    "name": "random resized crop, horizontal flip",
    "version": 1,
    "area": [0.5, 1.0],
    "aspect": [3 / 4, 4 / 3],
    "flip": 0.5,
    "attempts": 10,
}

#: Columns that views have beside those of an image.
VIEW_ID = "view_id"
SEED = "view_seed"
IMAGE_HASH = "image_sha256"


def view_items(images: pl.DataFrame, *, views: int, seed: int) -> pl.DataFrame:
    """Return the items of the views of images: those of one image stand together.

    Parameters
    ----------
    images : DataFrame
        Items of kind image, each with its content hash.
    views : int
        Views an image, numbered from 0.
    seed : int

    Returns
    -------
    DataFrame
        The columns of `images`, with ``item_id`` ``<image>@v<view>``, ``parent_id`` the image,
        a ``content_sha256`` over image, recipe, seed and view, and ``view_id``, ``view_seed``
        and ``image_sha256`` behind.

    Raises
    ------
    ManifestError
        If an image has no content hash.
    """
    import numpy as np
    import polars as pl

    if images["content_sha256"].null_count():
        raise ManifestError("Views need the content hash of every image; build the manifest again.")
    repeated = images.select(pl.all().repeat_by(views).explode())
    numbers = np.tile(np.arange(views), images.height)
    digests = [
        sha256_hex(canonical_json({"image": image, "recipe": RECIPE, "seed": seed, "view": view}))
        for image, view in zip(repeated["content_sha256"], numbers.tolist(), strict=True)
    ]
    return repeated.with_columns(
        item_id=repeated["item_id"] + pl.Series([f"@v{view}" for view in numbers.tolist()]),
        parent_id=repeated["item_id"],
        content_sha256=pl.Series(digests, dtype=pl.String),
    ).with_columns(
        pl.Series(VIEW_ID, numbers, dtype=pl.Int64),
        pl.lit(seed, dtype=pl.Int64).alias(SEED),
        repeated["content_sha256"].alias(IMAGE_HASH),
    )


def source_item(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the row of the image that an item is a view of; other items as they are."""
    if item.get(IMAGE_HASH) is None:
        return item
    return {**item, "content_sha256": item[IMAGE_HASH]}


def draw_view(image: Image.Image, item: Mapping[str, Any]) -> Image.Image:
    """Return the view of `image` that an item stands for; the image itself if it is none.

    A part of 50 to 100 % of the area, its aspect 3/4 to 4/3 of the image's own, drawn
    uniformly (the aspect in its logarithm) as in torchvision's RandomResizedCrop, except that
    there the aspect is absolute; then mirrored in half of the cases. It is not resized: every
    encoder does that in its own way.
    """
    if item.get(VIEW_ID) is None:
        return image
    import numpy as np
    from PIL import Image as Pillow

    key = canonical_json(
        {"image": item[IMAGE_HASH], "seed": item[SEED], "view": item[VIEW_ID], "recipe": RECIPE}
    )
    rng = np.random.default_rng(int(sha256_hex(key), 16))
    view = image.crop(_crop(image.width, image.height, rng))
    return view.transpose(Pillow.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else view


def _crop(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Return (left, upper, right, lower) of a part of a picture."""
    import numpy as np

    low, high = np.log(RECIPE["aspect"])
    for _ in range(RECIPE["attempts"]):
        area = rng.uniform(*RECIPE["area"])
        aspect = np.exp(rng.uniform(low, high))
        w = max(1, round(width * np.sqrt(area * aspect)))
        h = max(1, round(height * np.sqrt(area / aspect)))
        if w <= width and h <= height:
            left = int(rng.integers(width - w + 1))
            upper = int(rng.integers(height - h + 1))
            return left, upper, left + w, upper + h
    return 0, 0, width, height
