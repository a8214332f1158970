"""The store: layout, writer, reader, views. The only place that knows how it lies on disk.

Importing this package loads nothing: each name below is imported when it is first used, and none of
them imports torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featstore.store.catalog import write_catalog
    from featstore.store.gc import collect_garbage, make_store, remove_set
    from featstore.store.layout import (
        DTYPES,
        ArrayLayout,
        LayoutError,
        LayoutLimits,
        SetKey,
        SetSpec,
        plan_array,
    )
    from featstore.store.place import LocalPlace, Place
    from featstore.store.records import Commit, read_commit, read_pointer
    from featstore.store.repair import rebuild_set
    from featstore.store.rows import MODES, Mode, Tuning, Verify, open_rows
    from featstore.store.store import (
        FeatureStore,
        SetInfo,
        content_duplicates,
        open_store,
        row_facts,
    )
    from featstore.store.tables import ItemTable, read_thumbnails, write_thumbnails
    from featstore.store.verify import Problem, verify_store
    from featstore.store.view import (
        EmbeddingsView,
        PairedView,
        Selection,
        class_texts,
        join_ids,
        pair_views,
    )
    from featstore.store.writer import SetWriter, WriteOptions, settle_set

#: Rows of a block: the unit of work, retry, journal and checksum, and a Zarr inner chunk.
BLOCK_ROWS = 4096

#: Data types that a store may hold, and NumPy's code of what their bytes are read as. NumPy has no
#: bfloat16: its bits are read as uint16.
DTYPE_CODES = {
    "float16": "<f2", "bfloat16": "<u2", "float32": "<f4", "float64": "<f8", "int8": "i1",
    "uint8": "u1",
}  # fmt: skip

_HOME = {
    "ArrayLayout": "featstore.store.layout",
    "Commit": "featstore.store.records",
    "DTYPES": "featstore.store.layout",
    "EmbeddingsView": "featstore.store.view",
    "FeatureStore": "featstore.store.store",
    "ItemTable": "featstore.store.tables",
    "LayoutError": "featstore.store.layout",
    "LayoutLimits": "featstore.store.layout",
    "LocalPlace": "featstore.store.place",
    "MODES": "featstore.store.rows",
    "Mode": "featstore.store.rows",
    "PairedView": "featstore.store.view",
    "Place": "featstore.store.place",
    "Problem": "featstore.store.verify",
    "Selection": "featstore.store.view",
    "SetInfo": "featstore.store.store",
    "SetKey": "featstore.store.layout",
    "SetSpec": "featstore.store.layout",
    "SetWriter": "featstore.store.writer",
    "Tuning": "featstore.store.rows",
    "Verify": "featstore.store.rows",
    "WriteOptions": "featstore.store.writer",
    "class_texts": "featstore.store.view",
    "collect_garbage": "featstore.store.gc",
    "content_duplicates": "featstore.store.store",
    "join_ids": "featstore.store.view",
    "make_store": "featstore.store.gc",
    "open_rows": "featstore.store.rows",
    "open_store": "featstore.store.store",
    "pair_views": "featstore.store.view",
    "plan_array": "featstore.store.layout",
    "read_commit": "featstore.store.records",
    "read_pointer": "featstore.store.records",
    "read_thumbnails": "featstore.store.tables",
    "rebuild_set": "featstore.store.repair",
    "remove_set": "featstore.store.gc",
    "row_facts": "featstore.store.store",
    "settle_set": "featstore.store.writer",
    "verify_store": "featstore.store.verify",
    "write_catalog": "featstore.store.catalog",
    "write_thumbnails": "featstore.store.tables",
}

__all__ = [
    "BLOCK_ROWS",
    "DTYPES",
    "DTYPE_CODES",
    "MODES",
    "ArrayLayout",
    "Commit",
    "EmbeddingsView",
    "FeatureStore",
    "ItemTable",
    "LayoutError",
    "LayoutLimits",
    "LocalPlace",
    "Mode",
    "PairedView",
    "Place",
    "Problem",
    "Selection",
    "SetInfo",
    "SetKey",
    "SetSpec",
    "SetWriter",
    "Tuning",
    "Verify",
    "WriteOptions",
    "class_texts",
    "collect_garbage",
    "content_duplicates",
    "join_ids",
    "make_store",
    "open_rows",
    "open_store",
    "pair_views",
    "plan_array",
    "read_commit",
    "read_pointer",
    "read_thumbnails",
    "rebuild_set",
    "remove_set",
    "row_facts",
    "settle_set",
    "verify_store",
    "write_catalog",
    "write_thumbnails",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'featstore.store' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
