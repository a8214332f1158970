"""The store: layout, writer, reader, views. The only place that knows how it lies on disk.

Importing this package loads nothing: each name below is imported when it is first used, and none of
them imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from featstore.errors import lazily

if TYPE_CHECKING:
    from featstore.prompts import class_texts
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
    from featstore.store.log import Log, read_log
    from featstore.store.pairs import EmbeddingsView, PairedView, pair_views
    from featstore.store.records import Commit, read_commit
    from featstore.store.rows import MODES, Mode, Place, Verify, open_rows
    from featstore.store.store import (
        FeatureStore,
        SetInfo,
        open_store,
        row_facts,
    )
    from featstore.store.tables import ItemTable, join_ids, read_thumbnails, write_thumbnails
    from featstore.store.verify import Problem, rebuild_set, verify_store
    from featstore.store.view import Selection
    from featstore.store.writer import SetWriter, WriteOptions, tidy_set

#: Rows of a block: the unit of work, retry, journal and checksum, and a Zarr inner chunk.
BLOCK_ROWS = 4096

#: Data types that a store may hold, and NumPy's code of what their bytes are read as. NumPy has no
#: bfloat16: its bits are read as uint16.
DTYPE_CODES = {
    "float16": "<f2", "bfloat16": "<u2", "float32": "<f4", "float64": "<f8", "int8": "i1",
    "uint8": "u1",
}  # fmt: skip

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
    "Log",
    "Mode",
    "PairedView",
    "Place",
    "Problem",
    "Selection",
    "SetInfo",
    "SetKey",
    "SetSpec",
    "SetWriter",
    "Verify",
    "WriteOptions",
    "class_texts",
    "collect_garbage",
    "join_ids",
    "make_store",
    "open_rows",
    "open_store",
    "pair_views",
    "plan_array",
    "read_commit",
    "read_log",
    "read_thumbnails",
    "rebuild_set",
    "remove_set",
    "row_facts",
    "tidy_set",
    "verify_store",
    "write_thumbnails",
]


__getattr__, __dir__ = lazily(
    __name__,
    {
        "featstore.prompts": "class_texts",
        "featstore.store.gc": "collect_garbage make_store remove_set",
        "featstore.store.layout": (
            "ArrayLayout DTYPES LayoutError LayoutLimits SetKey SetSpec plan_array"
        ),
        "featstore.store.log": "Log read_log",
        "featstore.store.records": "Commit read_commit",
        "featstore.store.rows": "MODES Mode Place Verify open_rows",
        "featstore.store.store": "FeatureStore SetInfo open_store row_facts",
        "featstore.store.tables": "ItemTable join_ids read_thumbnails write_thumbnails",
        "featstore.store.verify": "Problem rebuild_set verify_store",
        "featstore.store.pairs": "EmbeddingsView PairedView pair_views",
        "featstore.store.view": "Selection",
        "featstore.store.writer": "SetWriter WriteOptions tidy_set",
    },
)
