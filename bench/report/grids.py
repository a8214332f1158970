"""Tables of the page: one grid per question with K across, and rows for the long tables."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import groupby
from operator import itemgetter
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
from bench.fits import FEWEST, SCORED, TOO_FEW
from bench.metrics.summary import metric_named
from bench.report.theme import SOURCE_STYLES
from bench.report.verdict import among
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
    lines = []
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
                "role": _role(name, str(source)),
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


def _role(method: str, source: str) -> str:
    if method in ("chance", "conse"):
        return {"chance": "muted"}.get(method, method)
    return SOURCE_STYLES.get(source, ("muted",))[0]


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
            "tone": _tone(row),
            "bar": axis.bar(row["low"], row["difference"], row["high"]),
        }
        for row, line in zip(comparisons.iter_rows(named=True), texts.lines, strict=True)
    ]


def _tone(row: dict[str, Any]) -> str:
    """Return ``"up"`` or ``"down"`` where a primary comparison holds, else nothing."""
    if not row["bold"]:
        return ""
    return "up" if row["difference"] > 0 else "down"
