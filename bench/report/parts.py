"""Parts of the page: examples to look at, and tables with the number of real pairs across.

Which examples are shown follows from their ids alone, so that nobody picks the pretty ones.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import polars as pl

from bench.cells import (
    ARENA,
    CELL,
    CONTROLS,
    HEAD_PARTS,
    method_title,
    pairs_order,
    part_name,
    source_name,
)
from bench.corpus import seen_classes
from bench.fits import FEWEST, SCORED, TOO_FEW
from bench.metrics.summary import metric_named
from bench.report.figures import SOURCE_STYLES, data_uri, evaluation_text
from bench.report.verdict import among
from bench.results import read_ranks
from bench.tables import (
    BY_NAME,
    EXTRA,
    Axis,
    extra_text,
    gain_lines,
    metric_columns,
    metric_name,
    pairs_text,
    signed_text,
    value_text,
    varying,
)
from featstore.identity import sha256_hex
from featstore.store.store import FeatureStore
from featstore.terminal import visible

#: A near miss: the right answer is among the first so many.
NEAR = 5

#: Cards of every group on the page; the template shows three before a reader asks for more.
CARDS = 8


#: Characters of a text that are shown.
LONGEST = 300


def shown_text(text: str) -> str:
    """Return a text from a store as a page shows it: its beginning, and nothing hidden in it.

    A character that controls a display is shown as its escape, as on a terminal.
    """
    return visible(text[:LONGEST]) + ("\N{HORIZONTAL ELLIPSIS}" if len(text) > LONGEST else "")


@dataclass(frozen=True)
class Words:
    """Texts and pictures of items.

    Attributes
    ----------
    texts : mapping
        item_id or class_id to text.
    classes : mapping
        item_id to class_id.
    pictures : mapping
        item_id to the bytes of a thumbnail, WebP.
    seen : frozenset of str
        class_id of the classes whose name the head has.
    """

    texts: Mapping[str, str]
    classes: Mapping[str, str]
    pictures: Mapping[str, bytes]
    seen: frozenset[str] = frozenset()

    def describe(self, item: str) -> str:
        """Return the text of an item, else that of its class, else its id, as it is shown."""
        own = self.texts.get(item) or self.texts.get(self.classes.get(item, item), item)
        return shown_text(own)

    def picture(self, item: str) -> str:
        """Return the address of an item's thumbnail; empty where there is none."""
        found = self.pictures.get(item)
        return data_uri("image/webp", found) if found else ""


def read_words(store: FeatureStore, row: Mapping[str, Any]) -> Words:
    """Read texts, classes and thumbnails of the sets that a result row names."""
    texts: dict[str, str] = {}
    classes: dict[str, str] = {}
    seen: frozenset[str] = frozenset()
    classes.update(_pairs(store.view(row["image_set"]).items, "item_id", "class_id"))
    tables = [store.view(key).items for key in (row["head_name_set"], row["name_set"]) if key]
    for items in tables:
        names = items.filter(pl.col("text").is_not_null())
        for table in (names, names.filter(template_id="none")):
            first = table.unique("class_id", keep="first", maintain_order=True)
            texts.update(_pairs(first, "class_id", "text"))
    if len(tables) == 2:
        ids = tables[1]["class_id"].unique().drop_nulls().sort().to_numpy()
        seen = frozenset(ids[seen_classes(tables[1], tables[0], ids)])
    if row["caption_set"]:
        captions = store.view(row["caption_set"]).items
        texts.update(_pairs(captions, "item_id", "text"))
        classes.update(
            (caption, classes[parent])
            for caption, parent in _pairs(captions, "item_id", "parent_id").items()
            if parent in classes
        )
    dataset, kind = str(row["image_set"]).split("/")[:2]
    return Words(texts, classes, store.thumbnails(dataset, kind), seen)


