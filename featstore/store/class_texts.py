"""One text row per class, from its name variants and prompt templates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import polars as pl

from featstore.errors import EmptySelectionError
from featstore.keys import canonical_json, sha256_hex
from featstore.store.arrays import MemoryRows
from featstore.store.items import ItemTable
from featstore.store.selection import Selection

View = TypeVar("View", bound=Selection)


def class_texts(
    view: View,
    *,
    variants: Sequence[str] | str | None = None,
    templates: Sequence[str] | str | None = None,
) -> View:
    """Reduce class × variant × template prompts to one row per class.

    Each prompt is L2-normalised, the prompts of a class are averaged, and the mean is
    L2-normalised (encode → L2 → mean → L2, as open_clip does), so that 80 templates give a
    class no more mass than one.

    Parameters
    ----------
    view : Selection
        Of kind class_name.
    variants, templates : sequence of str, or str, optional
        Which to use, or the only one; all by default. A class lacking one of the variants keeps
        the others.

    Returns
    -------
    Selection
        One row per class in order of first appearance; its items are the class's first
        prompt, with ``item_id`` = class_id.

    Raises
    ------
    EmptySelectionError
        If a variant or template does not occur, or a class has none of those asked for.
    """
    chosen = view
    # A text is a sequence of letters, too.
    variants = [variants] if isinstance(variants, str) else variants
    templates = [templates] if isinstance(templates, str) else templates
    if variants is not None:
        _require(view, "variant", variants)
        chosen = chosen.where(variant=list(variants))
    if templates is not None:
        _require(view, "template_id", templates)
        chosen = chosen.where(template_id=list(templates))
    classes = chosen.items["class_id"]
    if classes.null_count():
        msg = (
            f"{classes.null_count():,} items of {view.key} have no class_id; they are not class "
            "names."
        )
        raise EmptySelectionError(msg)
    order = classes.unique(maintain_order=True)
    lost = set(view.items["class_id"].drop_nulls()) - set(order)
    if lost:
        msg = (
            f"{len(lost):,} classes of {view.key} have none of the variants and templates asked "
            f"for (first: {min(lost)!r})."
        )
        raise EmptySelectionError(msg)
    position = {name: index for index, name in enumerate(order.to_list())}
    index = np.array([position[name] for name in classes.to_list()])
    data = chosen.normalized().numpy(np.float64)
    sums = np.zeros((len(order), view.dim))
    np.add.at(sums, index, data)
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    if not norms.all():
        msg = (
            f"The prompts of class {order[int(np.flatnonzero(norms[:, 0] == 0)[0])]!r} cancel out."
        )
        raise EmptySelectionError(msg)
    first = np.unique(index, return_index=True)[1]
    items = chosen.items[first].with_columns(pl.col("class_id").alias("item_id"))
    facts = {"class_texts": chosen.fingerprint, "reduction": "l2-mean-l2"}
    return replace(
        chosen,
        source=MemoryRows((sums / norms).astype(np.float32)),
        rows=np.arange(len(order)),
        table=ItemTable(lambda: items),
        revision_id=sha256_hex(canonical_json(facts)),
        transforms=(),
        origin=None,
    )


def _require(view: Selection, column: str, wanted: Sequence[str]) -> None:
    """Raise if one of the wanted values does not occur: it would silently change nothing."""
    known = set(view.items[column].drop_nulls().to_list())
    absent = [value for value in wanted if value not in known]
    if absent or not wanted:
        msg = (
            f"{view.key} has no {column} {', '.join(map(repr, absent)) or '(none asked for)'}. It "
            f"has: {', '.join(sorted(known))}."
        )
        raise EmptySelectionError(msg)
