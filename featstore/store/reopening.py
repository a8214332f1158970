"""Views in other processes: a view travels as what it selects, and is opened anew there."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from featstore.store.readers import Mode
    from featstore.store.selection import Selection
    from featstore.store.store import FeatureStore
    from featstore.store.transforms import Transform
    from featstore.store.views import EmbeddingsView

#: Stores and sets that a process keeps open for the views that it is sent.
_KEPT = 32


@dataclass(frozen=True)
class Opening:
    """How a store was opened.

    Attributes
    ----------
    address : str
        Absolute path, or address.
    mode, verify : str
        See `featstore.store.store.open_store`. Elsewhere ``"full"`` is ``"first-touch"``: each
        process compares the blocks that it reads.
    """

    address: str
    mode: Mode
    verify: str


def opening_of(store: FeatureStore) -> Opening:
    """Return how `store` was opened, so that any working directory finds it again."""
    place = store.address if "://" in store.address else os.path.abspath(store.address)  # noqa: PTH100
    return Opening(place, store.mode, store.verify)


def reopened(
    opening: Opening,
    key: str,
    revision_id: str,
    rows: np.ndarray,
    transforms: tuple[Transform, ...],
    dtype: np.dtype[Any],
) -> EmbeddingsView:
    """Return the view that was pickled in another process.

    Raises
    ------
    FeatstoreError
        Whatever `open_store` and `FeatureStore.view` raise, such as where this machine does not
        see the store.
    """
    whole = _view(opening, key, revision_id)
    # Both are rows of the source: failed ones are in neither, and `whole.rows` is sorted.
    chosen = whole.take(np.searchsorted(whole.rows, rows))
    return replace(chosen, transforms=transforms, dtype=dtype)


def reduce_view(view: Selection) -> Any:
    """Return what `pickle` keeps of a view; see `object.__reduce__`.

    Raises
    ------
    TypeError
        If its rows are in no store, such as class texts.
    """
    if view.opening is None:
        msg = f"{view!r} is of rows in memory: send the view that it was made of, or `numpy()`."
        raise TypeError(msg)
    facts = (view.key, view.revision_id, view.rows, view.transforms, view.dtype)
    return reopened, (view.opening, *facts)


@functools.lru_cache(_KEPT)
def _store(opening: Opening) -> FeatureStore:
    from featstore.store.store import open_store

    verify: Any = "first-touch" if opening.verify == "full" else opening.verify
    return open_store(opening.address, mode=opening.mode, verify=verify)


@functools.lru_cache(_KEPT)
def _view(opening: Opening, key: str, revision_id: str) -> EmbeddingsView:
    return _store(opening).view(key, revision=revision_id)
