"""Extract a classification head: its rows, its bias, and the space they live in."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from featstore.errors import AlreadyFinishedError, EncoderError, ManifestError
from featstore.extraction.events import ExtractResult
from featstore.extraction.provenance import lasting_facts, run_facts
from featstore.extraction.reuse import finished_result
from featstore.label_sets import head_items
from featstore.manifest import Manifest, read_manifest
from featstore.store.writer import SetWriter

#: A head has one row per class: its exact values cost little.
HEAD_DTYPE = "float32"


def extract_head(
    manifest: str | Path | Manifest,
    *,
    encoder: str,
    store: str | Path,
    weights: str | None = None,
    label_set: str | None = None,
    wait: float = 0.0,
) -> ExtractResult:
    """Store the rows and bias of a model's classification head as kind head_weight.

    The set carries the space_id of the image space that the head reads, so that pairing it
    with features of another model or pooling is an error.

    Parameters
    ----------
    manifest : path or Manifest
        A label set, such as ``data_manifests`` builds for imagenet1k: row c of the head is
        class c of its ``classes``.
    encoder, store, weights
        As in `extract`.
    label_set : str, optional
        Which classes the rows are, for a head whose number of classes does not say it.
    wait : float
        Seconds to wait for another process that is writing this set.

    Raises
    ------
    ManifestError
        If the manifest has no label set.
    EncoderError
        If the head has another number of classes or another label set.
    """
    from featstore.encoders.class_head import read_head

    source = manifest if isinstance(manifest, Manifest) else read_manifest(Path(manifest))
    if source.classes is None:
        msg = f"Manifest {source.name} has no label set (classes.parquet); a head needs one."
        raise ManifestError(msg)
    head = read_head(encoder, weights=weights, label_set=label_set)
    if head.weight.shape[0] != source.classes.height or head.label_set != source.name:
        msg = (
            f"The head of {encoder} has {head.weight.shape[0]:,} classes of label set "
            f"{head.label_set!r}; manifest {source.name} has {source.classes.height:,}. "
            f"Build the label set {head.label_set!r} and extract the head with that."
        )
        raise EncoderError(msg)
    items = head_items(source.classes)
    finished = partial(
        finished_result,
        Path(store),
        head.space,
        dataset=source.name,
        kind="head_weight",
        encoder=head.name,
        items=items,
        dtype=HEAD_DTYPE,
    )
    done = finished()
    if done is not None:
        return done
    facts: dict[str, Any] = {**lasting_facts(head.facts), "label_set": head.label_set}
    try:
        with SetWriter(
            Path(store),
            dataset=source.name,
            kind="head_weight",
            encoder=head.name,
            space=head.space,
            items=items,
            dim=head.weight.shape[1],
            dtype=HEAD_DTYPE,
            facts=facts,
            wait=wait,
        ) as writer:
            for block in writer.pending():
                writer.write_block(block, head.weight[writer.layout.block_slice(block)])
            revision = writer.finish(bias=head.bias, run=run_facts(head.facts, device="cpu"))
    except AlreadyFinishedError:
        done = finished()  # another process wrote it meanwhile
        if done is None:
            raise
        return done
    return ExtractResult(str(writer.key), 0, items.height, 0, revision)
