"""Cells: the runs that differ only in their seed, and how a cell is named and ordered."""

from __future__ import annotations

from typing import Any

import polars as pl

#: Where a comparison is fair: same question, same galleries, same encoders.
ARENA = ["task", "eval", "options", "direction", "image_set", "name_set", "caption_set"]

#: What tells cells of one method, source and K apart, where a suite or a sweep varies it.
SETTINGS = ["head_set", "penalty", "mix", "view_set", "epochs", "sequential"]

#: What makes two runs the same cell. Everything else is the seed or follows from the sets.
CELL = [*ARENA, "method", "source", "n_pairs", *SETTINGS]

TASK_ORDER = [
    "zero_shot", "generalised", "retrieval", "few_shot", "head_names", "neighbours", "modality_gap",
    "neural_collapse", "cosine_head", "hubness", "spectrum",
]  # fmt: skip
EVAL_ORDER = ["all-names", "held-out", "split", "in-class"]
#: Evaluations in which every seed scores other images.
FRESH_SPLITS = ("held-out", "in-class")
DIRECTION_ORDER = [
    "image→name", "unseen image→unseen name", "image→caption", "caption→image",
]  # fmt: skip
METHOD_ORDER = [
    "chance", "identity", "mean-shift", "conse", "procrustes", "pls", "cca-200", "cca", "csa",
    "asif", "least-squares", "ridge-x2y", "ridge-both", "ridge",
    "kernel-ridge", "paper-cca", "paper-text2concepts", "paper-mlp",
]  # fmt: skip
SOURCE_ORDER = ["none", "shuffled", "random", "random-cov", "head"]

METHOD_NAMES = {
    "chance": "chance",
    "identity": "the pair itself",
    "mean-shift": "Mean shift",
    "conse": "ConSE",
    "procrustes": "Procrustes",
    "pls": "PLS",
    "cca-200": "CCA, 200 directions",
    "cca": "CCA",
    "csa": "CSA",
    "asif": "ASIF",
    "least-squares": "Least squares",
    "ridge-x2y": "Ridge to texts",
    "ridge-both": "Ridge both ways",
    "ridge": "Ridge",
    "kernel-ridge": "Kernel ridge",
    "paper-cca": "CCA of the paper",
    "paper-text2concepts": "Linear map of the paper",
    "paper-mlp": "MLP of the paper",
}

#: Names of the sources without and with real pairs beside them.
ALONE_NAMES = {
    "head": "head weights",
    "random": "random rows",
    "random-cov": "random rows, same covariance",
    "shuffled": "head, names shuffled",
}
MIXED_NAMES = {
    "none": "real pairs",
    "head": "real + head weights",
    "random": "real + random rows",
    "random-cov": "real + random rows, same covariance",
    "shuffled": "real + head, names shuffled",
}


def source_name(source: str, n_pairs: str) -> str:
    """Return what a reader calls the data that a cell was fitted on."""
    names = ALONE_NAMES if n_pairs == "0" else MIXED_NAMES
    return names.get(source, source)


def set_name(column: str, value: Any) -> str:
    """Return a value of a column that names a set as ``dataset · encoder``, others as text."""
    if value is None:
        return ""
    parts = str(value).split("/")
    if not column.endswith("_set") or len(parts) != 3:
        return str(value)
    encoder = parts[2].split(".", 1)[-1].rsplit("-", 1)[0]
    return f"{parts[0]} · {encoder}"


def pairs_order(n_pairs: str) -> float:
    """Return a number that sorts ``"0" < "16" < … < "all"``, with ``"4/class"`` beside 4."""
    return float("inf") if n_pairs == "all" else float(n_pairs.removesuffix("/class"))


def in_order(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the rows sorted as a reader expects: task, eval, direction, method, source, K."""
    keys = []
    for column, known in (
        ("task", TASK_ORDER),
        ("eval", EVAL_ORDER),
        ("options", [""]),
        ("direction", DIRECTION_ORDER),
        ("method", METHOD_ORDER),
        ("source", SOURCE_ORDER),
    ):
        if column in frame.columns:
            places = {name: place for place, name in enumerate(known)}
            keys.append(
                pl.col(column).replace_strict(places, default=len(known), return_dtype=pl.Int64)
            )
            keys.append(pl.col(column))
    if "n_pairs" in frame.columns:
        keys.append(
            pl.when(pl.col("n_pairs") == "all")
            .then(float("inf"))
            .otherwise(pl.col("n_pairs").str.strip_suffix("/class").cast(pl.Float64, strict=False))
        )
    return frame.sort(keys, maintain_order=True)
