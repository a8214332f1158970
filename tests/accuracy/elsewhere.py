"""Fit on pairs of one set of stamps and score another: the paper's experiments that need two.

    python -m tests.accuracy.elsewhere --store build/demo/store
    python -m tests.tables write

Splits of the stamps play the datasets, each with its own descriptions. *caption pairs*: captioned
stamps of the split train, scored on the names of the others. *equal budget*: stamps whose name is
one of ImageNet-1k's, a class one pair of an image and the name, against the rows of the head for
the same classes; scored on stamps of other names. *weight preprocessing*: the rows of the whole
head, moved by these images. Penalty and mix are fixed beforehand.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from threadpoolctl import threadpool_limits

from bench.code import code_digest
from bench.corpus import class_name_forms, read_corpus
from bench.runs import Run
from bench.suites import combinations
from bench.tables import value_text
from featstore.store.store import FeatureStore, SetInfo, open_store
from featstore.testing import write_set
from tests.accuracy.measure import table
from tests.shorthand import execute, task_runs

DATA = Path(__file__).parents[2] / "docs/data/elsewhere.json"
METHODS = ("procrustes", "ridge")
SEEDS = tuple(range(5))
#: Fixed, so that nothing is chosen: the penalty relative, a class the mass of one pair.
FIXED = {"method": METHODS, "penalty": (0.3,), "mix": (1.0,)}
HEAD = ("head", "random-cov", "shuffled")


def split_stamps(store: FeatureStore, root: Path) -> None:
    """Write the stamps as datasets: of the split train and of the others, of seen names and not."""
    sets = {(info.key.dataset, info.key.kind): info for info in store.sets()}
    seen = seen_names(store, sets)
    names = list(seen)
    parts = {
        "training": pl.col("split") == "train",
        "others": pl.col("split") != "train",
        "seen": pl.col("class_id").is_in(names),
        "unseen": ~pl.col("class_id").is_in(names),
    }
    for info in sets.values():
        dataset = info.key.dataset
        view = store.view(str(info.key))
        if dataset != "stamps":
            kept = {
                dataset: pl.lit(True),
                f"{dataset}-seen": pl.col("class_id").is_in(seen.values()),
            }
        else:
            kept = parts
        for name, part in kept.items():
            _write(root, name, info, view.where(class_id=_classes(view.items, part)), part, seen)


def _classes(items: pl.DataFrame, part: pl.Expr) -> list[str]:
    return items.filter(part)["class_id"].unique().to_list()


def _write(
    root: Path, dataset: str, info: SetInfo, view: Any, part: pl.Expr, seen: dict[str, str]
) -> None:
    items = view.items.with_row_index().filter(part)
    rows = view.numpy()[items["index"].to_numpy()]
    if dataset == "seen" and info.key.kind != "caption":
        items = items.with_columns(pl.col("class_id").replace(seen))
    bias = view.bias if info.key.kind == "head_weight" else None
    write_set(
        root, rows, items.drop("index"), dataset=dataset, kind=info.key.kind,
        encoder=info.encoder, space=info.attributes["space"],
        bias=None if bias is None else bias[items["index"].to_numpy()],
    )  # fmt: skip


def seen_names(store: FeatureStore, sets: dict[tuple[str, str], SetInfo]) -> dict[str, str]:
    """Return the stamps' classes that one class of the head alone is called by: id of each."""
    own, head = (
        class_name_forms(store.view(str(sets[dataset, "class_name"].key)).items)
        for dataset in ("stamps", "imagenet1k")
    )
    found = {}
    for name, forms in own.items():
        of_head = [other for other, theirs in head.items() if forms & theirs]
        if len(of_head) == 1:
            found[name] = of_head[0]
    once = Counter(found.values())
    return {name: other for name, other in found.items() if once[other] == 1}


