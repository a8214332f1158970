"""The suite `few-shot`: learners × shots × draws on the datasets of a store, and its table.

A dataset is taken where images of one class are on both sides of a split, and its classes have
prototypes: names through an aligner fitted on a head, names of the images' own model, or rows of a
head of these very classes. Ten draws each, the same shots for every learner.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bench.cells import Cell, method_title, read_cells, set_name
from bench.comparisons import LEVEL, Claim
from bench.corpus import in_class_split, manifest_split
from bench.errors import ProtocolError
from bench.options import FewShot
from bench.runs import Protocol, Run
from bench.statistics import ENOUGH_DRAWS, proportion_interval
from bench.suites.demo import has_meaning
from bench.tables import Column, Table, gain_text, interval_text, number_text, p_text, value_text
from featstore.command_line import count
from featstore.errors import listed
from featstore.store.store import FeatureStore
from fitters.few_shot import LEARNERS, learner_named
from fitters.from_store import Fit, Inventory

SUITE = "few-shot"

SHOTS = (1, 2, 4, 8, 16)
SEEDS = tuple(range(10))

#: Learns in the images' own space from texts, for minutes: `headstock eval task` runs it.
LEFT_OUT = ("paper-few-shot",)

#: The aligner that brings names to images.
METHODS = ("ridge",)


def few_shot_runs(
    store: FeatureStore,
    *,
    limit: int | None = None,
    methods: Sequence[str] = (),
    sources: Sequence[str] = (),
    dataset: str | None = None,
    label_set: str | None = None,
    shots: Sequence[int] = (),
    learners: Sequence[str] = (),
) -> list[Run]:
    """Return the runs of every learner, number of shots and draw.

    Parameters
    ----------
    store : FeatureStore
    limit : int, optional
        Images kept of every set.
    methods, sources : sequence of str, optional
        Aligners of names to images, and what they are fitted on, instead of a ridge on the head.
    dataset : str, optional
        Only this one.
    label_set : str, optional
        Only heads of it.
    shots : sequence of int, optional
        Of each class; those that no class of a dataset has are left out.
    learners : sequence of str, optional
        Instead of all but those in `LEFT_OUT`.

    Raises
    ------
    ProtocolError
        If the store has no images of the dataset that is named.
    fitters.errors.UnknownMethodError
        If there is no learner of a name.
    """
    for learner in learners:
        learner_named(learner)
    have = Inventory(store)
    found = have.datasets("image")
    if dataset is not None and dataset not in found:
        raise ProtocolError(
            f"{store.address} has no images of {dataset!r}. It has those of "
            f"{listed(found, shown=8)}: name one with --dataset, or extract it."
        )
    wanted = [name for name in LEARNERS if name not in LEFT_OUT]
    runs = []
    for name in found if dataset is None else [dataset]:
        for base in _bases(have, name, methods or METHODS, sources or ("head",), label_set):
            base = base.changed(limit=limit)
            most, options = _most_shots(store, base), base.task_options
            assert isinstance(options, FewShot)
            for seed in SEEDS:
                for n in shots or SHOTS:
                    for learner in (learners or wanted) if n <= most else ():
                        own = replace(options, shots=n, learner=learner)
                        runs.append(base.changed(options=own, seed=seed))
    return list(dict.fromkeys(runs))


def _bases(
    have: Inventory,
    dataset: str,
    methods: Sequence[str],
    sources: Sequence[str],
    label_set: str | None,
) -> Iterator[Run]:
    """Yield a run for all that can be a prototype of the classes of a dataset."""
    heads = [label_set] if label_set else have.datasets("head_weight")

    def run(fit: Fit, **fields: Any) -> Run:
        options = FewShot(prototypes="names" if fit.text else "head")
        return Run.of(
            suite=SUITE, task="few_shot", eval=_evaluation(have, fit), options=options,
            **fit.fields(), **fields,
        )  # fmt: skip

    for fit in have.pairs(dataset, "class_name"):
        yield run(fit)
    for fit in have.with_heads(dataset, "class_name", heads):
        for method in methods:
            for source in sources:
                if has_meaning(method, Protocol(eval="in-class", source=source)):  # type: ignore[arg-type]
                    yield run(fit, method=method, source=source)
    for head, names in have.heads_and_names([name for name in heads if name == dataset]):
        for image in have.of(dataset, "image"):
            if image.commit.space_id == head.commit.space_id:
                yield run(Fit(image, None, head, names))


def _evaluation(have: Inventory, fit: Fit) -> str:
    """Return the manifest's split where its test classes are trained on, else a new one a seed."""
    items = have.store.view(str(fit.image.key)).items
    if "split" not in items.columns:
        return "in-class"
    train, test = (set(items.filter(split=part)["class_id"]) for part in ("train", "test"))
    return "split" if test and test <= train else "in-class"


