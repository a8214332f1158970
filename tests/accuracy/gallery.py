"""Measure what is left of an alignment as its gallery grows: names to choose from, and neighbours.

    python -m tests.accuracy.gallery --store build/demo/store --planted build/planted
    python -m tests.tables write

*Names*: the demo's images among their own 517 names and more and more of timm's synsets, without
persons (WordNet's file noun.person) and without names that an image has. Distractors are drawn in
five orders. A synonym or a kind of the right name is wrong, as ever. *Neighbours*: mutual k-NN
(k 10) of the same queries in nested galleries (`bench.mutual_knn_by_size`): images and their
descriptions, rows of the head and names, names and definitions of synsets, and two views of a
planted latent space of 16 dimensions, up to a million rows, by the store. *Many to one*: rows of
the head beside one text of their class, and beside three; the neighbours of a class by its texts
are the classes of the nearest texts of others. Writes docs/data/gallery.json and docs/gallery.svg.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from threadpoolctl import threadpool_limits

from bench import mutual_knn_by_size
from bench.corpus import class_name_forms
from bench.metrics.geometry import Calibrated, nearest_rows, shared_rows, unit_rows
from bench.search import PERSONS
from bench.statistics import DrawSums, proportion_interval, two_term
from bench.tables import signed_text, value_text
from data_manifests.labels import LEMMAS, find_timm_info, lemmas_of
from featstore import open_store
from featstore.encoders.base import encode_texts
from featstore.encoders.registry import open_encoder
from featstore.store.pairs import PairedView
from featstore.testing import item_table, write_set
from tests.accuracy.few_shot import TEXT_ENCODER, WEIGHTS, mean_text
from tests.accuracy.measure import Bench, drawn, table
from tests.perf.extract_memory import peak_bytes

DOCS = Path(__file__).parents[2] / "docs"
DATA, FIGURE = DOCS / "data/gallery.json", DOCS / "gallery.svg"
K, ORDERS, QUERIES = 10, 5, 1_000
SIZES, PLANTED = (517, 1_000, 2_000, 5_000, 10_000), (1_000, 10_000, 100_000, 1_000_000)
METHODS = {"conse": "ConSE", "procrustes": "Procrustes", "kernel-ridge": "kernel ridge"}
LATENT, WIDTH, NOISE = 16, 64, 0.5


def distractors(known: set[str]) -> tuple[list[str], list[str]]:
    """Return names and definitions of synsets that are no persons and not called what is known."""
    info = find_timm_info()
    lemmas, definitions = (
        dict(line.split("\t", 1) for line in (info / name).read_text("utf-8").splitlines())
        for name in (LEMMAS, "imagenet_synset_to_definition.txt")
    )
    names = dict[str, str]()
    for synset in (info / "imagenet22k_synsets.txt").read_text("utf-8").split():
        own = lemmas_of(lemmas[synset])
        taken = {one.casefold().replace("-", " ") for one in own} & known
        if int(synset[1:]) not in PERSONS and not taken:
            names.setdefault(own[0], definitions[synset])
    return [*names], [*names.values()]


def encoded(kept: Path, what: str, texts: list[str]) -> np.ndarray:
    """Return rows of texts, which are encoded once."""
    file = kept / f"{what}.npy"
    if not file.exists():
        print(f"encoding {len(texts):,} texts", file=sys.stderr, flush=True)
        np.save(file, encode_texts(open_encoder(TEXT_ENCODER, weights=WEIGHTS), texts))
    rows: np.ndarray = np.load(file)
    assert len(rows) == len(texts), f"{file} is of other texts: delete it"
    return rows


def among_names(bench: Bench, names: list[str], rows: np.ndarray) -> Iterator[dict[str, Any]]:
    """Yield a row a method and gallery: top-1 and top-10 with intervals over orders and names."""
    corpus = bench.corpus
    right = corpus.names.places_of(corpus.images.classes)
    clusters = np.tile(corpus.images.classes, ORDERS)
    draws = np.repeat(np.arange(ORDERS), len(right))
    hits = dict[tuple[str, str, int, str], DrawSums]()
    for source in ("head", "shuffled"):
        for method in METHODS if source == "head" else ("kernel-ridge",):
            made = bench.aligned(method, source=source)
            x, own, others = (
                made.project_x(corpus.images.rows),
                *(made.project_y(texts) for texts in (corpus.names.rows, rows)),
            )
            scores = _cosines(x, own)
            best = scores[np.arange(len(right)), right][:, None]
            before = (scores > best).sum(axis=1)
            above = _cosines(x, others) > best
            for size in (*SIZES, len(own) + len(names)):
                more, ranks = size - len(own), []
                for order in range(ORDERS):
                    chosen = np.random.default_rng([40, order]).permutation(len(names))[:more]
                    ranks.append(before + above[:, chosen].sum(axis=1))
                for metric, place in (("top-1", 1), ("top-10", 10)):
                    found = (np.concatenate(ranks) < place).astype(float)
                    key = (METHODS[method], source, size, metric)
                    hits[key] = DrawSums.of(found, draws, clusters)
    for method, source, size, metric in hits:
        if metric == "top-1":
            row: dict[str, Any] = {"method": method, "source": source, "size": size}
            gap = {"method": f"{method} − ConSE", "source": source, "size": size}
            for name in ("top-1", "top-10"):
                own = hits[method, source, size, name]
                ends = own.mean, *proportion_interval(own)
                row[name] = [round(one, 5) for one in ends]
                more = two_term(own - hits["ConSE", "head", size, name])
                gap[name] = [round(one, 5) for one in (more.mean, *more.interval())]
            yield row
            if (method, source) == ("kernel ridge", "head"):
                yield gap


def _cosines(x: Any, y: Any) -> np.ndarray:
    dense = [np.asarray(one.todense() if hasattr(one, "todense") else one) for one in (x, y)]
    scores: np.ndarray = unit_rows(dense[0]) @ unit_rows(dense[1]).T
    return scores


def views(kept: Path, name: str, *sides: np.ndarray) -> Any:
    """Return rows as pairs of a store."""
    root = kept / name
    if not root.exists():
        items = item_table([f"{i:07d}" for i in range(len(sides[0]))])
        for side, encoder in zip(sides, "xy", strict=True):
            write_set(root, side.astype(np.float16), items, encoder=encoder, dataset=name)
    opened = open_store(root)
    x, y = (opened.view(key) for key in opened)
    # Both list the same items in one order. A join of a million ids takes half a gigabyte more.
    return PairedView(x, y, np.ones(len(x)), by="item_id")


def planted(root: Path, n: int) -> None:
    """Write two noisy linear views of one latent space."""
    rng = np.random.default_rng(40)
    latent = rng.standard_normal((n, LATENT), np.float32)
    sides = []
    for _ in range(2):
        mixing = rng.standard_normal((LATENT, WIDTH), np.float32) / LATENT**0.5
        sides.append(latent @ mixing + NOISE * rng.standard_normal((n, WIDTH), np.float32))
    views(root, "planted", *sides)


def by_size(what: str, pairs: Any, sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    """Return a row a gallery."""
    found = mutual_knn_by_size(
        pairs, K, sizes, n_queries=QUERIES, rng=np.random.default_rng([40, len(pairs)])
    )
    return [_row(what, size, one) for size, one in found.items()]


def _row(what: str, size: int, found: Calibrated) -> dict[str, Any]:
    top = found.threshold
    numbers = {"value": found.value, "chance": found.expected, "null": top, "p": found.p}
    return {"views": what, "size": size} | {k: round(v, 6) for k, v in numbers.items()}


def many_to_one(head: np.ndarray, texts: np.ndarray) -> list[dict[str, Any]]:
    """Return mutual k-NN of classes by their first text, and by all: texts of shape (c, m, d)."""
    n, m = texts.shape[:2]
    of_rows, rows = nearest_rows(head, K), []
    for count in (1, m):
        unit = unit_rows(texts[:, :count].reshape(n * count, -1))
        scores = unit[::count] @ unit.T
        owners = np.repeat(np.arange(n), count)
        near = np.empty((n, K), np.int64)
        for place, order in enumerate(np.argsort(-scores, axis=1, kind="stable")):
            others = owners[order][owners[order] != place]
            near[place] = list(dict.fromkeys(others[: K * count].tolist()))[:K]
        null, rng = np.empty(199), np.random.default_rng(40)
        for draw in range(len(null)):
            moved = rng.permutation(n)
            null[draw] = shared_rows(of_rows[moved], moved[near]).mean() / K
        value = float(shared_rows(of_rows, near).mean()) / K
        found = Calibrated.of(value, null, K / (n - 1), 0.05)
        rows.append(_row(f"head rows ~ {count} text{'s' * (count > 1)} a class", n, found))
    return rows


def measured(root: Path, size: int) -> dict[str, Any]:
    """Return the row of one planted gallery, with its peak memory and its processor seconds."""
    start = time.process_time()
    (row,) = by_size("planted", views(root, "planted"), (size,))
    return {**row, "peak": peak_bytes(), "seconds": round(time.process_time() - start)}


def main() -> int:
    """Measure, and write the data and the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, default=Path("build/demo/store"))
    parser.add_argument("--planted", type=Path, default=Path("build/planted"))
    parser.add_argument("--only", choices=("names", "planted"), help="the other part is kept")
    parser.add_argument("--figure", action="store_true", help="draw what is there, measure nothing")
    parser.add_argument("--one", type=int, help="measure one planted gallery, and print it")
    asked = parser.parse_args()
    if asked.one:
        with threadpool_limits(limits=1):
            print(json.dumps(measured(asked.planted, asked.one)))
        return 0
    asked.planted.mkdir(parents=True, exist_ok=True)
    data = json.loads(DATA.read_text("utf-8")) if DATA.exists() else {}
    with threadpool_limits(limits=1):
        if asked.only != "names" and not asked.figure:
            data["planted"] = on_planted(asked.planted)
        if asked.only != "planted" and not asked.figure:
            data |= on_store(asked.store, asked.planted)
    parts = [
        f'"{name}": [\n' + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]"
        for name, rows in data.items()
    ]
    DATA.write_text("{" + ",\n".join(parts) + "}\n", "utf-8")
    FIGURE.write_text(figure(data), "utf-8")
    print("\n".join(names_table(data)))
    return 0


