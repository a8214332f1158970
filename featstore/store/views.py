"""Views: what a store hands out, a selection of rows that can be joined and reduced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from featstore.store.class_texts import class_texts
from featstore.store.pairs import PairedView, pair_views
from featstore.store.selection import Selection


@dataclass(frozen=True, eq=False, repr=False)
class EmbeddingsView(Selection):
    """Rows of one set; see `Selection` for choosing and reading them."""

    def pair_by(self, column: str, other: EmbeddingsView) -> PairedView[EmbeddingsView]:
        """Join this view to another by id; see `featstore.store.pairs.pair_views`."""
        return pair_views(self, other, by=column)

    def class_texts(
        self,
        variants: Sequence[str] | str | None = None,
        templates: Sequence[str] | str | None = None,
    ) -> Self:
        """Return one text row per class; see `featstore.store.class_texts.class_texts`."""
        return class_texts(self, variants=variants, templates=templates)
