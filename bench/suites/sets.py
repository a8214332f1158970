"""Which sets of a store a suite reads: found by dataset and kind, checked to fit together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.errors import ProtocolError
from featstore.store.set_info import SetInfo
from featstore.store.store import FeatureStore


@dataclass(frozen=True)
class SuiteSets:
    """The five sets of one image encoder and one text encoder.

    Attributes
    ----------
    image, name, caption, head, head_name : SetInfo
    """

    image: SetInfo
    name: SetInfo
    caption: SetInfo
    head: SetInfo
    head_name: SetInfo

    def fields(self) -> dict[str, Any]:
        """Return the fields of a run that name these sets and their revisions."""
        out = {}
        for role in ("image", "name", "caption", "head", "head_name"):
            info: SetInfo = getattr(self, role)
            out[f"{role}_set"] = str(info.key)
            out[f"{role}_revision"] = info.commit.revision_id
        return out


def find_sets(
    store: FeatureStore, *, dataset: str | None = None, label_set: str | None = None
) -> SuiteSets:
    """Return the sets that fit together: a head with images of its space, texts of one space.

    Parameters
    ----------
    store : FeatureStore
    dataset : str, optional
        Has images, captions and class names; if left out, the only one with images.
    label_set : str, optional
        Has head weights and class names; if left out, the only one with head weights.

    Raises
    ------
    ProtocolError
        If a set is missing or several image or text encoders fit; the message says which
        command makes it, or what there is to choose from.
    """
    infos = store.sets()
    dataset = dataset or _only_dataset(infos, store, "image", "--dataset")
    label_set = label_set or _only_dataset(infos, store, "head_weight", "--label-set")
    head = _only(
        [
            info
            for info in _of(infos, label_set, "head_weight")
            if info.commit.space_id in {i.commit.space_id for i in _of(infos, dataset, "image")}
        ],
        store,
        label_set,
        "head_weight",
    )
    image = _in_space(infos, store, dataset, "image", head.commit.space_id)
    name = _only(_of(infos, dataset, "class_name"), store, dataset, "class_name")
    texts = name.commit.space_id
    return SuiteSets(
        image=image,
        name=name,
        caption=_in_space(infos, store, dataset, "caption", texts),
        head=head,
        head_name=_in_space(infos, store, label_set, "class_name", texts),
    )


def _only_dataset(infos: list[SetInfo], store: FeatureStore, kind: str, option: str) -> str:
    found = sorted({info.key.dataset for info in infos if info.key.kind == kind})
    if len(found) == 1:
        return found[0]
    have = f"several datasets of kind {kind}: {', '.join(found)}" if found else f"no {kind} set"
    msg = f"{store.address} has {have}. Name one with {option}, or extract it."
    raise ProtocolError(msg)


def _of(infos: list[SetInfo], dataset: str, kind: str) -> list[SetInfo]:
    return [info for info in infos if (info.key.dataset, info.key.kind) == (dataset, kind)]


def _in_space(
    infos: list[SetInfo], store: FeatureStore, dataset: str, kind: str, space_id: str
) -> SetInfo:
    found = [i for i in _of(infos, dataset, kind) if i.commit.space_id == space_id]
    return _only(found, store, dataset, kind)


def _only(found: list[SetInfo], store: FeatureStore, dataset: str, kind: str) -> SetInfo:
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(str(info.key) for info in found)
        msg = (
            f"{store.address} has {len(found)} sets that could be {dataset}/{kind}: {names}. The "
            "suite takes one image and one text encoder; keep each pair in its own store."
        )
        raise ProtocolError(msg)
    msg = (
        f"{store.address} has no {dataset}/{kind} that fits its other sets (`featstore ls "
        f"{store.address}` lists them). Make it with `featstore extract`, with the same encoders."
    )
    raise ProtocolError(msg)