def gallery(
    root: Path, results: pl.DataFrame, words: Words, method: str, direction: str, head: str
) -> dict[str, Any] | None:
    """Return examples of a method fitted on head weights alone, or None if none can be shown.

    They are what the template ``examples.html`` reads: which run it is (``setting``), how many of
    ``total`` images are ``hits``, among how many (``pool``), and ``groups`` of at most `CARDS`
    cards with their ``title`` and ``total``. A card has the right answer (``text``), an ``image``
    or "", and ``answers``, the method's first, each ``by`` someone in the colour of a ``role``,
    with its ``text`` and the ``rank`` of the right one.

    All names come before held-out ones, a lower seed before a higher. The same images are shown as
    ConSE and as random vectors name them, where these were run on the same images.

    Parameters
    ----------
    root : Path
        Results folder; ranks are read from it.
    results : DataFrame
        Of one choice of sets.
    words : Words
    method, direction : str
        Of the verdict.
    head : str
        What the head is called.
    """
    ranks = _read_answers(root, results, method, direction)
    if not ranks:
        return None
    first = next(iter(ranks.values()))

    def card(query: str) -> dict[str, Any]:
        answers = [
            {"by": by, "role": role, "text": words.describe(own[query]["top"][0]),
             "rank": own[query]["rank"]}
            for (by, role), own in ranks.items() if query in own
        ]  # fmt: skip
        return {"text": words.describe(query), "image": words.picture(query), "answers": answers}

    # A fixed shuffle: neither the alphabet nor the order of the items decides.
    order = sorted(first, key=lambda item: sha256_hex(item.encode("utf-8")))
    places = {query: first[query]["rank"] for query in order}
    kinds = _kinds(places, words, head)
    run = next(iter(first.values()))
    held = "none held out" if run["eval"] == "all-names" else evaluation_text(run["eval"])
    pool = f"{among(direction, run['gallery'])} ({held})"
    return {
        "hits": list(places.values()).count(1),
        "total": len(first),
        "pool": pool,
        "setting": (
            f"{method_title(method)} on head weights alone. "
            "Examples are drawn by a hash of their ids."
        ),
        "groups": [
            {"title": title, "total": len(kind), "cards": [card(query) for query in kind[:CARDS]]}
            for title, kind in kinds.items()
            if kind
        ],
    }


def _kinds(places: Mapping[str, int], words: Words, head: str) -> dict[str, list[str]]:
    """Return the images of every kind, in order, by what a reader calls the kind."""
    hits = [query for query, rank in places.items() if rank == 1]
    kinds = {"Right": hits}
    if words.seen:
        known = {query for query in hits if words.classes.get(query, query) in words.seen}
        kinds = {
            f"Right, and {head} has the name": [query for query in hits if query in known],
            f"Right, and {head} lacks the name": [query for query in hits if query not in known],
        }
    return kinds | {
        f"Nearly right, rank 2 to {NEAR}": [q for q, rank in places.items() if 1 < rank <= NEAR],
        f"Wrong, rank {NEAR + 1} or worse": [q for q, rank in places.items() if rank > NEAR],
    }


def _read_answers(
    root: Path, results: pl.DataFrame, method: str, direction: str
) -> dict[tuple[str, str], dict[str, dict[str, Any]]]:
    """Return who answered, and in which role → image → its ranks; empty without the method.

    All are of one evaluation and seed: all names before held-out ones, a lower seed first.
    """
    runs = results.filter(
        pl.col("source").is_in(["head", "random"]), direction=direction, n_pairs="0"
    ).sort(pl.col("eval") != "all-names", "seed", "control_draw", maintain_order=True)
    of_method = runs.filter(method=method, source="head").head(1)
    if of_method.is_empty():
        return {}
    runs = runs.join(of_method.select("eval", "seed"), on=["eval", "seed"], maintain_order="left")
    answers = {}
    for by, name, source, role in (
        (method_title(method), method, "head", "head"),
        ("ConSE", "conse", "head", "conse"),
        ("Random vectors", method, "random", "random"),
    ):
        own = runs.filter(method=name, source=source).head(1)
        found = read_ranks(root, own["run_id"]).filter(
            pl.col("top").list.len() > 0, direction=direction
        )
        found = found.join(own.select("run_id", "gallery", "eval"), on="run_id")
        if not found.is_empty():
            answers[by, role] = {row["query_id"]: row for row in found.iter_rows(named=True)}
    return answers if (method_title(method), "head") in answers else {}


