"""Embeddings through a fitted alignment, on the side of the space that they lie in, or refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from featstore.errors import MisalignedItemsError
from featstore.store.views import EmbeddingsView
from fitters.alignment import Alignment
from fitters.projection import Projection


def project_view(alignment: Alignment, view: EmbeddingsView) -> Projection:
    """Return the rows of a view in the shared space: (n, r), float32, dense or CSR.

    The side is decided by the view's space_id.

    Raises
    ------
    featstore.errors.MisalignedItemsError
        If the view lies in neither of the two spaces that the alignment was fitted on.
    """
    side = side_of(alignment, view.space_id, what=view.key)
    rows = view.numpy()
    return alignment.project_x(rows) if side == "x" else alignment.project_y(rows)


def side_of(alignment: Alignment, space_id: str, *, what: str) -> Literal["x", "y"]:
    """Return which side of an alignment takes embeddings of this space."""
    if space_id == alignment.facts.get("x_space_id"):
        return "x"
    if space_id == alignment.facts.get("y_space_id"):
        return "y"
    facts = alignment.facts
    known = [(facts.get(f"{side}_encoder"), facts.get(f"{side}_space_id")) for side in "xy"]
    spaces = " and ".join(f"{encoder} ({str(space)[:8]})" for encoder, space in known)
    msg = (
        f"{what} lies in space {space_id[:8]}; the alignment was fitted on {spaces}. Embeddings "
        "of another model, checkpoint or preprocessing cannot be projected with it."
    )
    raise MisalignedItemsError(msg)


def embed_texts(
    alignment: Alignment, texts: Sequence[str], *, weights: str | None, encoder: str | None = None
) -> Projection:
    """Encode texts with the alignment's own text encoder and project them: (n, r), float32.

    Raises
    ------
    featstore.errors.MisalignedItemsError
        If the encoder, with these weights, is not the one that the alignment was fitted on.
    """
    from featstore.encoders.registry import open_encoder
    from featstore.keys import space_id

    opened = open_encoder(encoder or str(alignment.facts["y_encoder"]), weights=weights)
    if side_of(alignment, space_id(opened.space), what=opened.name) != "y":
        msg = f"{opened.name} encodes images; texts go through {alignment.facts['y_encoder']}."
        raise MisalignedItemsError(msg)
    rows = opened.encode([opened.prepare(text) for text in texts])
    return alignment.project_y(rows)
