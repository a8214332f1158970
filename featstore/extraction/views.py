"""Augmented views of images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from featstore.errors import ManifestError, needs_extra
from featstore.identity import canonical_json, sha256_hex

if TYPE_CHECKING:
    from PIL import Image

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
    with needs_extra("Drawing views of images"):
        from PIL import Image as Pillow

    key = canonical_json(
        {"image": item[IMAGE_HASH], "seed": item[SEED], "view": item[VIEW_ID], "recipe": RECIPE}
    )
    rng = np.random.default_rng(int(sha256_hex(key), 16))
    view = image.crop(_crop(image.width, image.height, rng))
    return view.transpose(Pillow.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else view


def _crop(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Return (left, upper, right, lower) of a part of a picture."""
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
