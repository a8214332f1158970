"""The sets of a job: which are finished, which rows other sets hold, and what is left.

An item's content hash says what was encoded, the space_id by what. Rows of other datasets with
both the same, and the same precision and dtype, are copied bit for bit. A source whose golden
vectors the encoder does not give is left alone: its rows may be of another space after all.
"""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Callable, Collection, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import polars as pl

from featstore.command_line import StorePlace, human_bytes
from featstore.decoding.pool import DecodePool
from featstore.durable import local_folder
from featstore.encoders.base import AUTO, IMAGE_KINDS, TEXT_KINDS, Encoder
from featstore.encoders.golden import golden_cosine
from featstore.errors import CorruptStoreError, EncoderError, FeatstoreError, StoreWriteError
from featstore.extraction.batches import BatchRunner
from featstore.extraction.bucket import open_bucket, published_result
from featstore.extraction.golden_check import GOLDEN_COSINE, Golden, lasting_facts, run_facts
from featstore.extraction.opening import job_items, open_encoders
from featstore.extraction.options import EncoderSpec, ExtractConfig, settle_device
from featstore.extraction.pipeline import BlockOutput
from featstore.extraction.progress import ExtractResult
from featstore.extraction.repair import must_encode, run_settings
from featstore.extraction.views import RECIPE
from featstore.identity import encoder_slug
from featstore.images import FORMATS, WITH_TIFF
from featstore.manifest.manifest import Manifest
from featstore.parallel import available_cores
from featstore.store import BLOCK_ROWS
from featstore.store.layout import LayoutLimits, SetLayout, SetSpec, plan_array
from featstore.store.lock import claim_folders
from featstore.store.log import read_log
from featstore.store.pairs import EmbeddingsView
from featstore.store.staging import Base, read_base, read_journal, settings_of, written
from featstore.store.store import FeatureStore, SetInfo, open_store
from featstore.store.tables import ItemFile
from featstore.store.writer import SetWriter, settle_set

if TYPE_CHECKING:
    from featstore.extraction.bucket import Bucket, SharedBlocks


def finished_result(
    store: Path, spec: SetSpec, items: ItemFile, *, retry_failed: bool = False
) -> ExtractResult | None:
    """Return the result for a set that is finished with these very items, else None.

    Raises
    ------
    CorruptStoreError
        If it is damaged.
    """
    key = spec.key
    settle_set(store, key)
    if str(key) not in read_log(store).sets:
        return None
    try:
        return published_result(open_store(store), key, items, retry_failed=retry_failed)
    except CorruptStoreError as err:
        err.add_note(f"`headstock store rm {store} {key}` makes room for extracting it again.")
        raise


logger = logging.getLogger(__name__)

_HASH = "content_sha256"


