"""What the first screen of a report says of scenes by hand: its finding and its questions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import polars as pl

from bench.cells import CELL
from bench.comparisons import PRIMARY_METRICS, SCHEMA
from bench.report.screen import Scene
from bench.report.verdict import verdict

ASKED = {"direction": "image→name", "metric": "top-1", "eval": "held-out"}

Row = tuple[str, str, Mapping[str, Any]]


def by_hand(*comparisons: Row, mixed: Mapping[str, float] | None = None) -> Scene:
    """Return a scene of (comparison, source, fields), and a table that agrees with them.

    `mixed` has the images of real pairs by their number.
    """
    base = dict.fromkeys(SCHEMA) | ASKED | {
        "method": "ridge", "n_pairs": "0", "n_seeds": 10, "n_queries": 2000, "n_clusters": 200,
        "gallery": 200.0, "chance": 0.005, "n_controls": 19, "control_rank": 1, "clusters": 0,
        "head_size": 0, "head_by": "random", "leave_seen": False, "p": 0.001, "p_below": 0.999,
    }  # fmt: skip
    rows = [
        base | {"comparison": name, "source": source} | dict(fields)
        for name, source, fields in comparisons
    ]
    asked = {name: rows[0][name] for name in ASKED}
    values = {"head": rows[0]["a"]} | {
        row["source"]: row["b"] for row in rows if row["comparison"] == "over-control"
    }
    cell = dict.fromkeys(CELL) | asked | {
        "method": "ridge", "n_pairs": "0", "clusters": 0, "head_size": 0, "head_by": "random",
        "leave_seen": False, "n_images_fitted": 0.0, "gallery": 200.0,
        "seen": None, "unseen": None, "seen_share": None,
    }  # fmt: skip
    cells = [cell | {"source": source, asked["metric"]: v} for source, v in values.items()]
    cells += [
        cells[0] | {"n_pairs": n_pairs, "n_images_fitted": images}
        for n_pairs, images in (mixed or {}).items()
    ]
    table = pl.DataFrame(cells, infer_schema_length=None)
    results = pl.DataFrame(
        {"source": ["head"], "method": ["ridge"], "n_prototypes": [1000], "direction": [""]}
    )
    found = verdict(pl.DataFrame(rows, schema=SCHEMA), table, method="ridge")
    assert found is not None
    return Scene(found, results, table, "ImageNet")


def over(source: str, b: float, low: float | None, high: float | None, **fields: Any) -> Row:
    """Return a comparison of the head with a control."""
    own = {"a": 0.27, "b": b, "low": low, "high": high, **fields}
    return "over-control", source, {**own, "difference": own["a"] - b}


BEATEN = over("random", 0.001, 0.2, 0.3)
CHANCE = {"a": 0.27, "b": 0.005, "difference": 0.265}
WORSE = over("random", 0.5, -0.5, -0.4, p=0.99, p_below=0.001, a=0.01)

#: Of every outcome.
OUTCOMES: dict[str, tuple[Row, ...]] = {
    "better": (BEATEN, over("shuffled", 0.002, 0.2, 0.3)),
    "same": (BEATEN, over("shuffled", 0.26, -0.1, 0.1, p=0.4)),
    "worse": (over("random", 0.5, -0.5, -0.4, p=0.99, p_below=0.001, a=0.05),),
    "worse than a control, and than chance": (
        ("over-chance", "head", CHANCE | {"a": 0.01, "low": -0.006, "high": 0.01}),
        WORSE,
    ),
    "one draw": (over("random", 0.001, None, None, p=None, n_controls=1),),
    "undecided": (BEATEN, over("shuffled", 0.005, 0.2, 0.3, p=0.2, n_controls=2)),
    "one undrawn": (BEATEN, over("random-cov", 0.1, None, None, p=None, n_controls=None)),
    "too few draws": (over("random", 0.005, 0.2, 0.3, p=0.2, n_controls=2),),
    "drawn once": (over("random", 0.005, None, None, p=None),),
    "no control": (("over-chance", "head", CHANCE),),
}

#: Ridge beside ConSE.
FITTING = {
    "a fit helps": {"low": 0.01, "high": 0.03, "p": 0.01},
    "a fit may help": {"low": -0.01, "high": 0.03, "p": 0.2},
    "a fit harms": {"low": -0.03, "high": -0.01, "p": 0.01},
}

#: The head beside real pairs: what differs, the most pairs, the low end over pairs alone.
REAL: dict[str, tuple[dict[str, Any], str, float]] = {
    "pairs and head help": ({"bold": True}, "64", 0.1),
    "pairs and head, corrected": ({"p_holm": 0.2}, "64", 0.1),
    "pairs and head may not help": ({"low": -0.01}, "64", -0.1),
    "pairs and head of too few draws": ({"limit": "draws"}, "64", 0.1),
    # All pairs are drawn once: a claim about others needs fewer of them.
    "pairs and head, and all pairs": ({"bold": True}, "all", 0.1),
    "all pairs alone": ({"limit": "pool"}, "all", 0.1),
    "pairs and head of no family": ({"family": None, "p_holm": None}, "64", 0.1),
}

#: What the results over chance are of, and the note on their images.
QUOTED: dict[str, tuple[dict[str, Any], str]] = {
    "quotable": ({}, ""),
    "development set": ({}, "Development set: looked at."),
    "one split": ({"n_seeds": 1}, ""),
    "few classes": ({"n_clusters": 7}, ""),
    "few splits of few classes": ({"n_seeds": 3, "n_clusters": 7}, ""),
}


def _with_pairs(fields: dict[str, Any], k: str, real_low: float) -> Scene:
    parts = {"a": 0.3, "b": 0.27, "difference": 0.03, "low": 0.01, "high": 0.05, "p": 0.001}
    parts |= {"p_holm": 0.02, "family": 18, "bold": False, "limit": "", **fields}
    most = {"bold": parts["bold"] and k != "all", "limit": "pool" if k == "all" else parts["limit"]}
    real = {"a": 0.3, "b": 0.1, "difference": 0.2, "low": real_low, "high": 0.3}
    return by_hand(
        BEATEN,
        ("over-parts", "head", {**parts, "n_pairs": "16"}),
        ("over-parts", "head", {**parts, **most, "n_pairs": k}),
        *(("over-real", "head", {**real, "n_pairs": n_pairs}) for n_pairs in ("16", k)),
        mixed={"16": 16.0, "64": 64.0, "all": 50.0},
    )


def sentences(_: Path) -> dict[str, Any]:
    """Return scene -> what is said of it, and whether it is settled."""
    scenes = {name: (by_hand(*rows), "") for name, rows in OUTCOMES.items()}
    scenes["runs are missing"] = (replace(scenes["too few draws"][0], is_unfinished=True), "")
    for name, fields in FITTING.items():
        conse = {"a": 0.27, "b": 0.25, "difference": 0.02, **fields}
        scenes[name] = (by_hand(BEATEN, ("over-conse", "head", conse)), "")
    scenes |= {name: (_with_pairs(*given), "") for name, given in REAL.items()}
    for name, (fields, note) in QUOTED.items():
        chance = CHANCE | {"low": 0.2, "high": 0.3} | fields
        beaten = over("random", 0.001, 0.2, 0.3, **fields)
        scenes[name] = (by_hand(("over-chance", "head", chance), beaten), note)
    for direction, metric in PRIMARY_METRICS:
        own = over("random", 0.001, 0.2, 0.3, direction=direction, metric=metric)
        scenes[f"{metric} of {direction}"] = (by_hand(own), "")
    return {name: _said(scene, note) for name, (scene, note) in scenes.items()}


def _said(scene: Scene, note: str) -> dict[str, Any]:
    doubts = (scene.weights(), scene.fitting(), scene.real_pairs(), scene.quotable(note))
    return {"tone": scene.found.tone, "finding": scene.found.headline} | {
        doubt.question: [value for key, value in asdict(doubt).items() if key != "question"]
        for doubt in doubts
    }