def _pairs(table: pl.DataFrame, key: str, value: str) -> dict[str, str]:
    kept = table.select(key, value).drop_nulls()
    return dict(zip(kept[key].to_list(), kept[value].to_list(), strict=True))


#: Metrics of places that the page can show a cell by, before those of `BY_NAME`.
PLACES = 5


def grids(table: pl.DataFrame, bold: Collection[tuple[Any, ...]] = ()) -> list[dict[str, Any]]:
    """Return a grid per question, a task × evaluation × direction, as ``tables.html`` reads it.

    A grid has a ``direction``, an ``eval``, the ``pool`` of its queries, a ``note`` on seeds and
    means, the ``metrics`` that its cells hold, headings (``columns``: numbers of real pairs, or
    `by_metric` the metrics) and ``groups`` of lines, by method: those by their best value, the head
    before its controls, chance last. A line has its ``method`` and ``title``, what it was fitted on
    (``source``), the ``role`` of its colour, whether it is a ``control``, and ``cells``, each with
    the ``text``, the tint (``weight``, 0 to 100 between chance and the best) and ``bold`` of its
    metrics.

    Parameters
    ----------
    table : DataFrame
        Of `bench.tables.result_table`. Few-shot learners have a table of their own.
    bold : collection of (metric, cell)
        Of `bench.comparisons.bold_cells`.
    """
    return [
        _grid(dict(zip(ARENA, key, strict=True)), block, bold)
        for key, block in table.group_by(ARENA, maintain_order=True)
        if key[0] != "few_shot"
    ]


def _grid(
    arena: dict[str, Any], block: pl.DataFrame, bold: Collection[tuple[Any, ...]]
) -> dict[str, Any]:
    have = [m for m in metric_columns(block) if block[m].null_count() < block.height]
    keys = sorted(set(block["n_pairs"]), key=pairs_order)
    # The page shows one metric of a cell at a time: the first five, or accuracy by name.
    ranked = [m for m in have if m not in BY_NAME]
    named = [m for m in BY_NAME if m in have]
    metrics = [*(ranked if len(keys) == 1 else ranked[:PLACES]), *named]
    if len(keys) == 1 and ranked:
        metrics = [ranked[0], *named, *ranked[1:]]
    names = tuple(metric_name(m) for m in metrics)
    fitted = dict(block.select("n_pairs", "n_images_fitted").iter_rows())
    lines = groupby(_lines(block, metrics, keys, bold), itemgetter("method"))
    return {
        "direction": arena["direction"],
        "eval": arena["eval"],
        "pool": among(arena["direction"], block["gallery"][0]),
        "note": _note(block),
        "metrics": names,
        "columns": names if len(keys) == 1 else tuple(pairs_text(k, fitted[k]) for k in keys),
        "groups": [(name, list(own)) for name, own in lines],
        "by_metric": len(keys) == 1,
    }


def _note(block: pl.DataFrame) -> str:
    seeds, means = sorted({int(n) for n in block["n_seeds"]}), set(block["image_mean"])
    share = block["seen_share"][0]
    centred = "images centred by the mean of all that are scored, which uses no label"
    parts = {
        ", no ± where nothing is drawn": seeds[0] == 1 < seeds[-1],
        f"; {centred} (transductive)": SCORED in means,
        f"; images not centred: fewer than {FEWEST} are scored": (
            TOO_FEW in means and SCORED not in means
        ),
        f"; {100 * (share or 0.0):.0f} % of the queries are of names that the head has (seen)": (
            share is not None
        ),
    }
    said = "".join(text for text, holds in parts.items() if holds)
    return f"mean ± sd over {seeds[-1]} draws{said}."


