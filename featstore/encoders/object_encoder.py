"""A user's own Python object as an encoder."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from featstore.encoders.base import IMAGE_KINDS, TEXT_KINDS
from featstore.encoders.golden import golden_inputs
from featstore.errors import EncoderError
from featstore.identity import canonical_json
from featstore.images import Geometry

_EXAMPLE = 'For instance space={"name": "my-model", "weights": "2024-05-01"}.'


class ObjectEncoder:
    """Wraps an object whose ``encode``, or which itself, maps a list of items to vectors.

    Parameters
    ----------
    obj : object
        ``obj.encode(items)`` or ``obj(items)`` returns (b, d): an array, a tensor or rows.
        It gets a list of RGB pictures (PIL), or a list of texts. An `obj` whose ``geometry`` is a
        `featstore.images.Geometry` gets pictures resized and cropped by it, as one
        (b, height, width, 3) uint8 array, which the processes that decode have filled.
    space : mapping
        Facts that identify the space, as plain JSON, with at least a ``name``. `obj` itself is
        not inspected: two spaces count as the same when these facts are the same, so name the
        weights and the preprocessing here.
    kinds : collection of str
        ``{"image"}``, or one or both of ``{"caption", "class_name"}``.
    batch_size : int

    Raises
    ------
    EncoderError
        If `space`, `kinds` or what `obj` returns does not fit.
    """

    def __init__(
        self,
        obj: Any,
        space: Mapping[str, Any],
        kinds: Collection[str],
        *,
        batch_size: int = 32,
    ) -> None:
        self._call = getattr(obj, "encode", obj)
        if not callable(self._call):
            raise EncoderError(
                f"An encoder object needs a method encode(items) or must be callable; "
                f"{type(obj).__name__} is neither."
            )
        geometry = getattr(obj, "geometry", None)
        self.geometry = geometry if isinstance(geometry, Geometry) else None
        self.space = _checked_space(space)
        if self.geometry is not None:
            self.space["geometry"] = self.geometry.facts()
        self.kinds = _checked_kinds(kinds)
        self.name = f"object:{self.space['name']}"
        self.batch_size = batch_size
        self.facts: dict[str, Any] = {
            "object": f"{type(obj).__module__}.{type(obj).__qualname__}",
            "weights": {"source": "object"},
        }
        self.dim = self._vectors([self.prepare(golden_inputs(self.kinds)[0])]).shape[1]

    def prepare(self, item: Any) -> Any:
        """Return the item itself, or its pixels: what else is done is the object's own business."""
        return item if self.geometry is None else self.geometry.pixels(item)

    def encode(self, batch: Sequence[Any]) -> np.ndarray:
        """Return (b, d) float32 vectors."""
        if not batch:
            return np.empty((0, self.dim), np.float32)
        vectors = self._vectors(list(batch))
        if vectors.shape[1] != self.dim:
            raise EncoderError(
                f"{self.name} returned vectors of length {vectors.shape[1]} after vectors of "
                f"length {self.dim}. One encoder has one length."
            )
        return vectors

    def _vectors(self, items: list[Any]) -> np.ndarray:
        output = self._call(items if self.geometry is None else np.stack(items))
        if hasattr(output, "detach"):
            output = output.detach().cpu().float().numpy()
        vectors = np.asarray(output, dtype=np.float32)
        if vectors.ndim != 2 or len(vectors) != len(items):
            raise EncoderError(
                f"{self.name} returned an array of shape {vectors.shape} for {len(items)} items; "
                f"expected ({len(items)}, d)."
            )
        return vectors


def _checked_space(space: Mapping[str, Any]) -> dict[str, Any]:
    name = space.get("name")
    if not isinstance(name, str) or not name:
        raise EncoderError(f"The space of an encoder object needs a name, got {name!r}. {_EXAMPLE}")
    if space.get("family", "object") != "object":
        raise EncoderError(
            f"The space of an encoder object cannot be of family {space['family']!r}: that is "
            "kept for built-in encoders. Leave 'family' out."
        )
    try:
        canonical_json(dict(space))
    except (TypeError, ValueError) as err:
        raise EncoderError(
            f"The space of an encoder object must be plain JSON: {err}. {_EXAMPLE}"
        ) from err
    return {**space, "family": "object"}


def _checked_kinds(kinds: Collection[str]) -> frozenset[str]:
    chosen = frozenset({kinds} if isinstance(kinds, str) else kinds)
    if not chosen or not (chosen <= IMAGE_KINDS or chosen <= TEXT_KINDS):
        raise EncoderError(
            f"An encoder object takes images or texts, got kinds {sorted(chosen)}. "
            "Use {'image'}, or one or both of {'caption', 'class_name'}."
        )
    return chosen