def _most_shots(store: FeatureStore, run: Run) -> int:
    """Return the training images of the largest class; 0 where none is left to be scored."""
    items = store.view(run.data.image_set).items
    items = items.head(run.protocol.limit or items.height)
    classes = items["class_id"].fill_null("").to_numpy()
    if run.protocol.eval == "split":
        parts = items["split"].fill_null("").to_numpy()
        if not (parts == "test").any():
            return 0
        split = manifest_split(parts, seed=0, train=run.protocol.train_splits)
    else:
        split = in_class_split(classes, seed=0, train_fraction=run.protocol.train_fraction)
    if not len(split.test) or not len(split.train):
        return 0
    return int(np.unique(classes[split.train], return_counts=True)[1].max())


TABLE: dict[str, Any] = {
    **dict.fromkeys(("dataset", "images", "prototypes", "method", "learner"), pl.String),
    "shots": pl.Int64,
    "n_shots": pl.Float64,
    "top-1": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "n_seeds": pl.Int64,
    "n_clusters": pl.Int64,
    "clusters_of": pl.String,
    "overlap": pl.Float64,
    "gallery": pl.Float64,
    "seconds": pl.Float64,
}


def few_shot_table(root: Path, results: pl.DataFrame) -> pl.DataFrame:
    """Return one row a dataset, prototypes, aligner, learner and number of shots.

    Parameters
    ----------
    root : Path
        Results folder, for the sums by draw and cluster.
    results : DataFrame
        Rows of `bench.results.read_results`; those of other tasks are left out.

    Returns
    -------
    DataFrame
        Schema `TABLE`. ``top-1`` is the mean over all queries of all draws, ``low`` and ``high``
        its 95 % interval over draws × clusters (`bench.statistics.proportion_interval`), for other
        shots and other images of these classes; where ``overlap``, the share of the pool that a
        draw takes, is 1 or unknown, for these shots. ``n_shots`` and ``seconds``, processor time of
        the learner, are means over draws.
    """
    rows = [row for _, row in _learners(root, results)]
    place = {learner: number for number, learner in enumerate(LEARNERS)}
    rows.sort(
        key=lambda row: (*(row[name] for name in _SETTING), place.get(row["learner"], len(place)))
    )
    return pl.DataFrame(rows, schema=TABLE, infer_schema_length=None)


#: The learner that a headline is about, and what it is compared with: named before any result.
CLAIMED, BASELINE = "proker", "class-means"


@dataclass(frozen=True)
class Finding:
    """What few-shot results say of the learner that was named beforehand.

    Attributes
    ----------
    shots : int
        Labelled images of each class: the most that both learners were run with.
    value, gallery : float
        Its top-1, and the classes to choose from.
    sentence : str
        Whether it is shown to differ from class means, with the numbers.
    """

    shots: int
    value: float
    gallery: float
    sentence: str