def _lines(
    block: pl.DataFrame,
    metrics: Sequence[str],
    keys: Sequence[str],
    bold: Collection[tuple[Any, ...]],
) -> list[dict[str, Any]]:
    """Return a line for every method and source of a question."""
    chance = block.row(by_predicate=pl.col("method") == "chance", named=True)
    best = {m: float(block[m].max()) for m in metrics}  # type: ignore[arg-type]
    # Best value of each method with a head or real pairs; chance comes last.
    tops: dict[str, float] = {"chance": -1.0}
    lines, roles = [], {"chance": "muted", "conse": "conse"}
    for (method,), of_method in block.group_by(["method"], maintain_order=True):
        name, extra = str(method), varying(of_method)
        for (source, *_), rows in of_method.group_by(["source", *extra], maintain_order=True):
            cells = {row["n_pairs"]: row for row in rows.iter_rows(named=True)}
            shades = [_shades(cells.get(k), metrics, chance, best, bold) for k in keys]
            line = {
                "method": name,
                "title": method_title(name),
                "source": (
                    "" if name == "chance" else _row_name(rows.row(0, named=True), keys, extra)
                ),
                "role": roles.get(name) or SOURCE_STYLES.get(str(source), ("muted",))[0],
                "control": source in CONTROLS,
                "cells": [[one] for one in shades[0]] if len(keys) == 1 else shades,
            }
            lines.append(line)
            if name != "chance" and not line["control"]:
                top = float(rows[metrics[0]].max() or 0.0)  # type: ignore[arg-type]
                tops[name] = max(tops.get(name, 0.0), top)
    return sorted(
        lines, key=lambda one: (-tops.get(one["method"], 0.0), one["method"], one["control"])
    )


def _row_name(row: dict[str, Any], keys: Sequence[str], extra: Sequence[str]) -> str:
    """Return what a line was fitted on, and the settings that tell it from others of its method."""
    name = source_name(row["source"], "16" if row["source"] == "none" else "0")
    if row["source"] != "none" and len(keys) > 1:
        name = f"+ {name}"
    known = [part_name(row)] + [
        f"{EXTRA[setting]} {extra_text(setting, row[setting])}"
        for setting in extra
        if setting not in HEAD_PARTS and extra_text(setting, row[setting])
    ]
    settings = ", ".join(filter(None, known))
    return f"{name} ({settings})" if settings else name


def _shades(
    cell: dict[str, Any] | None,
    metrics: Sequence[str],
    chance: dict[str, Any],
    best: dict[str, float],
    bold: Collection[tuple[Any, ...]],
) -> list[dict[str, Any]]:
    """Return one cell of a grid, by metric; empty texts where nothing was run."""
    if cell is None:
        return [{"text": "", "weight": 0, "bold": False}] * len(metrics)
    key, shades = tuple(cell[name] for name in CELL), []
    for metric in metrics:
        span = 0.0 if chance[metric] is None else best[metric] - chance[metric]
        known = cell[metric] is not None and span > 0 and metric_named(metric).higher_is_better
        share = (cell[metric] - chance[metric]) / span if known else 0.0
        text = value_text(metric, cell[metric], cell[f"{metric}_sd"])
        weight = round(100 * max(0.0, min(1.0, share)))
        shades.append({"text": text, "weight": weight, "bold": (metric, key) in bold})
    return shades


def gain_rows(comparisons: pl.DataFrame, fitted: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a gain table with their texts, and with a bar each, all on one axis.

    Parameters
    ----------
    comparisons : DataFrame
        Rows of `bench.comparisons.compare` to show.
    fitted : dict
        n_pairs → mean number of images.
    """
    if comparisons.is_empty():
        return []
    ends = [0.0, *comparisons["low"].drop_nulls(), *comparisons["high"].drop_nulls()]
    axis = Axis(min(ends), max(ends))
    texts = gain_lines(comparisons)
    return [
        {
            **row,
            "texts": dict(zip(texts.headings, line, strict=True)),
            "pairs": pairs_text(row["n_pairs"], fitted.get(row["n_pairs"])),
            "gain": signed_text(row["difference"]),
            "tone": ("up" if row["difference"] > 0 else "down") if row["bold"] else "",
            "bar": axis.bar(row["low"], row["difference"], row["high"]),
        }
        for row, line in zip(comparisons.iter_rows(named=True), texts.lines, strict=True)
    ]