def on_planted(root: Path) -> list[dict[str, Any]]:
    """Return the rows of planted galleries, each measured by a process of its own."""
    if not (root / "planted").exists():
        planted(root, max(PLANTED))
    rows = []
    for size in PLANTED:
        command = [sys.executable, "-m", "tests.accuracy.gallery", "--one", str(size)]
        done = subprocess.run(
            [*command, "--planted", str(root)], capture_output=True, text=True, check=True
        )
        rows.append(json.loads(done.stdout))
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def on_store(store: Path, kept: Path) -> dict[str, list[dict[str, Any]]]:
    """Return what the demo's sets say."""
    bench = Bench(store, kept)
    corpus, head = bench.corpus, bench.corpus.head
    assert head is not None
    items = bench.store.view(bench.run.data.name_set).items
    known = {form for forms in class_name_forms(items).values() for form in forms}
    names, definitions = distractors(known)
    bare = encoded(kept, "names", names)
    photos = encoded(kept, "photos", [f"a photo of a {name}." for name in names])
    of_definitions = encoded(kept, "definitions", definitions)
    found = {"names": list(among_names(bench, names, mean_text(bare, photos)))}
    first = np.unique(corpus.images.classes, return_index=True)[1]
    own = corpus.names.rows[corpus.names.places_of(corpus.images.classes)]
    images = corpus.images.rows
    found["neighbours"] = [
        *by_size("images ~ descriptions, one each", views(kept, "one", images[first], own[first]),
                 (100, 200, len(first))),
        *by_size("images ~ descriptions, all", views(kept, "all", images, own),
                 (100, 200, len(images))),
        *by_size("head rows ~ names", views(kept, "head", head.weight, head.texts),
                 (100, 200, 500, len(head.weight))),
        *by_size("names ~ definitions", views(kept, "texts", bare, of_definitions),
                 (100, 200, 500, *SIZES[1:], len(names))),
    ]  # fmt: skip
    texts = bench.store.view(bench.run.data.head_name_set)
    table_ = texts.items.with_row_index()
    kinds = [
        texts.take(
            table_.filter(pl.col("template_id") == "none", pl.col("variant") == variant)
            .sort("class_id")["index"].to_numpy()
        ).numpy()
        for variant in ("name", "lemmas", "definition")
    ]  # fmt: skip
    found["many"] = many_to_one(head.weight[np.argsort(head.classes)], np.stack(kinds, axis=1))
    return found


