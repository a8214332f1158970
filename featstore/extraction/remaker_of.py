"""Choose what makes the content of a damaged set again: its encoder, or the model of a head."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import polars as pl

from featstore.encoders.base import Encoder
from featstore.encoders.object_encoder import ObjectEncoder
from featstore.errors import EncoderError, ManifestError
from featstore.extraction.image_views import view_items
from featstore.extraction.plans import Plan, recorded_plans
from featstore.extraction.remaking import HeadRemaker, ItemRemaker, Remaker
from featstore.keys import space_id
from featstore.manifest import Manifest
from featstore.store.layout import SetKey
from featstore.store.mender import SetMender
from featstore.store.rederive import attributes_of


def open_remaker(
    source: Manifest,
    mender: SetMender,
    *,
    encoder: Any,
    space: Mapping[str, Any] | None,
    wanted: str,
    weights: str | None,
    device: str | None,
    trust_remote_code: bool,
    workers: int | None,
) -> Remaker:
    """Return what makes the content of a damaged set again; see `mending.repair_set`.

    Parameters
    ----------
    wanted : str
        The space_id of the set.

    Raises
    ------
    EncoderError
        If the set was made by an object, and none is given; or its encoder cannot be opened.
    """
    directory, kind = mender.directory, mender.key.kind
    attributes = attributes_of(directory)
    # The folder carries the name with its colon as a point.
    folder_name = mender.key.encoder.rsplit("-", 1)[0].replace(".", ":", 1)
    name = encoder if encoder is not None else str(attributes.get("encoder") or folder_name)
    plans = recorded_plans(directory, name if isinstance(name, str) else "")
    items = partial(items_of, source, mender.key)
    if not isinstance(name, str):
        opened = name if isinstance(name, Encoder) else _wrapped(name, kind, attributes, space)
        return ItemRemaker(source, items, plans, lambda _: opened, workers=workers)
    if name.startswith("object:"):
        msg = (
            f"{mender.key} was made by the object {name!r}, which no name stands for. Mend it from "
            "Python: featstore.extraction.mending.repair_set(store, key, manifest=…, encoder=…)."
        )
        raise EncoderError(msg)
    from featstore.encoders.class_head import read_head
    from featstore.encoders.registry import open_encoder

    if kind == "head_weight":
        facts = attributes.get("facts")
        label_set = facts.get("label_set") if isinstance(facts, dict) else None
        head = read_head(name, weights=weights or plans[0].weights, label_set=label_set)
        return HeadRemaker(source, head, plans[0])
    # The folder's digits say which it was; the attributes may be damaged.
    precision = str(attributes.get("precision") or "float32")
    known: dict[tuple[Any, ...], Encoder] = {}

    def opened_as(plan: Plan) -> Encoder:
        asked = tuple(sorted(plan.options.items()))
        options = (weights or plan.weights, device or plan.device, plan.batch, plan.threads, asked)
        if options not in known:
            known[options] = open_encoder(
                name, weights=options[0], device=options[1], batch_size=options[2],
                threads=options[3], kind=kind, precision=precision,
                trust_remote_code=trust_remote_code, **dict(options[4]),
            )  # fmt: skip
        return known[options]

    if len({tuple(sorted(plan.options.items())) for plan in plans}) > 1:
        # A run may have asked for one encoder in several ways: each is a space of its own.
        fitting = [plan for plan in plans if space_id(opened_as(plan).space) == wanted]
        plans = fitting or plans
    return ItemRemaker(source, items, plans, opened_as, workers=workers)


def items_of(source: Manifest, key: SetKey) -> pl.DataFrame | None:
    """Return the items of a set's kind in its manifest: those of views are drawn from images.

    Raises
    ------
    ManifestError
        If the set is of another dataset.
    """
    if key.dataset == source.name:
        return source.tables.get(key.kind)
    match = re.fullmatch(r"(.+)\.views(\d{1,9})-seed(\d{1,18})", key.dataset)
    if match is None or match[1] != source.name:
        msg = f"{key} is not of manifest {source.name!r}. Give that of {key.dataset!r}."
        raise ManifestError(msg)
    images = source.tables.get("image")
    return None if images is None else view_items(images, views=int(match[2]), seed=int(match[3]))


def _wrapped(
    obj: Any, kind: str, attributes: Mapping[str, Any], space: Mapping[str, Any] | None
) -> Encoder:
    stated = attributes.get("space")
    facts = space if space is not None else stated if isinstance(stated, dict) else None
    if facts is None:
        msg = "The set does not say its encoder's space any more. Give space={...} as in extract."
        raise EncoderError(msg)
    return ObjectEncoder(obj, {k: v for k, v in facts.items() if k != "family"}, {kind})
