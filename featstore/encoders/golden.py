"""Golden inputs: a few built-in pictures and texts that pin an encoder down.

Their vectors are stored beside a set and computed again when the set is extended: what a hash
of the weights cannot see (another library version, another device) is seen here.
Drawn by integer arithmetic alone, so that they are the same on every system and NumPy.
"""

from __future__ import annotations

import io
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.encoders.base import IMAGE_KINDS, Encoder
from featstore.errors import needs_extra

if TYPE_CHECKING:
    from PIL import Image

#: Short, long, other scripts, digits and punctuation.
GOLDEN_TEXTS: tuple[str, ...] = (
    "a photo of a dog.",
    "tench, Tinca tinca",
    "Ein Mann fährt auf einem roten Fahrrad über die Brücke.",
    "two people stand in the rain; one holds a large umbrella, the other a paper (price: $0.25)",
    "北京の猫",
)


def golden_images() -> tuple[Image.Image, ...]:
    """Return four RGB pictures of different shapes: gradient, checkerboard, disc and texture."""
    with needs_extra("Encoding images"):
        from PIL import Image

    y, x = np.mgrid[:240, :320]
    gradient = np.stack([x * 255 // 319, y * 255 // 239, (x + y) * 255 // 558], axis=-1)

    y, x = np.mgrid[:256, :256]
    board = np.where(((x // 32 + y // 32) % 2)[..., None], (230, 60, 20), (20, 80, 200))

    y, x = np.mgrid[:300, :200]
    inside = (x - 100) ** 2 + (y - 150) ** 2 < 80**2
    disc = np.where(inside[..., None], (250, 210, 40), (40, 120, 60))

    y, x = np.mgrid[:224, :224]
    texture = np.stack([(x * x * k + y * y * 7 + x * y * 3) % 256 for k in (3, 5, 11)], axis=-1)

    pictures = (gradient, board, disc, texture)
    return tuple(Image.fromarray(picture.astype(np.uint8)) for picture in pictures)


def golden_inputs(kinds: Collection[str]) -> tuple[Any, ...]:
    """Return the golden pictures for an encoder of images, the golden texts for one of texts."""
    return golden_images() if IMAGE_KINDS & frozenset(kinds) else GOLDEN_TEXTS


@dataclass(frozen=True)
class GoldenCosine:
    """How far something turns an encoder's vectors: their cosine before and after."""

    minimum: float
    mean: float

    def as_dict(self) -> dict[str, float]:
        """Return it to six decimals, as a set's facts record it."""
        return {"minimum": round(self.minimum, 6), "mean": round(self.mean, 6)}


def golden_cosine(encoder: Encoder) -> GoldenCosine | None:
    """Return the cosine between an encoder's golden vectors and the same in float32.

    The same weights on the same device, one batch each; per golden input the cosine of the two
    raw vectors, of which the smallest and the mean are returned. In float32 both are 1, without
    a forward pass.

    Parameters
    ----------
    encoder : Encoder
        With ``precision`` and ``encode_float32``, as the built-in encoders have.

    Returns
    -------
    GoldenCosine or None
        None for an encoder that does not say what it computes in.
    """
    precision = getattr(encoder, "precision", None)
    if precision == "float32":
        return GoldenCosine(1.0, 1.0)
    exactly = getattr(encoder, "encode_float32", None)
    if precision is None or exactly is None:
        return None
    batch = [encoder.prepare(item) for item in golden_inputs(encoder.kinds)]
    return cosine_of(encoder.encode(batch), exactly(batch))


def cosine_of(ours: np.ndarray, theirs: np.ndarray) -> GoldenCosine:
    """Return the cosine between the rows of two arrays."""
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    cosines = np.einsum("ij,ij->i", a, b) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return GoldenCosine(float(cosines.min()), float(cosines.mean()))


def enlarged_golden() -> list[bytes]:
    """Return the golden pictures eight times as large, as JPEG files: as large as photographs."""
    from PIL import Image

    files = []
    for image in golden_images():
        buffer = io.BytesIO()
        large = image.resize((8 * image.width, 8 * image.height), Image.Resampling.BICUBIC)
        large.save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files
