"""Sets as files of other tools, and back: npy, safetensors, Parquet, HDF5, Zarr; a sink of Ray."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from featstore.options import option, with_options
from featstore.store import DTYPE_CODES

#: Names of the formats, as the command line has them.
FORMATS = ("npy", "safetensors", "parquet", "h5")


@with_options
@dataclass(frozen=True)
class ImportConfig:
    """What imported rows are.

    The space of an imported set is what the caller says it is, and no more: the encoder's name
    and ``provenance: imported``. Two imports under one encoder's name claim one space.

    Attributes
    ----------
    {options}
    """

    dataset: str = option(help="Store the rows as embeddings of the dataset with this name.")
    kind: str = option(
        help="Store the rows as embeddings of items of this kind.",
        choices=("image", "caption", "class_name", "head_weight"),
    )
    encoder: str = option(help="Name the encoder that made the rows.", metavar="FAMILY:NAME")
    items: Path | None = option(
        None,
        help="Read item_id and further columns from this CSV or Parquet file, one line per "
        "row of SOURCE. It is needed if SOURCE has no ids.",
        metavar="FILE",
    )
    array: str | None = option(
        None, help="Read this dataset, tensor or column of SOURCE, if it has several."
    )
    dtype: str | None = option(
        None,
        help="Store the rows in this dtype [default: that of the file, which keeps every bit].",
        flag="--dtype",
        choices=tuple(DTYPE_CODES),
    )
