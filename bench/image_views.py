"""Augmented views of images, read when they are asked for: only shots need theirs.

Views are a set of their own (``featstore extract --views``), so that none of them is ever an image
that is scored.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import ProtocolError
from featstore.store.views import EmbeddingsView

VIEW_ID = "view_id"


class ImageViews:
    """The views of a set of images by the id of their image.

    Parameters
    ----------
    view : EmbeddingsView
        Items with ``view_id`` and, as their parent, the image.

    Raises
    ------
    ProtocolError
        If the set holds no views.
    """

    def __init__(self, view: EmbeddingsView) -> None:
        if VIEW_ID not in view.items.columns or view.items["parent_id"].null_count():
            msg = (
                f"{view.key} holds no augmented views of images. Make them with `featstore extract "
                "DATASET --kind image --views 10`, and name that set."
            )
            raise ProtocolError(msg)
        self._view = view
        parents = view.items["parent_id"].to_numpy().astype(str)
        order = np.lexsort((view.items[VIEW_ID].to_numpy(), parents))
        ids, starts, counts = np.unique(parents[order], return_index=True, return_counts=True)
        self._rows = {
            name: order[start : start + count]
            for name, start, count in zip(
                ids.tolist(), starts.tolist(), counts.tolist(), strict=True
            )
        }

    def of(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Return the raw views of these images, in the order of their numbers: (n, v, d).

        Raises
        ------
        ProtocolError
            If an image has none, or another number of them than the others.
        """
        rows = [self._rows.get(str(image), np.empty(0, dtype=np.int64)) for image in images]
        counts = {len(own) for own in rows}
        if len(counts) != 1 or counts == {0}:
            least = min(range(len(rows)), key=lambda place: len(rows[place]))
            msg = (
                f"{self._view.key} has {min(counts)} to {max(counts)} views an image (fewest: "
                f"{str(images[least])!r}); every shot needs equally many. Extract the views of all "
                "images."
            )
            raise ProtocolError(msg)
        places = np.concatenate(rows)
        raw = self._view.take(places).numpy()
        return raw.reshape(len(images), counts.pop(), raw.shape[1])
