"""Sets as files of other tools, and back: npy, safetensors, Parquet, HDF5; sinks of Ray, Daft."""

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

    dataset: str = option(help="Name of the dataset that the rows are of.")
    kind: str = option(
        help="What the items are.", choices=("image", "caption", "class_name", "head_weight")
    )
    encoder: str = option(help="What made the rows: family:name.")
    items: Path | None = option(
        None, help="CSV or Parquet with item_id, one row a row of SOURCE; needed if it has none."
    )
    array: str | None = option(None, help="Dataset, tensor or column, if there are several.")
    dtype: str | None = option(
        None,
        help="Stored dtype (default: that of the file, so that every bit is kept).",
        flag="--save-dtype",
        choices=tuple(DTYPE_CODES),
    )
