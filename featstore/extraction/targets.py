"""The sets of a job: which are finished, and what is left of them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Collection, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import polars as pl

from featstore.command_line import StorePlace
from featstore.decoding import DecodePool
from featstore.durable import local_folder
from featstore.encoders.base import AUTO, Encoder
from featstore.errors import CorruptStoreError, EncoderError, StoreWriteError
from featstore.extraction.batches import BatchRunner
from featstore.extraction.bucket import open_bucket, published_result
from featstore.extraction.opening import (
    Golden,
    KnownRows,
    find_known_rows,
    job_items,
    lasting_facts,
    open_encoders,
    run_facts,
)
from featstore.extraction.options import (
    EncoderSpec,
    ExtractConfig,
    ExtractResult,
    run_settings,
    settle_device,
)
from featstore.extraction.pipeline import BlockOutput
from featstore.images import FORMATS, RECIPE, WITH_TIFF
from featstore.manifest import Manifest
from featstore.parallel import available_cores
from featstore.store import BLOCK_ROWS
from featstore.store.layout import LayoutLimits, SetKey, SetLayout, SetSpec, plan_array
from featstore.store.lock import claim_folders
from featstore.store.log import read_log
from featstore.store.staging import read_base, read_journal, settings_of
from featstore.store.store import open_store
from featstore.store.tables import ItemFile
from featstore.store.verify import rebuild_set
from featstore.store.writer import SetWriter, refuse_unfinished
from featstore.terminal import human_bytes

if TYPE_CHECKING:
    from featstore.extraction.bucket import Bucket, SharedBlocks


def finished_result(
    store: Path, spec: SetSpec, items: ItemFile, *, retry_failed: bool = False
) -> ExtractResult | None:
    """Return the result for a set that is finished with these very items, else None.

    Nothing is written; `tidy_set` completes what a killed writer has left.

    Raises
    ------
    CorruptStoreError
        If it is damaged.
    """
    key = spec.key
    if str(key) not in read_log(store).sets:
        return None
    try:
        return published_result(open_store(store), key, items, retry_failed=retry_failed)
    except CorruptStoreError as err:
        err.add_note(
            f"`headstock store rm {store} {key} --yes` makes room for extracting it again."
        )
        raise


def must_encode(root: Path, key: SetKey, items: pl.DataFrame) -> bool:
    """Make anew what of a set needs no encoder, and return whether something is left.

    Parameters
    ----------
    items : DataFrame
        Of the manifest: what the item table may be, or the beginning of it.

    Raises
    ------
    UnknownSetError
        If there is no such set.
    StoreWriteError
        If an extraction of it is unfinished, whose rows would be dropped.
    """
    done = rebuild_set(root, str(key), items=items)
    folders = claim_folders(key.directory(root))
    if done.left and not any(settings_of(folder).get("repair") for folder in folders):
        refuse_unfinished(root, key, "repair the set")
    return bool(done.left)


State = Literal["missing", "unfinished", "finished", "extension", "retry"]


@dataclass
class Target:
    """One set of a job: its encoder, where its rows belong, and, while it is made, its writer.

    Attributes
    ----------
    repair : bool
        Whether damaged blocks of the finished set are made again.
    settings : dict
        Batch size, threads and device type, once they are settled.
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
            shared = [*job.bucket.begun_settings(self.spec, job.file, job.config)]
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
        wanted = ~self.writer.kept(block) & ~self._copies(block)
        return np.asarray(wanted & (block in self.pending))

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
            left = set(left) - self.shared.there()
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
        Of the rows that are still to be written.
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
        write_bytes=int((~kept & ~staged).sum()) * layout.row_bytes,
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

    def open(self, opened: Sequence[Encoder] | None = None) -> Self:
        """Open what the job needs, and check it; nothing is written but into a bucket's folder.

        Parameters
        ----------
        opened : sequence of Encoder, optional
            Encoders that are open already, one for each of `encoders`.

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
        return self

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
        if self.kind != "image" or config.decode_timeout is None:
            return None
        return DecodePool(self.workers, timeout=config.decode_timeout, **self.accepted)

    def settings(self) -> dict[str, Any]:
        """Return what was asked for, as the provenance records it."""
        return {
            "dataset": self.dataset,
            "kind": self.kind,
            "encoders": [choice.as_dict() for choice in self.encoders],
            "trust_remote_code": any(choice.trust_remote_code for choice in self.encoders),
            **self.config.as_dict(),
        }
