"""Extract the rows of a classification head."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from featstore.encoders.base import Head
from featstore.errors import AlreadyFinishedError, EncoderError, FeatstoreError, ManifestError
from featstore.extraction.golden_check import lasting_facts, run_facts
from featstore.extraction.head_check import NameCheck, check_against_encoder, check_against_store
from featstore.extraction.plan import JobPlan, SetPlan
from featstore.extraction.progress import ExtractResult
from featstore.extraction.targets import SetState, finished_result, free_bytes
from featstore.identity import encoder_directory, set_id, sha256_hex, space_id
from featstore.labels import head_items, read_label_file
from featstore.manifest.io import read_manifest
from featstore.manifest.manifest import Manifest
from featstore.store.layout import SetKey, plan_array
from featstore.store.records import read_commit, read_pointer
from featstore.store.tables import items_bytes
from featstore.store.writer import SetWriter

logger = logging.getLogger(__name__)

#: A head has one row per class: its exact values cost little.
HEAD_DTYPE = "float32"


@dataclass(frozen=True)
class OpenedHead:
    """A head that was read and checked, and the set that it is to be.

    Attributes
    ----------
    dataset : str
        Name of the label set.
    items : DataFrame
        One a class, in the order of the rows.
    check : NameCheck or None
        That the rows stand in the order of the names; None if nobody could tell.
    """

    head: Head
    dataset: str
    items: pl.DataFrame
    check: NameCheck | None

    def finished(self, store: Path) -> ExtractResult | None:
        """Return the result if the store has the set, else None."""
        return finished_result(
            store,
            self.head.space,
            dataset=self.dataset,
            kind="head_weight",
            encoder=self.head.name,
            items=self.items,
            dtype=HEAD_DTYPE,
        )


def extract_head(
    manifest: str | Path | Manifest | None = None,
    *,
    encoder: str,
    store: str | Path,
    weights: str | None = None,
    label_set: str | None = None,
    label_file: str | Path | None = None,
    check_names: str | None = None,
    check_weights: str | None = None,
    device: str = "cpu",
    pool: str | None = None,
    wait: float = 0.0,
) -> ExtractResult:
    """Store the rows and bias of a model's classification head as kind head_weight.

    The set carries the space_id of the image space that the head reads, so that pairing it
    with features of another model or pooling is an error.

    Two things are checked before anything is written: on the golden pictures, that the rows
    make the model's logits; and, where class names of the label set are embedded in the store or
    `check_names` is given, that the rows stand in the order of the names
    (`featstore.extraction.head_check`).

    Parameters
    ----------
    manifest : path or Manifest, optional
        A label set, such as ``data_manifests`` builds for imagenet1k: row c of the head is
        class c of its ``classes``. Either this or `label_file`.
    encoder, store, weights, device
        As in `extract`.
    label_set : str, optional
        Which classes the rows are, for a head that neither a weights package nor the tag of
        its checkpoint tells of: said so, it need not be checked, but is where that is possible.
        With `label_file`, the name of the set.
    label_file : path, optional
        The classes in the order of the rows; see `featstore.labels.read_label_file`.
    check_names : str, optional
        A text encoder, ``st:all-MiniLM-L6-v2``, to embed the class names with for the check;
        `check_weights` are its weights.
    pool : str, optional
        Only to say that a pool has no head.
    wait : float
        Seconds to wait for another process that is writing this set.

    Raises
    ------
    ManifestError
        If there is no label set.
    EncoderError
        If the head has another number of classes, another label set or another order; or if its
        label set is only guessed by the number of its classes and could not be checked.
    """
    opened = open_head(
        manifest,
        encoder=encoder,
        store=store,
        weights=weights,
        label_set=label_set,
        label_file=label_file,
        check_names=check_names,
        check_weights=check_weights,
        device=device,
        pool=pool,
    )
    done = opened.finished(Path(store))
    if done is not None:
        return done
    try:
        return write_head(opened, Path(store), device=device, wait=wait)
    except AlreadyFinishedError:
        done = opened.finished(Path(store))  # another process wrote it meanwhile
        if done is None:
            raise
        return done


def write_head(
    opened: OpenedHead, store: Path, *, device: str, wait: float = 0.0, repair: bool = False
) -> ExtractResult:
    """Write rows and bias of a head; with `repair`, in the place of damaged ones.

    Raises
    ------
    StoreWriteError
        As `featstore.store.writer.SetWriter`.
    """
    head = opened.head
    facts: dict[str, Any] = {**lasting_facts(head.facts), "label_set": head.label_set}
    run = run_facts(head.facts, device=device)
    run["row_order"] = "not checked" if opened.check is None else opened.check.facts()
    with SetWriter(
        store,
        dataset=opened.dataset,
        kind="head_weight",
        encoder=head.name,
        space=head.space,
        items=opened.items,
        dim=head.weight.shape[1],
        dtype=HEAD_DTYPE,
        facts=facts,
        repair=repair,
        wait=wait,
    ) as writer:
        for block in writer.pending():
            writer.write_block(block, head.weight[writer.layout.block_slice(block)])
        revision = writer.finish(bias=head.bias, run=run)
    return ExtractResult(str(writer.key), 0, opened.items.height, 0, revision)


def open_head(
    manifest: str | Path | Manifest | None = None,
    *,
    encoder: str,
    store: str | Path,
    weights: str | None = None,
    label_set: str | None = None,
    label_file: str | Path | None = None,
    check_names: str | None = None,
    check_weights: str | None = None,
    device: str = "cpu",
    pool: str | None = None,
) -> OpenedHead:
    """Read a head and check it; parameters and errors as for `extract_head`, nothing is written."""
    from featstore.encoders.class_head import read_head

    name, classes = _label_set(manifest, label_file, label_set)
    asked = name if label_file is not None else label_set
    head = read_head(encoder, weights=weights, label_set=asked, device=device, pool=pool)
    if head.weight.shape[0] != classes.height or head.label_set != name:
        msg = (
            f"The head of {encoder} has {head.weight.shape[0]:,} classes of label set "
            f"{head.label_set!r} ({head.facts['label_set_basis']}); {name} has "
            f"{classes.height:,}. Build the label set {head.label_set!r} and extract the head "
            f"with that, or say --label-set {name} if its rows are these classes."
        )
        raise EncoderError(msg)
    classes = classes.sort("index")
    check = _check_names(head, classes, Path(store), check_names, check_weights, device)
    return OpenedHead(head, name, head_items(classes), check)


def _label_set(
    manifest: str | Path | Manifest | None, label_file: str | Path | None, name: str | None
) -> tuple[str, pl.DataFrame]:
    """Return the name and the classes of the label set."""
    if (manifest is None) == (label_file is None):
        msg = "A head needs either the manifest of a label set or a label file: one of them."
        raise ManifestError(msg)
    if label_file is not None:
        return read_label_file(label_file, name=name)
    assert manifest is not None
    source = manifest if isinstance(manifest, Manifest) else read_manifest(Path(manifest))
    return source.name, label_set_of(source)


def label_set_of(source: Manifest) -> pl.DataFrame:
    """Return the classes of a manifest.

    Raises
    ------
    ManifestError
        If it has none.
    """
    if source.classes is None:
        msg = (
            f"Manifest {source.name} has no label set (classes.parquet); a head needs one. Build "
            "one (`featstore manifests ls`), or list the classes in a file for --label-file "
            "(API: label_file=)."
        )
        raise ManifestError(msg)
    return source.classes


def _check_names(
    head: Head,
    classes: pl.DataFrame,
    store: Path,
    encoder: str | None,
    weights: str | None,
    device: str,
) -> NameCheck | None:
    """Check the order of the rows by the names asked for, or those in the store, if any."""
    from featstore.encoders.class_head import GUESSED
    from featstore.encoders.registry import open_encoder

    if encoder is not None:
        opened = open_encoder(encoder, weights=weights, device=device)
        return check_against_encoder(head, classes, opened)
    check = check_against_store(head, classes, store)
    if check is None and head.facts["label_set_basis"] == GUESSED:
        msg = (
            f"That the {classes.height:,} rows of the head of {head.name} are the classes of "
            f"{head.label_set} is only guessed by their number, and {store} holds no embedded "
            "class names to check it by. Extract those first (--kind class_name --encoder "
            f"st:NAME), check with --check-names st:NAME, or say --label-set {head.label_set} "
            "if you know it; classes in another order come with --label-file."
        )
        raise EncoderError(msg)
    if check is None:
        logger.warning(
            "That the rows of the head of %s stand in the order of %s rests on its %s: %s holds "
            "no embedded class names to check it by. Extract those first, or check with "
            "--check-names.",
            head.name,
            head.label_set,
            head.facts["label_set_basis"],
            store,
        )
    return check


def plan_heads(heads: Sequence[Mapping[str, Any]], *, store: Path) -> JobPlan:
    """Say what `extract_head` would do with each of these arguments.

    A head that it would refuse is a plan with an error.
    """
    return JobPlan([_plan_head(head, store) for head in heads], free_bytes(store))


def _plan_head(asked: Mapping[str, Any], store: Path) -> SetPlan:
    name = str(asked["encoder"])
    try:
        opened = open_head(**asked, store=store)
        key = _key(opened)
        state = _state(opened, key, store)
    except FeatstoreError as err:
        return SetPlan(f"head_weight of {name}", name, None, None, "", str(err))
    return SetPlan(str(key), name, state, 0.0, "read from the weights")


def _key(opened: OpenedHead) -> SetKey:
    identity = set_id(
        space_id(opened.head.space),
        dataset=opened.dataset,
        kind="head_weight",
        precision="float32",
        dtype=HEAD_DTYPE,
    )
    return SetKey(opened.dataset, "head_weight", encoder_directory(opened.head.name, identity))


def _state(opened: OpenedHead, key: SetKey, store: Path) -> SetState:
    """Return what the set lacks; settles nothing, unlike `OpenedHead.finished`."""
    rows, dim = opened.head.weight.shape
    layout = plan_array(rows, dim, HEAD_DTYPE)
    pointer = read_pointer(key.directory(store))
    there = pointer is not None
    if pointer is not None:
        commit = read_commit(key.directory(store), str(pointer["revision"]))
        if commit.items["sha256"] != sha256_hex(items_bytes(opened.items)):
            msg = f"{key} is there with other classes. Give this label set another name."
            raise FeatstoreError(msg)
    data = sum(layout.file_bytes(file) for file in range(layout.n_files)) + opened.head.bias.nbytes
    return SetState(
        key=str(key),
        state="finished" if there else "missing",
        rows=rows,
        blocks=layout.n_blocks,
        reused=rows if there else 0,
        staged=0,
        blocks_done=0,
        known=0,
        new=0 if there else rows,
        write_bytes=0 if there else data,
    )