def cases(store: FeatureStore) -> Iterator[tuple[str, Run]]:
    """Yield every run with the name of its experiment."""

    def key(dataset: str, kind: str) -> str:
        return str(
            next(i.key for i in store.sets() if (i.key.dataset, i.key.kind) == (dataset, kind))
        )

    def base(images: str, pairs: str, head: str) -> Run:
        (run,) = task_runs(
            store, "zero_shot", images=key(images, "image"), names=key(images, "class_name"),
            captions=pairs, head=key(head, "head_weight"),
            head_names=key("imagenet1k", "class_name"),
        )  # fmt: skip
        return run

    captions = base("others", key("training", "caption"), "imagenet1k")
    budget = base("unseen", key("seen", "class_name"), "imagenet1k-seen")
    moved = base("unseen", key("seen", "class_name"), "imagenet1k")
    train = {"train_splits": [("train", "val", "test")]}
    elsewhere = {**FIXED, "seed": SEEDS, "pairs_from": [captions.data.pairs_from]}
    for sources, pairs in ((HEAD, (0,)), ((*HEAD, "none"), (16, 64, "all"))):
        lists = elsewhere | {"source": sources, "n_pairs": pairs}
        yield from (("caption pairs", run) for run in combinations(captions.changed, lists))
    of_seen = {**FIXED, "pairs_from": [budget.data.pairs_from], **train}
    alone = of_seen | {"source": HEAD, "seed": SEEDS}
    yield from (("equal budget", run) for run in combinations(budget.changed, alone))
    means = of_seen | {"source": ["none"], "seed": SEEDS, "pairs_per_class": [1]}
    yield from (("equal budget", run) for run in combinations(budget.changed, means))
    rows = ("weights", "mean", "attention", "linear")
    changed = of_seen | {"source": ["head"], "head_rows": rows}
    yield from (("weight preprocessing", run) for run in combinations(moved.changed, changed))


def measure(store: FeatureStore) -> dict[str, Any]:
    """Run all, and return one row a cell: the mean and the deviation over the seeds."""
    corpora: dict[Any, Any] = {}
    found: dict[tuple[Any, ...], list[pl.DataFrame]] = {}
    for experiment, run in cases(store):
        corpus = corpora.setdefault(run.data, None) or read_corpus(store, run)
        corpora[run.data] = corpus
        with threadpool_limits(limits=1):
            ((_, rows, _),) = execute([run], corpus)
        own = run.protocol
        k = f"{own.pairs_per_class}/class" if own.pairs_per_class else str(own.n_pairs)
        cell = experiment, run.fit.method, own.source, k, own.head_rows
        found.setdefault(cell, []).append(rows)
    return {"code": code_digest(), "rows": [_row(cell, rows) for cell, rows in found.items()]}


def _row(cell: tuple[Any, ...], rows: list[pl.DataFrame]) -> dict[str, Any]:
    names = ("experiment", "method", "source", "k", "head_rows")
    row: dict[str, Any] = dict(zip(names, cell, strict=True))
    for metric in ("top-1", "top-10"):
        values = [own.filter(metric=metric)["value"][0] for own in rows]
        sd = float(np.std(values, ddof=1)) if len(set(values)) > 1 else None
        row[metric] = [round(float(np.mean(values)), 5), None if sd is None else round(sd, 5)]
    first = rows[0].row(0, named=True)
    return row | {"draws": len(rows)} | {
        name: first[name] for name in ("n_queries", "gallery", "n_images_fitted", "n_prototypes")
    }  # fmt: skip


def render(data: dict[str, Any]) -> list[str]:
    """Return top-1 of every experiment, a column a method, as lines of Markdown.

    Left out are controls without a pair, which are at chance.
    """
    cells: dict[tuple[str, ...], dict[str, str]] = {}
    for row in data["rows"]:
        fitted = [row["source"]] if row["source"] != "none" else []
        if row["head_rows"] != "weights":
            fitted[0] += f", {row['head_rows']}"
        if row["k"] != "0":
            fitted.append(f"{row['n_images_fitted']} pairs")
        if row["k"] in ("16", "64") or (row["k"] == "0" and row["source"] not in ("head", "none")):
            continue
        line = row["experiment"], " + ".join(fitted)
        cells.setdefault(line, {})[row["method"]] = value_text("top-1", *row["top-1"])
    firsts = {name: line for line in reversed(cells) for name in line[:1]}.values()
    lines = [
        [line[0] if line in firsts else "", line[1], *(own[method] for method in METHODS)]
        for line, own in cells.items()
    ]
    return table(["experiment", "fitted on", *METHODS], lines)


def main() -> None:
    """Measure, and write docs/data/elsewhere.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, default=Path("build/demo/store"))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        split_stamps(open_store(asked.store), Path(folder) / "store")
        found = measure(open_store(Path(folder) / "store"))
    rows = ",\n".join(json.dumps(row) for row in found["rows"])
    DATA.write_text(f'{{"code": "{found["code"]}", "rows": [\n{rows}\n]}}\n', encoding="utf-8")


TABLES = {"elsewhere": (DATA.name, render)}

if __name__ == "__main__":
    main()
