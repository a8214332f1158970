"""Few-shot samples of a dataset: k images a class, drawn with a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from featstore.durable import write_durably
from featstore.errors import LISTED, ManifestError, listed
from featstore.manifest.io import parquet_bytes

#: The usual numbers of images a class.
SHOTS = (1, 2, 4, 8, 16)

#: Validation images a class are at most this many, as in CoOp.
MAX_VAL = 4


def draw_shots(
    images: pl.DataFrame, *, seed: int, shots: int, val: int | None = None, split: str = "train"
) -> pl.DataFrame:
    """Draw some images of every class.

    The images of a class are put in the order of the sha256 of seed and item_id, and the first
    are taken: the draw does not depend on the order of files, on other classes, or on a version of
    numpy, and the draw of 2 holds that of 1. Validation images come from the split ``val``; where
    there is none, from the same split, behind the training images of the largest usual draw, so
    that no image is in both and validation is the same for every number of shots up to 16.

    Parameters
    ----------
    images : DataFrame
        The image table of a manifest.
    seed : int
    shots : int
        Images a class.
    val : int, optional
        Validation images a class; default min(shots, 4), and 0 for none.
    split : str
        Where the training images come from.

    Returns
    -------
    DataFrame
        item_id, class_id, part (``train`` or ``val``), place (0, 1, … within class and part),
        sorted by part, class and place.

    Raises
    ------
    ManifestError
        If a class has too few images, or there is no class or no such split.
    """
    wanted = min(shots, MAX_VAL) if val is None else val
    if shots < 1 or wanted < 0:
        raise ManifestError(
            f"There cannot be {shots} shots with {wanted} for validation. Give 1 or more."
        )
    known = images.filter(pl.col("class_id").is_not_null())
    train = known.filter(pl.col("split") == split)
    if train.is_empty():
        found = listed(sorted(images["split"].drop_nulls().unique()), shown=LISTED)
        raise ManifestError(f"No image with a class is in the split {split!r}. Splits: {found}.")
    own = known.filter(pl.col("split") == "val") if split != "val" else known.clear()
    parts = [_first(train, seed, shots, 0, "train")]
    if wanted:
        behind = 0 if own.height else max(shots, *SHOTS)
        parts.append(_first(own if own.height else train, seed, wanted, behind, "val"))
    classes = train["class_id"].unique()
    for part, count in zip(parts, (shots, wanted), strict=False):
        sizes = part.group_by("class_id").len()
        full = sizes.filter(pl.col("len") == count)["class_id"]
        short = sorted(set(classes) - set(full))
        if short:
            name = part["part"][0] if part.height else "val"
            raise ManifestError(
                f"{len(short):,} of {len(classes):,} classes have too few images for {count} in "
                f"{name} (first: {short[0]!r}). Draw fewer, or give val=0."
            )
    return pl.concat(parts)


def write_shots(
    images: pl.DataFrame,
    out: Path,
    *,
    seeds: Sequence[int],
    shots: Sequence[int] = SHOTS,
    val: int | None = None,
    split: str = "train",
) -> list[Path]:
    """Write draws as small Parquet files, ``seed<seed>-shots<shots>.parquet``.

    The same images and seeds give the same bytes.

    Raises
    ------
    ManifestError
        As `draw_shots`, or if a file cannot be written.
    """
    files = []
    for seed in seeds:
        for count in shots:
            table = draw_shots(images, seed=seed, shots=count, val=val, split=split)
            path = out / f"seed{seed}-shots{count}.parquet"
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_durably(path, [parquet_bytes(table)])
            except OSError as err:
                raise ManifestError(
                    f"Cannot write {path}: {err.strerror or err}. Choose another folder."
                ) from err
            files.append(path)
    return files


def _first(table: pl.DataFrame, seed: int, count: int, behind: int, part: str) -> pl.DataFrame:
    """Return `count` images of every class in the order of their hashes, from place `behind`."""
    keys = [hashlib.sha256(f"{seed}\0{item}".encode()).hexdigest() for item in table["item_id"]]
    ordered = (
        table.select("item_id", "class_id")
        .with_columns(key=pl.Series(keys, dtype=pl.String))
        .sort("class_id", "key")
        .with_columns(place=pl.int_range(pl.len()).over("class_id") - behind)
    )
    chosen = ordered.filter(pl.col("place").is_between(0, count - 1))
    return chosen.select("item_id", "class_id", part=pl.lit(part), place=pl.col("place"))
