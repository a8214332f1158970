"""Tables of pyarrow, which is imported when one is opened, and what goes wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from featstore.errors import ManifestError, needs_extra


def arrow() -> Any:
    """Return the module pyarrow.

    Raises
    ------
    MissingPackageError
        If it is not installed.
    """
    with needs_extra("A Parquet file with images, or an Arrow file,"):
        import pyarrow.ipc
        import pyarrow.parquet
    return pyarrow


def unreadable(path: Path, err: BaseException) -> ManifestError:
    """Return the error for a table that cannot be read."""
    reason = getattr(err, "strerror", None) or (str(err).splitlines() or [type(err).__name__])[0]
    msg = f"{path} is truncated, damaged or no table that is read here: {reason[:200]}."
    return ManifestError(msg)


def column_cells(batch: Any, column: str) -> list[Any]:
    """Return the values of a column, or with ``a.b`` of the field b of the structs in a."""
    if column in batch.schema.names:
        return list(batch.column(column).to_pylist())
    name, _, field = column.rpartition(".")
    values = batch.column(name).to_pylist()
    return [None if value is None else value[field] for value in values]
