"""Golden inputs: a few built-in pictures and texts that pin an encoder down.

Their vectors are stored beside a set and computed again when the set is extended: what a hash
of the weights cannot see (another library version, another device) is seen here.
Drawn by integer arithmetic alone, so that they are the same on every system and NumPy.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.encoders.base import IMAGE_KINDS, Encoder

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
    from PIL import Image

    def grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        y, x = np.mgrid[0:height, 0:width]
        return y, x

    y, x = grid(240, 320)
    gradient = np.stack([x * 255 // 319, y * 255 // 239, (x + y) * 255 // 558], axis=-1)

    y, x = grid(256, 256)
    board = np.where(((x // 32 + y // 32) % 2)[..., None], (230, 60, 20), (20, 80, 200))

    y, x = grid(300, 200)
    inside = (x - 100) ** 2 + (y - 150) ** 2 < 80**2
    disc = np.where(inside[..., None], (250, 210, 40), (40, 120, 60))

    y, x = grid(224, 224)
    texture = np.stack([(x * x * k + y * y * 7 + x * y * 3) % 256 for k in (3, 5, 11)], axis=-1)

    pictures = (gradient, board, disc, texture)
    return tuple(Image.fromarray(picture.astype(np.uint8)) for picture in pictures)


def golden_inputs(kinds: Collection[str]) -> tuple[Any, ...]:
    """Return the golden pictures for an encoder of images, the golden texts for one of texts."""
    return golden_images() if IMAGE_KINDS & frozenset(kinds) else GOLDEN_TEXTS


def golden_vectors(encoder: Encoder) -> np.ndarray:
    """Return (g, d) float32: the encoder's vectors of its golden inputs, as one batch."""
    return encoder.encode([encoder.prepare(item) for item in golden_inputs(encoder.kinds)])
