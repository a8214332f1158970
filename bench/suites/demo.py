"""The suites `demo`, `smoke` and `controls`, their sets, and the table of doses.

Two evaluations of the stamps. *All names*: nothing of the dataset is trained on, every image
is ranked against every name, and the head is compared with 19 draws of each control. *Held out*:
ten seeds, each a new split of the descriptions, 60 % to draw real pairs from and the rest to be
scored. There ridge and Procrustes have a new draw of each control a seed, and kernel ridge all 19
on every split, without real pairs and with 64. Rows of the head's covariance have no real pairs
beside them here, but in the suite `controls`.

The data of `smoke` are planted: classes are points of a latent space, images and texts are noisy
linear views of them, and the head's rows are views of other classes of the same latent space. So
head weights help, random and shuffled rows do not, and a broken protocol shows in seconds.

The suite `controls` asks what could stand in for a head, and how much of a head it takes. What a
head is compared with has doses, and its real pairs have controls too:

- over all names, 19 draws each: every control of the head, names shuffled within 10 to 300
  clusters of like names, and heads of 10 to 500 classes; once also the nearest and the farthest
  classes, and the head without those that the images have;
- held out, ten seeds, beside 16 and 64 real pairs: every control of the head, and in place of the
  head the pairs repeated or mixed to as many rows, or the class means of the same images.

`dose_table` says how accuracy answers to the doses.

========================  =====================================================================
dose                      level
========================  =====================================================================
classes                   classes of the head, drawn at random; the last is the whole head
nearest classes           those whose texts are nearest to the names of the images' classes
farthest classes          those whose texts are farthest from them
clusters of names         names are shuffled within so many; 1 shuffles them all
without the images' names classes left of the head without those that the images have
========================  =====================================================================

The slope is that of the least-squares line ``accuracy = a + b · log10(level)`` over the levels of a
dose. It is a mean over queries, of Σ w_j y_j with x = log10(level), w_j = (x_j − x̄) / Σ (x − x̄)²,
so that its interval is that of every other mean: draws and clusters of queries. Draws are of this
head: half of its classes are in two draws of half of them together, and the slope is no guess at
larger heads.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import product
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from bench.cells import ARENA, HEAD_PARTS, SETTINGS, Cell, in_order, method_title, read_cells
from bench.corpus import FRESH_SPLITS
from bench.results import RUN_COLUMNS
from bench.runs import Protocol, Run, impossible
from bench.statistics import ENOUGH_CONTROLS, DrawSums, two_term
from bench.tables import (
    BY_NAME,
    MINUS,
    Column,
    Table,
    extra_columns,
    interval_text,
    signed_text,
    value_column,
    value_text,
)
from featstore.errors import AlreadyFinishedError
from featstore.identity import sha256_hex
from featstore.store.store import FeatureStore
from featstore.testing import item_table, write_set
from fitters.from_store import find_fits
from fitters.methods import METHODS, method_named
from fitters.settings import Control, PairControl


def has_meaning(method: str, protocol: Protocol, *, elsewhere: bool = False) -> bool:
    """Return whether a run of a method and a protocol is possible, and says something of both.

    It says nothing where the method does not read the prototypes or the real pairs that are given;
    see `bench.runs.impossible` for the rest.
    """
    spec = METHODS.get(method)
    idle = spec is not None and (
        (spec.fitted_on == "head" and (protocol.source != "head" or protocol.has_pairs))
        or (protocol.has_prototypes and spec.rows.texts == "raw")
    )
    return not idle and not impossible(method, protocol, elsewhere=elsewhere)


Pairs = int | Literal["all"]

#: Draws of a control that one head is compared with: the fewest whose rank can reach 5 %.
CONTROL_DRAWS = ENOUGH_CONTROLS


@dataclass(frozen=True)
class Plan:
    """What a suite of the demo's protocol goes through.

    Attributes
    ----------
    suite : str
    seeds : tuple of int
        Of the held-out evaluation.
    n_pairs : tuple of int or "all"
        Numbers of real pairs beside none; those that a split cannot give are left out.
    methods, sources : tuple of str
        Controls among the sources are compared with the head.
    only_alone : tuple of str
        Controls that have no real pairs beside them.
    control_draws : int
        Draws of each control over all names.
    ranked : mapping
        Methods whose controls are all on every split, and on how many real pairs: a head is then
        ranked among draws that saw the same pairs.
    """

    suite: str = "demo"
    seeds: tuple[int, ...] = tuple(range(10))
    n_pairs: tuple[Pairs, ...] = (16, 64, 256, "all")
    methods: tuple[str, ...] = ("ridge", "procrustes", "kernel-ridge")
    sources: tuple[str, ...] = ("none", "head", "random", "random-cov", "shuffled")
    only_alone: tuple[str, ...] = ("random-cov",)
    control_draws: int = CONTROL_DRAWS
    ranked: Mapping[str, tuple[Pairs, ...]] = field(
        default_factory=lambda: {"kernel-ridge": (0, 64)}
    )

    @property
    def controls(self) -> tuple[str, ...]:
        """The sources that are controls."""
        return tuple(source for source in self.sources if source not in ("none", "head"))


def demo_runs(
    store: FeatureStore,
    *,
    limit: int | None = None,
    dataset: str | None = None,
    label_set: str | None = None,
    methods: Sequence[str] = (),
    sources: Sequence[str] = (),
) -> list[Run]:
    """Return the runs of the demo suite on a store.

    Parameters
    ----------
    store : FeatureStore
        With images, captions and class names of ``stamps``, and a head and class names of
        ``imagenet1k``.
    limit : int, optional
        Images kept. Numbers of pairs that a split cannot give are left out.
    dataset, label_set : str, optional
        Another dataset with images and class names, and the label set of a head in their space
        (the only one, if it is left out). Without captions, real pairs are images and the texts of
        their classes, and nothing is retrieved.
    methods, sources : sequence of str, optional
        Instead of the suite's own.

    Raises
    ------
    ProtocolError
        If a set is missing, or `limit` leaves too little to split.
    """
    wanted = _with(Plan(), methods, sources)
    bases = demo_bases(store, wanted.suite, limit=limit, dataset=dataset, label_set=label_set)
    return [run for base in bases for run in plan(store, base, wanted)]


def demo_bases(
    store: FeatureStore,
    suite: str,
    *,
    limit: int | None = None,
    dataset: str | None = None,
    label_set: str | None = None,
) -> list[Run]:
    """Return ConSE on all names, whose sets and fields are those of every run of a suite.

    There is one for every image and text encoder of the store.

    Parameters
    ----------
    store, limit, dataset, label_set
        As of `demo_runs`.
    suite : str
        The suite that plans it.

    Raises
    ------
    ProtocolError
        If a set is missing, or nothing is left of the images.
    """
    fields: dict[str, Any] = {}
    if dataset is None:
        dataset, label_set = "stamps", label_set or "imagenet1k"
        fields = {"locales": ("en",), "relevance": "class_id"}
    fields |= {"suite": suite, "task": "zero_shot", "method": "conse", "source": "head"}
    fits = find_fits(store, dataset=dataset, label_set=label_set)
    return [Run.of(limit=limit, **fields, **fit.fields()) for fit in fits]


def _with(wanted: Plan, methods: Sequence[str], sources: Sequence[str]) -> Plan:
    """Return a plan of other methods and sources, where some are named."""
    for method in methods:
        method_named(method)
    return replace(
        wanted,
        methods=tuple(methods) or wanted.methods,
        sources=tuple(sources) or wanted.sources,
        only_alone=() if sources else wanted.only_alone,
    )


def plan(store: FeatureStore, base: Run, wanted: Plan) -> list[Run]:
    """Return both evaluations of `demo_bases`; runs that share a fit follow one another."""
    images, limit = base.data.image_set, base.protocol.limit
    possible = possible_pairs(store, images, wanted.n_pairs, seeds=wanted.seeds, limits=(limit,))
    wanted = replace(wanted, n_pairs=tuple(possible))
    alone = wanted.methods if "head" in wanted.sources else ()
    runs = [
        base,
        *(base.changed(method=method) for method in alone),
        *_held_out(base, wanted),
        *_control_runs(base, wanted),
    ]
    # ConSE is in every plan, and so may be named beside; some methods take no prototypes.
    return [run for run in dict.fromkeys(runs) if has_meaning(run.fit.method, run.protocol)]


def _held_out(base: Run, wanted: Plan) -> Iterator[Run]:
    """Yield the held-out runs of every seed; of controls those that the seed draws."""
    base = base.changed(eval="held-out")
    for seed in wanted.seeds:
        yield from _tasks(base.changed(seed=seed))
        for method in wanted.methods:
            ranked = wanted.controls if method in wanted.ranked else ()
            sources = [source for source in wanted.sources if source not in ranked]
            for k in (0, *wanted.n_pairs):
                for source in sources:
                    if (source, k) != ("none", 0) and (k == 0 or source not in wanted.only_alone):
                        own = base.changed(seed=seed, method=method, source=source, n_pairs=k)
                        yield from _tasks(own)


def _control_runs(base: Run, wanted: Plan) -> Iterator[Run]:
    """Yield what is compared with one head: draw by draw, so that a draw is fitted in one place."""
    for method, control in product(wanted.methods, wanted.controls):
        for draw in range(wanted.control_draws):
            # With nothing else to draw the seed draws the control: the same rows as below.
            yield base.changed(method=method, source=control, seed=draw)
            for seed in wanted.seeds:
                for k in wanted.ranked.get(method, ()):
                    if k == 0 or (k in wanted.n_pairs and control not in wanted.only_alone):
                        # Names alone: what a control does to captions is seen in ridge.
                        yield base.changed(
                            eval="held-out", method=method, source=control, n_pairs=k, seed=seed,
                            control_draw=draw,
                        )  # fmt: skip


def _tasks(fit: Run) -> list[Run]:
    return [fit, fit.changed(task="retrieval")] if fit.data.caption_set else [fit]


def possible_pairs(
    store: FeatureStore,
    images: str,
    n_pairs: Sequence[Pairs],
    *,
    seeds: Sequence[int],
    evals: Collection[str] = ("held-out",),
    limits: Sequence[int | None] = (None,),
    fractions: Sequence[float] = (Protocol.train_fraction,),
) -> list[Pairs]:
    """Return the numbers of real pairs that every new split can give.

    Parameters
    ----------
    store : FeatureStore
    images : str
        Key of the set of images.
    n_pairs : sequence of int or "all"
    seeds, evals, limits, fractions : collections
        Of the splits: all their combinations. Evaluations are of those that split anew.

    Raises
    ------
    ProtocolError
        If a split would have an empty side.
    """
    classes = store.view(images).items["class_id"].fill_null("").to_numpy()
    sizes = (
        len(FRESH_SPLITS[one](classes[:limit], seed=seed, train_fraction=fraction).train)
        for one, seed, limit, fraction in product(evals, seeds, limits, fractions)
    )
    fewest = min(sizes, default=len(classes))
    return [k for k in n_pairs if k == "all" or k <= fewest]


DATASET, LABEL_SET = "smoke", "smokehead"
IMAGE_ENCODER, TEXT_ENCODER = "synthetic:image", "synthetic:text"

_SEED = 7
_N_CLASSES, _N_IMAGES, _N_HEAD = 40, 72, 120
_LATENT, _IMAGE_DIM, _TEXT_DIM = 6, 24, 16
_TEMPLATES = {"none": "{}", "photo": "a photo of a {}"}


def smoke_runs(
    store: FeatureStore,
    *,
    limit: int | None = None,
    methods: Sequence[str] = (),
    sources: Sequence[str] = (),
) -> list[Run]:
    """Return the runs of the smoke suite on the store of `create_smoke_store`; see `demo_runs`."""
    (base,) = demo_bases(store, "smoke", limit=limit, dataset=DATASET, label_set=LABEL_SET)
    base = base.changed(locales=("en",), relevance="class_id")
    small = Plan("smoke", (0, 1), (8, "all"), control_draws=3, ranked={"kernel-ridge": (0, 8)})
    return plan(store, base, _with(small, methods, sources))


def create_smoke_store(root: Path) -> None:
    """Write the synthetic store to `root`; what is already there is left as it is.

    Raises
    ------
    StoreWriteError
        If the folder cannot be written.
    """
    rng = np.random.default_rng(_SEED)
    to_image = rng.standard_normal((_LATENT, _IMAGE_DIM))
    to_text = rng.standard_normal((_LATENT, _TEXT_DIM))
    classes = rng.standard_normal((_N_CLASSES, _LATENT))
    head = rng.standard_normal((_N_HEAD, _LATENT))
    # The first classes have two or three images each, the rest one: clusters of several sizes.
    owner = np.sort(np.arange(_N_IMAGES) % _N_CLASSES)

    def view(latent: NDArray[Any], matrix: NDArray[Any], noise: float) -> NDArray[np.float32]:
        rows = latent @ matrix + noise * rng.standard_normal((len(latent), matrix.shape[1]))
        return rows.astype(np.float32)

    images = [f"{DATASET}/image-{i:03d}" for i in range(_N_IMAGES)]
    class_ids = [f"{DATASET}/class-{c:02d}" for c in range(_N_CLASSES)]
    head_ids = [f"{LABEL_SET}/class-{c:03d}" for c in range(_N_HEAD)]
    own_ids = [class_ids[c] for c in owner]
    _write(
        root, DATASET, "image", IMAGE_ENCODER, view(classes[owner], to_image, 0.8) + 1.0,
        images, class_id=own_ids, uri=[f"{i}.png" for i in images],
    )  # fmt: skip
    _write(
        root, DATASET, "caption", TEXT_ENCODER, view(classes[owner], to_text, 0.2),
        [f"{i}#en" for i in images], class_id=own_ids, parent_id=images,
        variant=["en"] * _N_IMAGES, text=[f"This is {c}." for c in own_ids],
    )  # fmt: skip
    for dataset, ids, latent in ((DATASET, class_ids, classes), (LABEL_SET, head_ids, head)):
        prompts = [(c, t) for c in range(len(ids)) for t in _TEMPLATES]
        rows = view(latent[[c for c, _ in prompts]], to_text, 0.1)
        _write(
            root, dataset, "class_name", TEXT_ENCODER, rows,
            [f"{ids[c]}#name#{t}" for c, t in prompts], class_id=[ids[c] for c, _ in prompts],
            variant=["name"] * len(prompts), template_id=[t for _, t in prompts],
            text=[_TEMPLATES[t].format(ids[c].rsplit("/", 1)[1]) for c, t in prompts],
        )  # fmt: skip
    _write(
        root, LABEL_SET, "head_weight", IMAGE_ENCODER, view(head, to_image, 0.2),
        [f"{c}#head" for c in head_ids], class_id=head_ids,
        bias=np.zeros(_N_HEAD, dtype=np.float32),
    )  # fmt: skip


def _write(
    root: Path,
    dataset: str,
    kind: str,
    encoder: str,
    rows: NDArray[np.float32],
    ids: list[str],
    *,
    bias: NDArray[np.float32] | None = None,
    **columns: list[str],
) -> None:
    """Write one set, unless it is there."""
    contents = [sha256_hex(item.encode()) for item in ids]
    with suppress(AlreadyFinishedError):
        write_set(
            root, rows, item_table(ids, kind, content_sha256=contents, **columns), dataset=dataset,
            kind=kind, encoder=encoder, space={"name": encoder, "seed": _SEED}, bias=bias,
            sealed=True,
        )  # fmt: skip


CONTROLLED = ("ridge", "procrustes", "kernel-ridge")

#: Draws of names and rows, and of the classes of a smaller head.
DRAWS = range(CONTROL_DRAWS)

#: Seeds of the held-out splits.
SEEDS = tuple(range(10))

N_PAIRS: tuple[Pairs, ...] = (16, 64)

#: All but the last carry no class.
ALONE = get_args(Control)[:-1]
BESIDE = ("none", "head", *get_args(Control), *get_args(PairControl), "class-means")

#: Clusters of like names; with real pairs the second.
CLUSTERS = (10, 50, 150, 300)

#: Classes of a smaller head.
SIZES = (10, 20, 50, 100, 200, 500)


def control_runs(
    store: FeatureStore,
    *,
    limit: int | None = None,
    dataset: str | None = None,
    label_set: str | None = None,
    methods: Sequence[str] = (),
    sources: Sequence[str] = (),
) -> list[Run]:
    """Return the runs of the suite on a store; see `bench.suites.demo.demo_runs`.

    Doses that the head is too small for are left out, and numbers of pairs that a split cannot
    give. Every control of one draw follows the other, so that it is drawn once.

    Raises
    ------
    ProtocolError
        If a set is missing or ambiguous, or `limit` leaves too little to split.
    """
    for method in methods:
        method_named(method)
    made: list[Run] = []
    for base in demo_bases(store, "controls", limit=limit, dataset=dataset, label_set=label_set):
        n_head, images = len(store.view(base.data.head_set)), base.data.image_set
        clusters = [n for n in CLUSTERS if 2 * n <= n_head]
        sizes = [n for n in SIZES if n < n_head]
        possible = possible_pairs(store, images, N_PAIRS, seeds=SEEDS, limits=(limit,))
        made += [base, *_alone(base, methods or CONTROLLED, clusters, sizes)]
        if clusters:
            within = clusters[min(1, len(clusters) - 1)]
            made += _beside(base, methods or CONTROLLED, within, possible)
    wanted = tuple(sources) or ("head", *BESIDE)
    return [
        run
        for run in dict.fromkeys(made)
        if run.protocol.source in wanted and has_meaning(run.fit.method, run.protocol)
    ]


def _alone(
    base: Run, methods: Sequence[str], clusters: Sequence[int], sizes: Sequence[int]
) -> Iterator[Run]:
    """Yield what is fitted without real pairs, over all names."""
    for method in methods:
        yield base.changed(method=method)
        yield base.changed(method=method, leave_seen=True)
        for size, by in product(sizes, ("nearest", "farthest")):
            yield base.changed(method=method, head_size=size, head_by=by)
    drawn: list[dict[str, Any]] = [
        *({"source": control} for control in ALONE),
        *({"source": "shuffled-within", "clusters": n} for n in clusters),
        *({"head_size": size} for size in sizes),
    ]  # fmt: skip
    for own, draw, method in product(drawn, DRAWS, methods):
        yield base.changed(method=method, seed=draw, **own)


def _beside(
    base: Run, methods: Sequence[str], clusters: int, n_pairs: Sequence[Pairs]
) -> Iterator[Run]:
    """Yield what is fitted with real pairs, held out."""
    for method, seed in product(methods, SEEDS):
        own = base.changed(eval="held-out", method=method, seed=seed)
        yield own
        for k, source in product(n_pairs, BESIDE):
            within = clusters if source == "shuffled-within" else 0
            yield own.changed(source=source, n_pairs=k, clusters=within)


#: What is read, of zero-shot runs without real pairs.
METRIC = "top-1"

#: Settings of the fit, which a dose does not change.
_KEPT = [name for name in SETTINGS if name not in HEAD_PARTS]

#: The doses, in the order in which they are listed.
DOSES = (
    "classes", "nearest classes", "farthest classes", "without the images' names",
    "clusters of names",
)  # fmt: skip

SCHEMA: dict[str, Any] = {
    **dict.fromkeys(ARENA, pl.String),
    "method": pl.String,
    **{name: RUN_COLUMNS[name] for name in _KEPT},
    "dose": pl.String,
    "level": pl.Int64,
    "own_names": pl.Float64,  # share of prototypes with their own name
    "value": pl.Float64,
    "sd": pl.Float64,  # between draws; null where nothing is drawn
    "low": pl.Float64,
    "high": pl.Float64,
    **dict.fromkeys(BY_NAME, pl.Float64),
    "n_draws": pl.Int64,
    "slope": pl.Float64,  # of the whole dose, for a factor of ten; null where it has one level
    "slope_low": pl.Float64,
    "slope_high": pl.Float64,
}

Levels: TypeAlias = list[tuple[int, Cell]]


def dose_table(root: Path, results: pl.DataFrame) -> pl.DataFrame:
    """Return one row a method, dose and level: schema `SCHEMA`.

    Parameters
    ----------
    root : Path
        The results folder; sums per cluster are read from it.
    results : DataFrame
        Rows of `bench.results.read_results`, of one series.
    """
    alone = results.filter(
        pl.col("metric").is_in([METRIC, *BY_NAME]), n_pairs="0", task="zero_shot"
    )
    own = {row["run_id"]: row for row in alone.iter_rows(named=True)}
    # Accuracy by name is of one direction, as the cells are.
    named = {
        (run_id, direction, metric): value
        for run_id, direction, metric, value in alone.select(
            "run_id", "direction", "metric", "value"
        ).iter_rows()
    }
    of_method: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in read_cells(root, alone.filter(metric=METRIC)):
        key = (cell.arena, cell.method, *(cell.settings[name] for name in _KEPT))
        of_method.setdefault(key, []).append(cell)
    rows: list[dict[str, Any]] = []
    for cells in of_method.values():
        way = cells[0].arena[ARENA.index("direction")]
        for dose, levels in _doses(cells, own).items():
            slope = _slope(levels)
            for level, cell in levels:
                # A mean over the runs that have the value; null where none has.
                by_name = {
                    name: pl.Series([named.get((i, way, name)) for i in cell.run_ids]).mean()
                    for name in BY_NAME
                }
                kept = pl.Series([own[run_id]["own_names"] for run_id in cell.run_ids]).mean()
                rows.append({
                    **_row(cell), **by_name, **slope, "dose": dose, "level": level,
                    "own_names": 1.0 if cell.source == "head" else kept or 0.0,
                })  # fmt: skip
    return in_order(pl.DataFrame(rows, schema=SCHEMA))


def _row(cell: Cell) -> dict[str, Any]:
    found = two_term(cell.by_seed(METRIC))
    low, high = found.interval()
    return {
        **dict(zip(ARENA, cell.arena, strict=True)),
        "method": cell.method,
        **{name: cell.settings[name] for name in _KEPT},
        "value": found.mean,
        "sd": cell.sd(METRIC),
        "low": low,
        "high": high,
        "n_draws": len(cell.draws),
    }


def _doses(cells: list[Cell], facts: dict[str, dict[str, Any]]) -> dict[str, Levels]:
    """Return the levels of every dose in ascending order; the whole head ends that of classes."""
    found: dict[str, Levels] = {}
    ends: dict[str, Levels] = {"classes": [], "clusters of names": []}
    for cell in cells:
        part, n = cell.settings, facts[cell.run_ids[0]]["n_prototypes"]
        if cell.source == "shuffled-within":
            found.setdefault("clusters of names", []).append((part["clusters"], cell))
        elif cell.source == "head" and part["leave_seen"]:
            found.setdefault("without the images' names", []).append((n, cell))
        elif cell.source == "head" and part["head_size"]:
            by = "" if part["head_by"] == "random" else f"{part['head_by']} "
            found.setdefault(f"{by}classes", []).append((part["head_size"], cell))
        elif cell.source == "head":
            ends["classes"].append((n, cell))
        elif cell.source == "shuffled" and not part["head_size"]:
            ends["clusters of names"].append((1, cell))
    return {
        dose: sorted([*found[dose], *ends.get(dose, [])], key=lambda level: level[0])
        for dose in DOSES
        if dose in found
    }


def _slope(levels: Levels) -> dict[str, float | None]:
    """Return the slope of a dose and its interval, where its levels have the same draws.

    A level at which nothing is drawn has the same value in every draw.
    """
    seeds = max((cell.seeds for _, cell in levels), key=len)
    shared = all(
        cell.seeds == seeds or (len(cell.seeds) == 1 and not cell.fresh) for _, cell in levels
    )
    x = np.log10([level for level, _ in levels])
    x -= x.mean()
    if not (shared and x.any()):
        return dict.fromkeys(("slope", "slope_low", "slope_high"))
    sums = [cell.by_seed(METRIC) for _, cell in levels]
    shape = len(seeds), len(levels[0][1].clusters)
    total = sum(
        weight * np.broadcast_to(own.total, shape)
        for weight, own in zip(x / (x @ x), sums, strict=True)
    )
    found = two_term(DrawSums(np.asarray(total), np.broadcast_to(sums[0].count, shape)))
    low, high = found.interval()
    return {"slope": found.mean, "slope_low": low, "slope_high": high}


def dose_lines(doses: pl.DataFrame) -> Table:
    """Return the rows of `bench.suites.demo.dose_table` as text, percent."""
    columns: list[Column] = [
        ("eval", itemgetter("eval")),
        *extra_columns(doses),
        ("method", lambda row: method_title(row["method"])),
        ("dose", itemgetter("dose")),
        ("level", lambda row: f"{row['level']:,}"),
        ("own names %", lambda row: value_text("top-1", row["own_names"])),
        ("top-1 %", lambda row: value_text("top-1", row["value"], row["sd"])),
        (
            "95 % interval",
            lambda row: (
                f"[{value_text('top-1', row['low'])}, {value_text('top-1', row['high'])}]"
            ).replace("-", MINUS),
        ),
        *map(value_column, BY_NAME),
        ("draws", lambda row: str(row["n_draws"])),
        (
            "for a factor of ten",
            lambda row: (
                ""
                if row["slope"] is None
                else f"{signed_text(row['slope'])} "
                f"{interval_text(row['slope_low'], row['slope_high'])}"
            ),
        ),
    ]
    return Table.of(doses, columns)