def few_shot_claim(root: Path, results: pl.DataFrame) -> Finding | None:
    """Return what is shown of ProKeR beside class means; None where one was not run.

    It is one comparison, so that nothing is corrected: paired, on the same shots and images, at
    the most shots that both were run with, of the first data set, prototypes and aligner of
    `few_shot_table` that has both.
    """
    names = CLAIMED, BASELINE
    found = list(_learners(root, results))
    cells = {(*(row[name] for name in _SETTING), row["learner"]): cell for cell, row in found}
    both = sorted(key[:-1] for key in cells if all((*key[:-1], name) in cells for name in names))
    if not both:
        return None
    setting = [key for key in both if key[:-1] == both[0][:-1]][-1]
    a, b = (cells[*setting, name] for name in names)
    (row,) = (row for cell, row in found if cell is a)
    clusters = np.unique(np.concatenate([a.clusters, b.clusters]))
    claim = Claim("a-b", a.on(clusters), b.on(clusters), "top-1")
    return Finding(row["shots"], row["top-1"], row["gallery"], _paired(claim))


#: What an interval is about where no claim is possible of new draws; see `Claim.limit`.
_ABOUT = {
    "draws": f", of which {ENOUGH_DRAWS} are needed",
    "pool": ", for this pool of images only",
}


def _paired(claim: Claim) -> str:
    """Return whether side a is shown to differ from class means, with the numbers."""
    if claim.seeds is None:
        return "Nothing is decided: class means were not run on the same shots and images."
    found, p, about = claim.estimate, claim.p or 0.0, _ABOUT.get(claim.limit, "")
    said = "Whether it beats class means is open"
    if p < LEVEL and not about:
        said = f"It is {'above' if found.mean > 0 else 'below'} class means"
    return (
        f"{said}: {gain_text(found.mean, *claim.interval)}, p {p_text(p)}, "
        f"{count(found.n_draws, 'draw')}{about}."
    )


#: Columns of a table of learners that two learners agree in when they are compared.
_SETTING = ("dataset", "images", "prototypes", "method", "shots")


def _learners(root: Path, results: pl.DataFrame) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Yield the cell of every learner and setting, and its row of a table."""
    own = results.filter(task="few_shot", metric="top-1")
    for cell in read_cells(root, own):
        yield cell, _row(cell, own.filter(pl.col("run_id").is_in(cell.run_ids)))


def _row(cell: Cell, runs: pl.DataFrame) -> dict[str, Any]:
    first = runs.row(0, named=True)
    share = cell.fitted / cell.pool if cell.pool else None
    known = share is not None and 0.0 <= share < 1.0
    sums = cell.by_seed("top-1")
    low, high = proportion_interval(sums, overlap=share if known and share else 0.0)
    text = set_name("name_set", first["name_set"]) or set_name("head_set", first["head_set"])
    dataset, _, images = set_name("image_set", first["image_set"]).partition(" · ")
    return {
        "dataset": dataset, "images": images, "prototypes": text, "method": cell.method,
        "learner": first["learner"], "shots": first["shots"], "n_shots": runs["n_shots"].mean(),
        "top-1": sums.mean, "low": low, "high": high, "n_seeds": len(cell.seeds),
        "n_clusters": int(np.count_nonzero(sums.count.sum(axis=0))),
        "clusters_of": cell.clusters_of, "overlap": share, "gallery": runs["gallery"].mean(),
        "seconds": runs["learner_seconds"].mean(),
    }  # fmt: skip


def learner_lines(table: pl.DataFrame) -> Table:
    """Return the rows of `bench.suites.few_shot.few_shot_table` as text, percent."""
    columns: list[Column] = [
        ("data", itemgetter("dataset")),
        ("images", itemgetter("images")),
        ("prototypes", itemgetter("prototypes")),
        ("method", lambda row: method_title(row["method"])),
        ("learner", itemgetter("learner")),
        ("shots", lambda row: str(row["shots"])),
        ("in all", lambda row: number_text(row["n_shots"], 0)),
        ("top-1 %", lambda row: value_text("top-1", row["top-1"])),
        ("95 % interval", lambda row: interval_text(row["low"], row["high"]).replace("+", "")),
        ("draws", lambda row: str(row["n_seeds"])),
        ("clusters", lambda row: f"{row['n_clusters']:,} {row['clusters_of']}"),
        ("f", lambda row: "" if row["overlap"] is None else f"{row['overlap']:.2f}"),
        ("gallery", lambda row: number_text(row["gallery"], 0)),
        ("CPU s", lambda row: number_text(row["seconds"], 3)),
    ]
    return Table.of(table, columns)