def names_table(data: dict[str, Any]) -> list[str]:
    """Return the accuracies as a table, to read beside the figure."""
    sizes = list(dict.fromkeys(row["size"] for row in data["names"]))
    lines: dict[tuple[str, str], list[str]] = {}
    for row in data["names"]:
        shown = signed_text if "−" in row["method"] else partial(value_text, "top-1")
        text = " / ".join(shown(row[metric][0]) for metric in ("top-1", "top-10"))
        lines.setdefault((row["method"], row["source"]), []).append(text)
    lines["chance", "head"] = [
        " / ".join(value_text("top-1", place / size) for place in (1, 10)) for size in sizes
    ]
    words = {"head": "", "shuffled": ", names shuffled"}
    rows = [[f"{method}{words[source]}", *cells] for (method, source), cells in lines.items()]
    return table(["top-1 / top-10, %", *(f"{size:,} names" for size in sizes)], rows)[:-1]


def figure(data: dict[str, Any]) -> str:
    """Return the figure: accuracy by the number of names, neighbours by the size of the gallery."""

    def paint(left: Any, right: Any) -> None:
        groups: dict[tuple[str, str], list[Any]] = {}
        for row in data["names"]:
            if "−" not in row["method"]:
                groups.setdefault((row["method"], row["source"]), []).append(row)
        for place, ((method, source), rows) in enumerate(groups.items()):
            label = method if source == "head" else f"{method}, names shuffled"
            x = [row["size"] for row in rows]
            mean, low, high = ([100 * row["top-1"][i] for row in rows] for i in range(3))
            left.plot(x, mean, "o-", ms=3, color=f"C{place}", label=label)
            left.fill_between(x, low, high, color=f"C{place}", alpha=0.15, linewidth=0)
        left.plot(x, [100 / size for size in x], "--", color="0.6", label="chance")
        left.set(xscale="log", xlabel="names to choose from", ylabel="top-1, %", ylim=(0, None))
        left.legend(frameon=False, fontsize=7)
        known: dict[str, list[Any]] = {}
        for row in (*data.get("neighbours", ()), *data["planted"]):
            known.setdefault(row["views"], []).append(row)
        for place, (name, rows) in enumerate(known.items()):
            x = [row["size"] for row in rows]
            right.plot(x, [row["value"] for row in rows], "o-", ms=3, color=f"C{place}", label=name)
            right.plot(x, [row["null"] for row in rows], ":", color=f"C{place}", linewidth=1)
        right.set(xscale="log", yscale="log", xlabel="items in the gallery",
                  ylabel="mutual 10-NN (dotted: 5 % of the null)")  # fmt: skip
        right.legend(frameon=False, fontsize=7)

    return drawn("gallery", 2, paint)


if __name__ == "__main__":
    sys.exit(main())