@dataclass(frozen=True)
class KnownRows:
    """Where the rows of a job's items can be had.

    Attributes
    ----------
    sources : list of EmbeddingsView
        Sets that have some of them; their blocks are checked when first read.
    source, row : ndarray of shape (n,)
        For each item the number of its source, or -1, and its row in there.
    """

    sources: list[EmbeddingsView]
    source: np.ndarray
    row: np.ndarray

    def has(self, rows: slice) -> np.ndarray:
        """Return a boolean for each of `rows`: whether it can be copied."""
        return np.asarray(self.source[rows] >= 0)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Return known rows as float32, (b, d): a cast to the stored dtype gives the same bits.

        Raises
        ------
        CorruptStoreError
            If a source's bytes disagree with its commit.
        """
        out = np.empty((rows.size, self.sources[0].dim), dtype=np.float32)
        for number in np.unique(self.source[rows]):
            here = np.flatnonzero(self.source[rows] == number)
            out[here] = self.sources[number].take(self.row[rows[here]]).numpy(np.float32)
        return out


def find_known_rows(
    root: Path, spec: SetSpec, items: pl.DataFrame, golden: Golden | None
) -> KnownRows | None:
    """Look for the items of a job in every finished set of the store.

    Parameters
    ----------
    spec : SetSpec
        The set that is being made: its own earlier rows are its writer's affair.
    items : DataFrame
        With ``content_sha256``; items without one are never known.
    golden : Golden, optional
        Golden vectors of the encoder. None looks without comparing, for a plan.

    Returns
    -------
    KnownRows or None
        None if nothing is known.
    """
    # A source's bytes are checked block by block, when they are first read.
    store = FeatureStore(root, verify="first-touch")
    candidates = _candidates(store, spec)
    if _HASH not in items.columns or not candidates:
        return None
    wanted = items.select(_HASH).with_row_index("item").drop_nulls()
    source = np.full(items.height, -1, dtype=np.int32)
    row = np.zeros(items.height, dtype=np.int64)
    sources: list[EmbeddingsView] = []
    for info in candidates:
        if wanted.is_empty():
            break
        if (info.attributes.get("precision"), info.commit.dtype) != (
            spec.precision,
            spec.dtype,
        ):
            continue
        try:
            view = store.view(str(info.key))
            found = _matches(view, wanted)
            if found.is_empty() or not _trusted(root, info, golden):
                continue
        except FeatstoreError as err:
            logger.warning("%s is damaged and not reused from: %s", info.key, err)
            continue
        at = found["item"].to_numpy()
        source[at] = len(sources)
        row[at] = found["row"].to_numpy()
        sources.append(view)
        wanted = wanted.join(found, on="item", how="anti")
    return KnownRows(sources, source, row) if sources else None


def _matches(view: EmbeddingsView, wanted: pl.DataFrame) -> pl.DataFrame:
    """Return the (item, row) pairs whose content the view has."""
    if _HASH not in view.items.columns:
        return pl.DataFrame(schema={"item": pl.UInt32, "row": pl.UInt32})
    have = view.items.select(_HASH).with_row_index("row").drop_nulls().unique(_HASH, keep="first")
    return wanted.join(have, on=_HASH, how="inner", maintain_order="left").select("item", "row")


def _candidates(store: FeatureStore, spec: SetSpec) -> list[SetInfo]:
    """Return the other finished sets of the space, sorted by key."""
    kinds = next((kinds for kinds in (IMAGE_KINDS, TEXT_KINDS) if spec.kind in kinds), frozenset())
    found = []
    for key in store:
        if key.split("/")[1] not in kinds:
            continue
        try:
            info = store.info(key)
        except FeatstoreError:
            continue  # damaged: not a source
        if info.commit.space_id == spec.space_id and info.commit.set_id != spec.set_id:
            found.append(info)
    return found


def _trusted(root: Path, info: SetInfo, golden: Golden | None) -> bool:
    """Return whether a source's golden vectors are the encoder's."""
    if golden is None:
        return True
    cosine = golden.cosine(info.key.directory(root), info.commit)
    if cosine is None:
        logger.info("%s has no golden vectors; its rows are not reused.", info.key)
        return False
    if cosine < GOLDEN_COSINE:
        logger.warning(
            "%s says it is of the same space, but its golden vectors have a cosine of %.4f to "
            "this encoder's: its rows are computed anew.",
            info.key,
            cosine,
        )
        return False
    return True


State = Literal["missing", "unfinished", "finished", "extension", "retry"]


@dataclass
class Target:
    """One set of a job: its encoder, where its rows belong, and, while it is made, its writer.

    Attributes
    ----------
    repair : bool
        Whether damaged blocks of the finished set are made again.
    settings : dict
        Batch size, threads, device type and window, once they are settled.
    pending : frozenset of int
        The blocks that are left to encode.
    shared : SharedBlocks or None
        Of a store in a bucket.
    """

    job: Job = field(repr=False)
    choice: EncoderSpec
    encoder: Encoder
    spec: SetSpec
    repair: bool = False
    searched: dict[str, KnownRows | None] = field(default_factory=dict, repr=False)
    settings: dict[str, Any] = field(default_factory=dict, init=False)
    writer: SetWriter = field(init=False, repr=False)
    runner: BatchRunner = field(init=False, repr=False)
    golden: Golden = field(init=False, repr=False)
    known: KnownRows | None = field(default=None, init=False, repr=False)
    shared: SharedBlocks | None = field(default=None, init=False, repr=False)
    pending: frozenset[int] = field(default=frozenset(), init=False)
    new: int = field(default=0, init=False)
    copied: int = field(default=0, init=False)
    truncated: list[str] = field(default_factory=list, init=False)

    @property
    def directory(self) -> Path:
        """Its folder."""
        return self.spec.directory(self.job.folder)

    def begun_settings(self) -> list[dict[str, Any]]:
        """Return batch size, threads … of interrupted attempts: first the most shared.

        Behind them, for a repair, those of the runs that made the set.
        """
        job, shared = self.job, []
        if job.bucket is not None:
            retry = job.config.retry_failed
            shared = [*job.bucket.begun_settings(self.spec, job.file, retry_failed=retry)]
        runs = run_settings(self.directory) if job.config.repair else ()
        return [*shared, *map(settings_of, claim_folders(self.directory)), *runs]

    def known_rows(self, golden: Golden | None) -> KnownRows | None:
        """Look for its rows elsewhere in the store: for all parts of a job once."""
        if golden is None:
            return find_known_rows(self.job.folder, self.spec, self.job.items, None)
        if not self.searched:
            self.searched["rows"] = find_known_rows(
                self.job.folder, self.spec, self.writer.items, golden
            )
        return self.searched["rows"]

    def mend(self) -> None:
        """Where a repair is asked for, make anew what needs no encoder; see if rows are left.

        Raises
        ------
        UnknownSetError
            If there is no such set.
        StoreWriteError
            If an extraction of it is unfinished.
        """
        self.repair = self.job.config.repair and must_encode(
            self.job.folder, self.spec.key, self.job.items
        )

    def finished(self) -> ExtractResult | None:
        """Return its result if it needs nothing more, else None."""
        job = self.job
        if self.repair:
            return None
        retry = job.config.retry_failed
        if job.bucket is not None:
            return job.bucket.finished(self.spec, job.file, retry_failed=retry)
        return finished_result(job.folder, self.spec, job.file, retry_failed=retry)

    def state(self, known: KnownRows | None = None) -> SetState:
        """Return what it lacks; see `inspect_set`."""
        job = self.job
        return inspect_set(
            job.folder, self.spec, job.file, self.encoder.dim, block_rows=job.config.block_rows,
            retry_failed=job.config.retry_failed, known=known,
        )  # fmt: skip

    def facts(self) -> dict[str, Any]:
        """Return the facts of the set that do not depend on the run."""
        source, config = self.job.source, self.job.config
        found = {
            **lasting_facts(self.encoder.facts),
            "manifest_revision": str(source.facts.get("revision", "")),
            # What every reader of results on this dataset should know.
            "note": str(source.facts.get("note", "")),
        }
        if config.views:
            found["views"] = {
                "of": source.name, "each": config.views, "seed": config.seed, "recipe": RECIPE,
            }  # fmt: skip
        return found

    def needed(self, block: int) -> np.ndarray:
        """Return a boolean for each row of a block: whether it is to be encoded."""
        return self.encoded(block) & (block in self.pending)

    def encoded(self, block: int) -> np.ndarray:
        """Return the same, as if nothing had been encoded before."""
        kept = self.writer.kept(block)
        if self.repair and block not in self.pending:
            # What a repair leaves alone was sorted together with what it makes.
            kept = np.zeros_like(kept)
        return np.asarray(~kept & ~self._copies(block))

    @property
    def window(self) -> int:
        """Blocks over which texts are sorted by length."""
        return int(self.settings.get("window", 1))

    def n_done_at_start(self) -> int:
        """Return how many rows were done when this began."""
        layout = self.writer.layout
        slices = map(layout.block_slice, self.pending)
        return int(layout.n - sum(rows.stop - rows.start for rows in slices))

    def new_failures_before(self) -> dict[str, str]:
        """Return what failed in an interrupted attempt, without what an earlier revision has."""
        base = self.writer.base
        old = {} if base is None else base.failures
        return {item: why for item, why in self.writer.failures.items() if item not in old}

    def write(self, output: BlockOutput, number: int) -> int:
        """Write a block that is pending; return how many rows came without encoding.

        Parameters
        ----------
        output : BlockOutput
        number : int
            Of this set's encoder among those of the output.
        """
        block = output.number
        where = self.writer.layout.block_slice(block)
        rows = output.rows[number]
        copies, needed = self._copies(block), self.needed(block)
        if self.known is not None and copies.any():
            rows[copies] = self.known.read(where.start + np.flatnonzero(copies))
        lost = output.failures
        if lost:
            ids = self.writer.items["item_id"][where.start : where.stop].filter(pl.Series(needed))
            lost = {item: lost[item] for item in ids if item in lost}
        self.writer.write_block(block, rows, lost)
        if self.shared is not None:
            self.shared.send(block)
        self.new += int(needed.sum()) - len(lost)
        self.copied += int(copies.sum())
        self.truncated += output.truncated[number]
        return int((~needed).sum())

    def finish(self, run: dict[str, Any]) -> ExtractResult:
        """Publish the set."""
        if self.shared is not None:
            self.shared.drain(publishes=True)
        result = self._result()  # whose failures the writer knows until it has published
        facts = run_facts(self.encoder.facts, device=self.job.config.device)
        # Of the run: another device or library gives another cosine for the same set.
        cosine = golden_cosine(self.encoder)
        if cosine is not None:
            facts["golden_cosine_to_float32"] = cosine.as_dict()
        revision = self.writer.finish(
            golden=self.golden.document(),
            run={
                **facts,
                **self.settings,
                **run,
                # Of several encoders, asked for auto, each has its own.
                "settings": {**run["settings"], "precision": self.spec.precision},
                "encoded": self.new,
                "copied": self.copied,
                "truncated": len(self.truncated),
            },
        )
        return replace(result, revision_id=revision)

    def end_part(self) -> ExtractResult:
        """Make what was written durable, and say what is left; nothing is published."""
        self.writer.sync()
        left: Collection[int] = self.writer.left() if self.job.count_left or self.shared else ()
        if self.shared is not None:
            self.shared.drain(publishes=False)
            left = set(left) - self.shared.there().keys()
        return replace(self._result(), blocks_left=len(left))

    def _result(self) -> ExtractResult:
        failures = self.writer.failures
        return ExtractResult(
            key=str(self.spec.key),
            reused=self.writer.layout.n - self.new - len(failures),
            new=self.new,
            failed=len(failures),
            revision_id="",
            failures=failures,
            truncated=len(self.truncated),
            copied=self.copied,
            truncated_items=self.truncated,
        )

    def _copies(self, block: int) -> np.ndarray:
        rows = self.writer.layout.block_slice(block)
        if self.known is None:
            return np.zeros(rows.stop - rows.start, dtype=bool)
        return np.asarray(self.known.has(rows) & ~self.writer.kept(block))


@dataclass(frozen=True)
class SetState:
    """What a set has and lacks.

    Attributes
    ----------
    state : str
        ``missing``; ``unfinished`` (an interrupted attempt left blocks); ``finished``;
        ``extension`` (the items go on after those that it has); ``retry`` (failed items are
        tried again).
    rows, blocks : int
        Of the whole set.
    reused, staged, known, new : int
        Rows that the finished set has and that stay; that an interrupted attempt has done; that
        other sets of the store have; and that are left to encode.
    blocks_done : int
        Blocks of `staged`.
    write_bytes : int
        What is still to be written.
    """

    key: str
    state: State
    rows: int
    blocks: int
    reused: int
    staged: int
    blocks_done: int
    known: int
    new: int
    write_bytes: int


def settle_precision(
    encoder: Any,
    config: ExtractConfig,
    is_there: Callable[[SetSpec], bool],
    spec_in: Callable[[str], SetSpec],
) -> str:
    """Return the precision of a set; from then on the encoder computes in it.

    ``auto`` is the one that the job's plan states, or in which the set is there or begun, or that
    is best on the encoder's device.

    Parameters
    ----------
    is_there : callable
        Whether a set is there or begun.
    spec_in : callable
        Precision -> the set.
    """
    if config.precision != AUTO or not hasattr(encoder, "best_precision"):
        # An encoder object is taken at its word.
        asked = "float32" if config.precision == AUTO else config.precision
        return str(getattr(encoder, "precision", asked))
    specs = {one: spec_in(one) for one in encoder.precisions}
    planned = [one for one, spec in specs.items() if spec.set_id in (config.pinned or ())]
    there = planned or [one for one, spec in specs.items() if is_there(spec)]
    found = [(one, "the precision of the set in the store") for one in there]
    precision, reason = found[0] if found else encoder.best_precision()
    encoder.compute_in(precision, reason)
    return str(precision)


def inspect_set(
    store: Path,
    spec: SetSpec,
    file: ItemFile,
    dim: int,
    *,
    block_rows: int = BLOCK_ROWS,
    retry_failed: bool = False,
    known: KnownRows | None = None,
) -> SetState:
    """Return what a set lacks, touching nothing.

    Raises
    ------
    StoreWriteError
        If the set has one of the items with another content.
    CorruptStoreError
        If it is damaged.
    LayoutError
        If a store cannot hold it.
    """
    items, directory = file.table, spec.directory(store)
    limits = LayoutLimits(block_rows=block_rows)
    layout = SetLayout((plan_array(items.height, dim, spec.dtype, limits),))
    state: State = "missing"
    base = read_base(directory, spec.key, items, retry_failed=retry_failed)
    if base is not None:
        retry = retry_failed and base.commit.n_failed > 0
        items, layout = base.table, base.next_layout()
        known = known if items is file.table else None
        state = ("retry" if retry else "finished") if base.items.equals(items) else "extension"
    kept = np.zeros(items.height, dtype=bool)
    if base is not None:
        kept[: base.kept.size] = base.kept
    begun = set() if state == "finished" else _begun(directory, base.commit.digest if base else "")
    # An attempt at more items has blocks that are none of these: another plan, which is begun anew.
    begun = {block for block in begun if block < layout.n_blocks}
    if begun and state == "missing":
        state = "unfinished"
    staged = np.zeros(items.height, dtype=bool)
    for block in begun:
        staged[layout.block_slice(block)] = True
    staged &= ~kept
    found = np.zeros(items.height, dtype=bool) if known is None else known.has(slice(None))
    found &= ~kept & ~staged
    return SetState(
        key=str(spec.key),
        state=state,
        rows=items.height,
        blocks=layout.n_blocks,
        reused=int(kept.sum()),
        staged=int(staged.sum()),
        blocks_done=len(begun),
        known=int(found.sum()),
        new=int((~kept & ~staged & ~found).sum()),
        write_bytes=0 if state == "finished" else _bytes_left(layout, base, begun),
    )


def check_free_space(store: Path, states: list[SetState]) -> None:
    """Refuse a job that the disk cannot hold.

    Raises
    ------
    StoreWriteError
        If less is free than is to be written.
    """
    folder = store.absolute()
    while not folder.exists():
        folder = folder.parent
    needed, free = sum(state.write_bytes for state in states), shutil.disk_usage(folder).free
    if needed > free:
        raise StoreWriteError(
            f"The job writes {human_bytes(needed)} to {store}, where {human_bytes(free)} are free. "
            "Free space, choose another store, or a smaller `dtype=`."
        )


def _begun(directory: Path, revision: str) -> set[int]:
    """Return the blocks that an interrupted attempt at the same revision has done."""
    attempts = map(read_journal, claim_folders(directory))
    return {block for head, done in attempts if head.get("base") == revision for block in done}


def _bytes_left(layout: SetLayout, base: Base | None, begun: set[int]) -> int:
    """Return the bytes of the data files that are not there, less the blocks that are."""
    files = [file for file in layout.files if written(file.part, base)]
    done = (block for file in files for block in begun.intersection(file.blocks))
    return max(0, sum(file.size for file in files) - sum(map(layout.block_bytes, done)))


@dataclass
class Job:
    """Items, encoders and options of an extraction: the one record of it, wherever it runs.

    It is sent to other processes as it is asked for, and opened where it runs.

    Parameters
    ----------
    source : Manifest
    kind : str
        Of the items.
    encoders : sequence of EncoderSpec
        One with layers becomes one a layer: there is one for each set.
    store : path or address
    config : ExtractConfig

    Attributes
    ----------
    targets : list of Target
        The sets, of an open job; as are `dataset`, `file`, `folder` and `bucket`.
    count_left : bool
        Of a part: whether to look for what the others have left when it ends.

    Raises
    ------
    EncoderError
        If there is no encoder.
    """

    source: Manifest
    kind: str
    encoders: Sequence[EncoderSpec]
    store: StorePlace
    config: ExtractConfig = field(default_factory=ExtractConfig)
    count_left: bool = field(default=False, init=False)
    targets: list[Target] = field(default_factory=list, init=False, repr=False)

    #: Decoders that were started before the models were loaded, until a pass takes them.
    early: list[DecodePool] = field(default_factory=list, init=False, repr=False)

    #: Of an open job.
    dataset: str = field(init=False, repr=False)
    file: ItemFile = field(init=False, repr=False)
    folder: Path = field(init=False, repr=False)
    bucket: Bucket | None = field(init=False, repr=False)
    #: Those of this process: looked up once, not for every part.
    cores: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.encoders = [one for spec in self.encoders for one in spec.each_layer()]
        if not self.encoders:
            raise EncoderError("An extraction needs at least one encoder.")

    def open(self, opened: Sequence[Encoder] | None = None, *, begin: bool = False) -> Self:
        """Open what the job needs, and check it; nothing is written but into a bucket's folder.

        Parameters
        ----------
        opened : sequence of Encoder, optional
            Encoders that are open already, one for each of `encoders`.
        begin : bool
            Start decoders now, for the first pass: they are ready when the models are loaded.

        Raises
        ------
        FeatstoreError
            As for `featstore.extract`.
        """
        # Only what lies in a folder is mended.
        repair, staging = self.config.repair, self.config.staging
        self.bucket = None if repair else open_bucket(self.store, staging)
        self.folder = self.bucket.staging if self.bucket else local_folder(self.store)
        self.dataset, items = job_items(self.source, self.kind, self.config)
        self.file, self.cores = ItemFile(items), available_cores()
        self.config = settle_device(self.config, self.encoders)
        if begin:
            self._begin()
        found = opened or open_encoders(self.encoders, self.kind, self.config)
        self.targets = [
            Target(self, choice, encoder, self._settled_spec(encoder))
            for choice, encoder in zip(self.encoders, found, strict=True)
        ]
        seen: dict[str, Target] = {}
        for target in self.targets:
            other = seen.setdefault(target.spec.set_id, target)
            if other is not target:
                raise EncoderError(
                    f"{target.encoder.name} and {other.encoder.name} are the same encoder and "
                    f"would both write {target.spec.key}. Name it once."
                )
        if self.bucket is not None:
            retry = self.config.retry_failed
            for target in self.targets:
                self.bucket.prepare(target.spec, self.file, retry_failed=retry)
        if opened is None and self.config.device_reason and self.config.device != "cpu":
            # Which sets they are, only open encoders say; on another device they would begin anew.
            begun = [one for target in self.targets for one in target.begun_settings()]
            if {one["device"] for one in begun if isinstance(one.get("device"), str)} == {"cpu"}:
                reason = "these sets were begun on it"
                self.config = replace(self.config, device="cpu", device_reason=reason)
                return self.open()
        return self

    def _begin(self) -> None:
        """Start decoders if a model is loaded that has no set here, which might be finished."""
        found = {key.rpartition("-")[0] for key in read_log(self.folder).sets}
        named = [one.encoder for one in self.encoders if isinstance(one.encoder, str)]
        wanted = {f"{self.dataset}/{self.kind}/{encoder_slug(name)}" for name in named}
        if wanted - found and (pool := self.decoders()) is not None:
            self.early.append(pool.start())

    def _settled_spec(self, encoder: Encoder) -> SetSpec:
        """Return the set of an encoder, in the precision in which it computes from then on."""

        def spec_in(precision: str) -> SetSpec:
            config = self.config
            return SetSpec(
                self.dataset, self.kind, encoder.name, encoder.space, config.dtype, precision
            )

        def is_there(spec: SetSpec) -> bool:
            bucket = self.bucket
            return spec.directory(self.folder).exists() or (bucket is not None and bucket.has(spec))

        return spec_in(settle_precision(encoder, self.config, is_there, spec_in))

    def close(self) -> None:
        """End decoders that no pass has taken."""
        while self.early:
            self.early.pop().close()

    def with_config(self, config: ExtractConfig, *, count_left: bool = False) -> Job:
        """Return the job with other options; items and encoders are shared, and what they cost."""
        part = copy(self)
        part.config, part.count_left = config, count_left
        part.targets = [replace(target, job=part) for target in self.targets]
        return part

    @property
    def threads(self) -> int | None:
        """Threads of torch; None where no encoder of ours needs it."""
        ours = any(hasattr(target.encoder, "precision_reason") for target in self.targets)
        return self.config.threads or (sys.modules["torch"].get_num_threads() if ours else None)

    @property
    def items(self) -> pl.DataFrame:
        """Its items."""
        return self.file.table

    @property
    def workers(self) -> int:
        """Threads, or processes, that decode."""
        return self.config.jobs or self.cores

    @property
    def accepted(self) -> dict[str, Any]:
        """Which images are decoded, as `featstore.images.decode_image` takes it."""
        formats = WITH_TIFF if self.config.tiff else FORMATS
        scaled = self.config.decode == "scaled"
        return {"formats": formats, "max_pixels": self.config.max_pixels, "scaled": scaled}

    def decoders(self) -> DecodePool | None:
        """Return processes that decode its images, or None where they are decoded in threads."""
        config = self.config
        if self.kind != "image" or config.decode == "gpu" or config.decode_timeout is None:
            return None
        return DecodePool(self.workers, timeout=config.decode_timeout, **self.accepted)

    @property
    def thumbnails(self) -> bool:
        """Whether pictures are kept."""
        return self.config.thumbnails and self.kind == "image"

    def settings(self) -> dict[str, Any]:
        """Return what was asked for, as the provenance records it."""
        return {
            "dataset": self.dataset,
            "kind": self.kind,
            "encoders": [choice.as_dict() for choice in self.encoders],
            "trust_remote_code": any(choice.trust_remote_code for choice in self.encoders),
            **self.config.as_dict(),
        }
