"""Which part of a series one page shows: one set of images, one head, one encoder of texts.

A verdict, a curve or a map over several datasets at once would mean nothing. A suite that reads
many sets has a page for each; what is not shown is named.
"""

from __future__ import annotations

import polars as pl

from bench.errors import NoResultsError

_COLUMNS = ("image_set", "head_set", "name_set", "caption_set")


def one_choice(rows: pl.DataFrame, images: str | None = None) -> tuple[pl.DataFrame, list[str]]:
    """Return the rows of one set of images, one head and one set of each kind of texts.

    Parameters
    ----------
    rows : DataFrame
        Of one series.
    images : str, optional
        Key of the images' set, or how it begins, such as the dataset. If left out, the set with
        the most runs.

    Returns
    -------
    rows : DataFrame
        Of every kind of set that with the most runs; of equally many the first by name. Runs
        without a head or without texts of a kind stay.
    others : list of str
        Sets of images that the series has beside it.

    Raises
    ------
    NoResultsError
        If no set of images begins so.
    """
    keys = sorted(set(rows["image_set"]))
    if images is not None:
        own = [key for key in keys if key == images or key.startswith(images)]
        if not own:
            msg = f"No images of {images!r} were scored. There are: {', '.join(keys)}."
            raise NoResultsError(msg)
        rows = rows.filter(pl.col("image_set").is_in(own))
    for column in _COLUMNS:
        counts = (
            rows.filter(pl.col(column).fill_null("") != "")
            .group_by(column)
            .agg(pl.col("run_id").n_unique().alias("n"))
            .sort("n", column, descending=[True, False])
        )
        if counts.height > 1:
            rows = rows.filter(pl.col(column).fill_null("").is_in(["", counts[column][0]]))
    shown = set(rows["image_set"])
    return rows, [key for key in keys if key not in shown]
