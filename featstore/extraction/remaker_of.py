"""Choose what makes the content of a damaged set again: its encoder, or the model of a head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from featstore.encoders.base import Encoder
from featstore.encoders.object_encoder import ObjectEncoder
from featstore.errors import EncoderError
from featstore.extraction.plans import Plan, recorded_plans
from featstore.extraction.remaking import HeadRemaker, ItemRemaker, Remaker
from featstore.manifest import Manifest
from featstore.store.mender import SetMender
from featstore.store.rederive import attributes_of


def open_remaker(
    source: Manifest,
    mender: SetMender,
    *,
    encoder: Any,
    space: Mapping[str, Any] | None,
    weights: str | None,
    device: str | None,
    workers: int | None,
) -> Remaker:
    """Return what makes the content of a damaged set again; see `mending.repair_set`.

    Raises
    ------
    EncoderError
        If the set was made by an object, and none is given; or its encoder cannot be opened.
    """
    directory, kind = mender.directory, mender.key.kind
    attributes = attributes_of(directory)
    plans = recorded_plans(directory)
    # The folder carries the name with its colon as a point.
    folder_name = mender.key.encoder.rsplit("-", 1)[0].replace(".", ":", 1)
    name = encoder if encoder is not None else str(attributes.get("encoder") or folder_name)
    if not isinstance(name, str):
        opened = name if isinstance(name, Encoder) else _wrapped(name, kind, attributes, space)
        return ItemRemaker(source, kind, plans, lambda _: opened, workers=workers)
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
        options = (weights or plan.weights, device or plan.device, plan.batch, plan.threads)
        if options not in known:
            known[options] = open_encoder(
                name, weights=options[0], device=options[1], batch_size=options[2],
                threads=options[3], kind=kind, precision=precision,
            )  # fmt: skip
        return known[options]

    return ItemRemaker(source, kind, plans, opened_as, workers=workers)


def _wrapped(
    obj: Any, kind: str, attributes: Mapping[str, Any], space: Mapping[str, Any] | None
) -> Encoder:
    stated = attributes.get("space")
    facts = space if space is not None else stated if isinstance(stated, dict) else None
    if facts is None:
        msg = "The set does not say its encoder's space any more. Give space={...} as in extract."
        raise EncoderError(msg)
    return ObjectEncoder(obj, {k: v for k, v in facts.items() if k != "family"}, {kind})
