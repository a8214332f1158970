"""Write the measured tables of docs/ from docs/data, or check that they are what is there.

    python -m tests.tables collect --results build/demo/results      # the demo's, after it ran
    python -m tests.tables collect --controls build/controls         # of suite controls
    python -m tests.tables collect --statistics build/statistics.json
    python -m tests.accuracy.few_shot                                # and others there
    python -m tests.faults.matrix --out docs/data/reliability.json   # as tests.faults.interleavings
    python -m tests.tables write                                     # all tables, from docs/data
    python -m tests.tables check                                     # exit 1 if a table is another

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``. What a document holds there is
never typed; a test runs `check`.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import polars as pl

from bench import compare, read_results
from bench.cells import only_series, source_name
from bench.code import code_digest
from bench.contracts import CONTRACTS
from bench.suites.paper import EXPERIMENTS
from bench.tables import (
    BY_NAME,
    interval_text,
    p_text,
    pairs_text,
    result_table,
    signed_text,
    value_text,
)
from featstore.store.records import KEY
from featstore.terminal import human_bytes
from tests.accuracy import elsewhere, parts, suggest, trained
from tests.house import PACKAGES
from tests.validation import POWER

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

#: The JSON Schema of the convention for embeddings.
SCHEMA = ROOT / "featstore" / "store" / "embeddings.schema.json"

#: Properties whose absence is no fault, but noted.
SHOULD = ("weights_digest", "preprocessing", "revision")
DATA = DOCS / "data"

TOP = ("top-1", "top-5", "top-10")
METHODS = {"ridge": "ridge", "procrustes": "Procrustes", "kernel-ridge": "kernel ridge"}
#: Those of the longest tables: ridge stands near Procrustes, and in docs/data.
BRIEFLY = {name: METHODS[name] for name in ("procrustes", "kernel-ridge")}
SOURCES = {"none": "pairs alone", "head": "+ head"}

CONTROLS = {
    "random": "random rows", "random-cov": "of the head's covariance", "shuffled": "names shuffled"
}  # fmt: skip

Data = dict[str, Any]


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows)]


def _keep(name: str, data: Any) -> None:
    """Write a file of docs/data, one row a line: a change of one is a change of one line."""

    def text(value: Any) -> str:
        if not isinstance(value, list):
            return json.dumps(value, ensure_ascii=False)
        return "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in value) + "\n]"

    parts = ",\n".join(f'"{key}": {text(value)}' for key, value in data.items()) \
        if isinstance(data, dict) else ""  # fmt: skip
    (DATA / f"{name}.json").write_text((f"{{{parts}}}" if parts else text(data)) + "\n", "utf-8")


def collect_demo(results: Path) -> Data:
    """Return what the documents show of the demo's results."""
    rows = only_series(results, read_results(results), suite="demo")
    found = compare(results, rows, metrics=TOP)
    shown = (*TOP, *BY_NAME)
    cells = result_table(rows, shown).filter(pl.col("direction") == "image→name")
    keep = ["eval", "method", "source", "n_pairs", "n_images_fitted", "gallery", "n_seeds"]
    gains = found.filter(pl.col("direction") == "image→name").with_columns(
        rank=pl.col("control_rank")
    )
    columns = [
        "eval", "metric", "method", "comparison", "source", "n_pairs", "side_b", "difference",
        "low", "high", "p", "p_below", "test", "rank", "n_controls", "control_sd", "control_best",
        "family", "p_holm", "bold", "draw_error", "cluster_error", "df", "overlap", "population",
        "n_seeds", "n_queries", "n_clusters",
    ]  # fmt: skip
    return {
        "code": code_digest(),
        "run": run_of(results, "demo"),
        "cells": cells.select(*keep, *(c for m in shown for c in (m, f"{m}_sd"))).to_dicts(),
        "gains": gains.select(columns).to_dicts(),
    }


def run_of(results: Path, suite: str) -> Data:
    """Return when, where and with which versions most runs of a suite were made."""
    sessions = [json.loads(file.read_text("utf-8")) for file in results.glob("sessions/*.json")]
    session = max((one for one in sessions if one["suite"] == suite), key=lambda one: one["new"])
    return {name: session[name] for name in ("started", "seconds", "cpus", "new", "versions")} | {
        "system": session["platform"].partition("-")[0],
        "machine": re.findall(r"x86_64|aarch64|arm64|AMD64", session["platform"])[0],
    }


def demo_run(data: Data) -> list[str]:
    """Return when and where the demo's results were made."""
    run = data["run"]
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    row = [
        run["started"][:10],
        f"{run['cpus']} cores, {run['system']}, {run['machine']}",
        f"{run['new']:,} in {run['seconds'] / 60:.0f} min",
        versions,
        f"`{data['code']}`",
    ]
    return table(["date", "machine", "runs", "versions", "code"], [row])


def collect_controls(results: Path) -> Data:
    """Return what the documents show of the results of suite controls."""
    rows = only_series(results, read_results(results), suite="controls")
    found = compare(results, rows, metrics=TOP[:1]).filter(
        (pl.col("comparison") == "over-real") & (pl.col("eval") == "held-out")
    )
    keep = ["method", "source", "n_pairs", "a", "a_sd", "b", "b_sd", "difference", "low", "high"]
    return {"code": code_digest(), "beside": found.select(keep).to_dicts()}


#: Sources beside real pairs that the page shows.
BESIDE = ("head", "shuffled", "shuffled-within", "random-cov")


def beside(data: Data) -> list[str]:
    """Return what a source gains over the same 64 real pairs alone, held out."""
    kinds = list(dict.fromkeys((row["method"], row["n_pairs"]) for row in data["beside"]))
    kinds = [kind for kind in kinds if str(kind[1]) == "64"]
    rows: dict[str, list[str]] = {"pairs alone, top-1 %": []}
    for kind in kinds:
        own = [
            row for row in data["beside"]
            if (row["method"], row["n_pairs"]) == kind and row["source"] in BESIDE
        ]  # fmt: skip
        rows["pairs alone, top-1 %"].append(value_text("top-1", own[0]["b"], own[0]["b_sd"]))
        for row in own:
            gain = f"{signed_text(row['difference'])} {interval_text(row['low'], row['high'])}"
            rows.setdefault(source_name(row["source"], row["n_pairs"]), []).append(gain)
    columns = [f"{METHODS[method]}, K {k}" for method, k in kinds]
    return table(["fitted on", *columns], [[name, *cells] for name, cells in rows.items()])


def _three(row: Data) -> str:
    return " / ".join(value_text(metric, row[metric]) for metric in TOP)


def _by_name(row: Data) -> str:
    """Return accuracy at names that the head has and at the others; "–" in data of before."""
    return " / ".join(value_text(name, row.get(name)) or "–" for name in BY_NAME)


def _first(rows: Sequence[Data], **wanted: str) -> Data | None:
    return next((row for row in rows if wanted.items() <= row.items()), None)


def demo_all_names(data: Data) -> list[str]:
    """Return what every method reaches on all names, beside the mean of its control draws."""
    rows = []
    conse = _first(data["cells"], eval="all-names", method="conse", source="head")
    assert conse is not None
    shown = ("random", "shuffled")
    rows.append(["ConSE, no fitting", _three(conse), _by_name(conse), *["–"] * len(shown)])
    for method, name in METHODS.items():
        texts = [name]
        for source in ("head", *shown):
            cell = _first(data["cells"], eval="all-names", method=method, source=source)
            texts.append("–" if cell is None else _three(cell))
            if source == "head" and cell is not None:
                texts.append(_by_name(cell))
        rows.append(texts)
    draws = max(c["n_seeds"] for c in data["cells"] if c["eval"] == "all-names")
    return table(
        ["method", "head weights", "seen / unseen names",
         *(f"{CONTROLS[name]}, {draws} draws" for name in shown)],
        rows,
    )  # fmt: skip


def demo_held_out(data: Data) -> list[str]:
    """Return top-1 against the number of real pairs, means of runs."""
    shown, rows = [*product(BRIEFLY, SOURCES)], []
    held = [c for c in data["cells"] if c["eval"] == "held-out"]
    for k in ("0", "16", "64", "256", "all"):
        images = [c["n_images_fitted"] for c in held if c["n_pairs"] == k]
        texts = [pairs_text(k, images[0] if images else None)]
        for method, source in shown:
            cell = _first(held, method=method, source=source, n_pairs=k)
            texts.append("–" if cell is None else value_text("top-1", cell["top-1"]))
        rows.append(texts)
    return table(["real pairs", *(f"{METHODS[m]}: {SOURCES[s]}" for m, s in shown)], rows)


def _stated(gain: Data) -> str:
    """Return a difference as a sentence states it: interval, parts of its error."""
    text = f"{signed_text(gain['difference'])} {interval_text(gain['low'], gain['high'])}"
    return f"**{text}**" if gain["bold"] else text


def demo_controls(data: Data) -> list[str]:
    """Return how the held-out head stands among its controls, and the largest p of a line."""
    rows = []
    for method, name in BRIEFLY.items():
        gains = [
            _first(data["gains"], eval="held-out", metric="top-1", method=method, n_pairs="0",
                   comparison="over-control", source=source)
            for source in CONTROLS
        ]  # fmt: skip
        found = [gain for gain in gains if gain is not None]
        worst = max(found, key=lambda gain: gain["rank"] or 0)
        rows.append(
            [
                name, *("–" if one is None else _stated(one) for one in gains),
                f"{100 * max(gain['control_best'] for gain in found):.1f}",
                f"{worst['rank']} of {worst['n_controls'] + 1}" if worst["rank"] else "–",
                p_text(max(gain["p"] for gain in found)),
                p_text(max(gain["p_holm"] for gain in found if gain["p_holm"] is not None)),
            ]
        )  # fmt: skip
    return table(["method", *CONTROLS, "best control", "rank", "p", "p, Holm"], rows)


def demo_conse(data: Data) -> list[str]:
    """Return the fitted head against the head read directly."""
    rows = []
    shown = ("top-1", "top-10")
    for method, name in METHODS.items():
        gains = [
            _first(data["gains"], eval="all-names", metric=metric, method=method, n_pairs="0",
                   comparison="over-conse")
            for metric in shown
        ]  # fmt: skip
        if not any(gain is None for gain in gains):
            rows.append([name, *(_stated(gain) for gain in gains if gain is not None)])
    return table(["method", *shown], rows)


#: What a line is called -> the checks that it sums up; others have a line of their own.
CHECKS = {
    "type I, a difference": ("type I, two-term",),
    "coverage, one share": (
        "coverage, one share, latent normal clusters", "coverage, one share, beta clusters",
        "coverage, one share over draws", "coverage, one share, rare hits in large clusters",
    ),
    "type I at 0.05, head a control draw": (
        "type I at 0.05, head a control draw", "type I, head a control draw, pairs of its own",
        "type I at 0.05, either side, tails or skew",
    ),
    "type I at 0.0028, head a control draw (known limits)": (
        "type I at 0.0028, head a control draw (known limit)",
        "type I at 0.0028, either side, tails or skew (known limit)",
    ),
    "interval to one more control draw, without zero": (
        "interval of a control draw without zero, tails or skew",
        "interval of a control draw without zero",
    ),
    "a sentence of the verdict, of equal controls": (
        "sentence: a control did better, of equal ones",
        "sentence: better than every control, of equal ones",
    ),
    "verdict on a head that carries nothing": (
        "verdict for a head that carries nothing", "verdict against a head that carries nothing",
    ),
    "power at 2.8 s.e.": ("power at 2.8 s.e., two-term",),
    **{
        f"type I, {what}": tuple(f"type I, {what}, {how}" for how in (
            "calibrated", "best of many layers, search counted",
        ))
        for what in ("CKA and CCA", "mutual k-NN")
    },
    **{
        f"type I, similarities, {how}": tuple(
            f"type I, {what}, {how}" for what in ("CKA and CCA", "mutual k-NN")
        )
        for how in ("best of many layers, search ignored",)
    },
    "family-wise error of a board": (
        "family-wise error of a board, equal entries",
        "family-wise error of a board, unequal entries",
    ),
}  # fmt: skip


#: Checks that the page leaves out: a pool that no rule takes, and the program itself.
LEFT_OUT = (
    "type I, split drawn anew, pool: training images",
    "p of a control draw, uniform (Kolmogorov–Smirnov)", "a p far below 0.05 / 1,000 is possible",
    "above the truth, square", "above the truth, usual ECE", POWER,
)  # fmt: skip


def statistics_cells(data: list[Data]) -> list[str]:
    """Return the checks of `make validate-statistics`, cells of one kind in one line."""
    called = {name: line for line, names in CHECKS.items() for name in names}
    kinds: dict[tuple[str, str], list[Data]] = {}
    for row in data:
        if row["name"] not in LEFT_OUT:
            kinds.setdefault((called.get(row["name"], row["name"]), row["goal"]), []).append(row)
    rows = []
    for (name, goal), own in kinds.items():
        values = sorted(row["value"] for row in own)
        span = f"{values[0]:.3g}" if len(own) == 1 else f"{values[0]:.3f}–{values[-1]:.3f}"
        held = [row["holds"] for row in own if row["holds"] is not None]
        counted = f"{sum(held)}/{len(own)}" if held else f"–/{len(own)}"
        aim = goal.replace("printed", "–").replace("<= ", "≤").replace(">= ", "≥")
        rows.append([name, span, aim.replace(" to ", "–"), counted])
    return table(["check", "found", "goal", "held/cells"], rows)


def power_cells(data: list[Data]) -> list[str]:
    """Return how large an effect a verdict finds, by the number of images."""
    rows = [
        [row["setting"], f"{100 * row['value']:.1f} points"] for row in data if row["name"] == POWER
    ]
    return table(["ridge", POWER], rows)


def collect_birds(certificate: Path, box: Path) -> None:
    """Keep the shares of a run of the study of birds, and let its box expect them."""
    shares = json.loads(certificate.read_text("utf-8"))["shares"]
    _keep("birds", shares)
    names = ("eval", "method", "source", "metric")
    lines = [
        f"  {json.dumps([*(row[name] for name in names), round(100 * row['value'], 2)])},\n"
        for row in shares
    ]
    text = box.read_text("utf-8")
    box.write_text(text[: text.index("rows = [\n") + 9] + "".join(lines) + "]\n", "utf-8")


def of_birds(data: list[Data]) -> list[str]:
    """Return what share of held-out rows find their name, a line a method or control."""
    called = {"spelling": "names as strings", "within-genus": "names replaced within genus"}
    lines: dict[tuple[str, str], dict[str, list[str]]] = {}
    for row in data:
        line = lines.setdefault((row["method"], called.get(row["source"], row["source"])), {})
        line.setdefault(row["eval"], []).append(f"{100 * row['value']:.1f}")
    rows = [[*line, *("/".join(values) for values in own.values())] for line, own in lines.items()]
    return table(["method", "fitted on", "species held out", "genera held out"], rows)


def of_peers(data: list[Data]) -> list[str]:
    """Return what maps by each peer keep of the ten nearest, and CPU seconds of a fit."""
    cells: dict[str, dict[str, str]] = {}
    for row in data:
        heading = f"{row['old']}→{row['new']}, {row['pairs']:,}"
        best = "kept" in row and row["behind"] <= row["se"]
        text = "–" if "kept" not in row else f"{100 * row['kept']:.1f}/{row['seconds']:.2g}"
        cells.setdefault(row["peer"], {})[heading] = f"**{text}**" if best else text
    columns = list(next(iter(cells.values()), {}))
    return table(["map", *columns], [[peer, *own.values()] for peer, own in cells.items()])


def tree(_: None) -> list[str]:
    """Return packages and folders, each with the first line of its docstring."""
    rows = []
    for package in PACKAGES:
        root = ROOT / package
        rows.append((f"**{package}/**", _summary(root / "__init__.py")))
        folders = sorted(path.parent for path in root.glob("*/__init__.py"))
        rows.extend(
            (f"{one.parent.name}/{one.name}/", _summary(one / "__init__.py")) for one in folders
        )
    return table(["where", "what"], rows)


def _summary(file: Path) -> str:
    return (ast.get_docstring(ast.parse(file.read_text("utf-8"))) or "").partition("\n")[0]


def few_shot(data: Data) -> list[str]:
    """Return the mean top-1 of every few-shot learner by shots, without and with names."""
    shots = [data["shots"].index(n) for n in (1, 4, 16)]
    rows: dict[str, list[str]] = {}
    for row in data["rows"]:
        texts = [f"{row['top-1'][n][0]:.1f}" for n in shots]
        cells = rows.setdefault(row["learner"], [row["learner"], *["–"] * 6])
        start = 1 if row["names"] == "no" else 4
        cells[start : start + 3] = texts
    heads = [f"{data['shots'][n]}{also}" for also in ("", ", names") for n in shots]
    return table(["learner", *heads], list(rows.values()))


def _interval(value: Sequence[float], scale: float = 1.0, sign: str = "") -> str:
    mean, low, high = (f"{scale * one:{sign}.1f}".replace("-", "−") for one in value)
    return f"{mean} [{low}, {high}]"


def confidence(data: list[Data]) -> list[str]:
    """Return confidence of heads, pairs and learners; of controls those of kernel ridge."""
    rows = [
        [row["method"], row["fitted"], *(f"{100 * row[n]:.1f}" for n in ("top-1", "confidence")),
         _interval(row["error"], 100), f"{100 * row['AURC']:.1f}", _interval(row["AUROC"], 100)]
        for row in data
        if row["method"] not in ("class-means", "Ridge") and "random" not in row["fitted"]
    ]  # fmt: skip
    return table(
        ["method", "fitted on", "top-1", "confidence", "calibration error", "AURC", "AUROC"], rows
    )


def hubs(data: list[Data]) -> list[str]:
    """Return what the hub correction gains over the cosine by unlabelled images, in points."""
    ways = ("own, 10", "own, 100", "own, all", "head rows, all", "csls", "sinkhorn")
    rows = [
        [row["images"], f"{row['cosine']:.1f}", _interval(row["halves"], 1, "+"),
         *(_interval(row[way], 1, "+").split()[0] if way in row else "–" for way in ways)]
        for row in data
    ]  # fmt: skip
    return table(["images", "cosine", "halves", *ways], rows)


def of_millions(data: Data) -> list[str]:
    """Return what a job costs by its number of items: `tests.scaling.millions`."""
    rows = []
    for n, steps in data.items():
        begun, resumed = (steps[name] for name in ("begin, then SIGKILL", "resume and finish"))
        latest = steps.get("resume, 25 blocks", resumed)
        whole, sent = steps["check every row"], steps["push, open, scan of a bucket"]
        sizes = [
            int(whole[name].split()[2].replace(",", "")) for name in ("item tables", "commits")
        ]
        rows.append([
            f"{int(n):,}", f"{steps['plan']['seconds']:.2g}",
            f"{1e6 * (begun['seconds'] + resumed['seconds']) / int(n):,.0f}",
            f"{latest['first_block']:.2g}", f"{latest['bytes'] / int(n):,.0f}",
            f"{sizes[0] / int(n):.0f}", human_bytes(sizes[1]),
            f"{sum(sent['push'].values())}/{sent['open']}/{sent['scan']}",
        ])  # fmt: skip
    return table(
        ["items", "plan", "µs an item", "first block", "memory", "items, bytes", "commit",
         "requests"], rows,
    )  # fmt: skip


def near(data: Data) -> list[str]:
    """Return answers graded by WordNet."""
    kinds, rows = ("strict", "synonym", "one step", "two steps"), []
    for row in data["rows"]:
        if row["fitted"] in ("head weights", "") and row["method"] != "Ridge − ConSE":
            texts = [_interval(row[kind], 1, "+" * ("−" in row["method"])) for kind in kinds]
            if "−" not in row["method"]:
                texts = [text.split()[0] for text in texts]
            rows.append([row["method"], *texts])
    return table(["method", *kinds], rows)


def criteria(data: Data) -> list[str]:
    """Return the points of top-1 that each criterion loses, by method and world."""
    rows = [
        [row["method"], row["world"], f"{row['best'][0]:.1f}",
         *(f"{row[by][0]:.1f} ± {row[by][1]:.1f}" for by in ("rank", "cosine", "mean"))]
        for row in data["rows"]
    ]  # fmt: skip
    return table(["method", "world", "best", "rank", "cosine", "mean"], rows)


#: Heading -> faults of `tests.faults.matrix` that it sums up.
FAULTS = {
    "killed": ("before", "after", "torn"), "disk full": ("ENOSPC",), "disk errs": ("EIO",)
}  # fmt: skip


#: The first words of the commands that a line of the fault matrix sums up.
TOGETHER = (
    ("rm", "gc", "compact", "init", "tag", "sign", "card", "repair"),
    ("push", "pull", "sync", "prefetch", "cache"),
    ("import", "export"), ("data",), ("fit", "apply", "bridge", "derive"), ("eval", "report"),
    ("extract",),
)  # fmt: skip


def faults(data: Data) -> list[str]:
    """Return how many attempts of the fault matrix held, for commands of a kind and each fault."""
    lines = {words: Counter[str]() for words in TOGETHER}
    for row in data["commands"]:
        numbers = Counter({name: row[name] for name in ("sites", "planned")}) + Counter(kinds=1)
        for name, some in FAULTS.items():
            for count in ("attempts", "held"):
                numbers[f"{name} {count}"] = sum(row[count].get(fault, 0) for fault in some)
        (words,) = (one for one in TOGETHER if re.match(r"\w+", row["name"])[0] in one)
        lines[words].update(numbers)
    rows = [[", ".join(words), *_counted(numbers)] for words, numbers in lines.items()]
    rows.append(["**all**", *_counted(sum(lines.values(), Counter[str]()))])
    return table(["commands", "in all", "call sites", "attempts", *FAULTS], rows)


def more_faults(data: Data) -> list[str]:
    """Return how many attempts with a second fault, a killed worker or a killed demo held."""
    kinds = {"twice": "a second fault", "cut": "the power is cut",
             "worker": "a worker killed", "group": "all killed"}  # fmt: skip
    made, held, commands = Counter[str](), Counter[str](), Counter[str]()
    rows = []
    for row in data["commands"]:
        commands.update(row["attempts"].keys())
        made.update(row["attempts"])
        held.update(row["held"])
        rows += [[row["name"], kinds[kind], f"{row['held'][kind]:,} of {n:,}"]
                 for kind, n in row["attempts"].items() if kind in ("worker", "group")]  # fmt: skip
    of_many = [
        [f"{commands[kind]} commands of the table above", kinds[kind],
         f"{held[kind]:,} of {made[kind]:,}"]
        for kind in ("twice", "cut") if commands[kind]
    ]  # fmt: skip
    return table(["command", "fault", "held"], [*of_many, *rows])


def interleavings(data: list[Data]) -> list[str]:
    """Return how many interleavings held, over the commands that stood still."""
    columns = ("places", "interleavings", "tried", "held")
    total = [f"{sum(row[name] for row in data):,}" for name in columns]
    still = ", ".join(dict.fromkeys(row["name"].partition(",")[0].split()[0] for row in data))
    return table(["stands still", *columns], [[still, *total]])


def _counted(numbers: Mapping[str, int]) -> list[str]:
    made = sum(numbers[f"{name} attempts"] for name in FAULTS)
    sampled = "" if made == numbers["planned"] else f" of {numbers['planned']:,}"
    held = [f"{numbers[f'{n} held']:,} of {numbers[f'{n} attempts']:,}" for n in FAULTS]
    return [f"{numbers['kinds']}", f"{numbers['sites']:,}", f"{made:,}{sampled}", *held]


def contracts(_: None) -> list[str]:
    """Return the checks of each kind of plugin, as `headstock check` makes them."""
    rows = [[kind, ", ".join(contract.promises())] for kind, contract in CONTRACTS.items()]
    return table(["kind", "checks"], rows)


def paper(data: Data) -> list[str]:
    """Return what the paper shows, what is run for it, and on what it was run here."""
    stamps = {row["experiment"] for row in data["rows"]}
    rows = []
    for one in EXPERIMENTS:
        here = "miniatures, stamps" if one.name in stamps else "miniatures"
        state = "not run" if one.plan is None else here
        rows.append([one.name, one.where, one.runs, state])
    return table(["experiment", "where it is", "what is run, or why not", "run here on"], rows)


def embeddings_properties(_: None) -> list[str]:
    """Return the properties of the embeddings convention, as its schema states them."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))["properties"][KEY]
    rows = [[f"`{name}`", *rest] for name, *rest in _properties(schema, "", set(SHOULD))]
    return table(["property", "level", "meaning"], rows)


def _properties(schema: Data, above: str, should: set[str]) -> Iterator[list[str]]:
    for name, one in schema["properties"].items():
        level = "MUST" if name in schema["required"] else "SHOULD" if name in should else "MAY"
        values = one.get("enum", [one["const"]] if "const" in one else [])
        text = ", ".join(f"`{json.dumps(value)}`" for value in values)
        if "description" in one:
            meaning = one["description"] + (f" One of {text}." if text else "")
            yield [above + name, level, meaning.replace("One of `1`", "Always `1`")]
            if "properties" in one:
                yield from _properties(one, f"{above}{name}.", set())


#: Name of a table -> (file of docs/data, or None if it needs none; what renders it).
TABLES: dict[str, tuple[str | None, Callable[[Any], list[str]]]] = {
    "tree": (None, tree),
    "contracts": (None, contracts),
    "embeddings properties": (None, embeddings_properties),
    "demo, run": ("demo.json", demo_run),
    "demo, all names": ("demo.json", demo_all_names),
    "demo, held out": ("demo.json", demo_held_out),
    "demo, controls": ("demo.json", demo_controls),
    "demo, conse": ("demo.json", demo_conse),
    "controls, beside": ("controls.json", beside),
    "faults": ("reliability.json", faults),
    "interleavings": ("interleavings.json", interleavings),
    "faults, more": ("reliability_more.json", more_faults),
    "few-shot": ("few_shot.json", few_shot),
    "statistics": ("statistics.json", statistics_cells),
    "power": ("statistics.json", power_cells),
    "bridge, peers": ("bridge_peers.json", of_peers),
    "birds": ("birds.json", of_birds),
    "confidence": ("confidence.json", confidence),
    "hubs": ("hubs.json", hubs),
    "millions": ("millions.json", of_millions),
    "near": ("near.json", near),
    "criteria": ("criteria.json", criteria),
    **trained.TABLES,
    **parts.TABLES,
    **suggest.TABLES,
    **elsewhere.TABLES,
    "paper": ("elsewhere.json", paper),
}

_BLOCK = re.compile(r"(<!-- table: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def rendered(text: str) -> str:
    """Return a document with every table written anew."""

    def written(block: re.Match[str]) -> str:
        file, render = TABLES[block[2]]
        data = None if file is None else json.loads((DATA / file).read_text("utf-8"))
        return "\n".join([block[1].rstrip("\n"), "", *render(data), "", block[3]])

    return _BLOCK.sub(written, text)


def drifted() -> Iterator[Path]:
    """Yield the documents whose tables are not what docs/data gives."""
    for document in sorted(DOCS.rglob("*.md")):
        text = document.read_text("utf-8")
        if rendered(text) != text:
            yield document


#: Of what is collected -> what it is.
COLLECTED = {
    "results": "results folder of the demo", "controls": "results folder of suite controls",
    "statistics": "JSON of make validate-statistics",
    "peers": "bridge_peers.json of make perf ONLY=bridge",
    "birds": "certificate of headstock reproduce birds",
}  # fmt: skip


def main() -> int:
    """Collect, write or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("collect", "write", "check"))
    for name, text in COLLECTED.items():
        parser.add_argument(f"--{name}", type=Path, help=text)
    arguments = parser.parse_args()
    if arguments.what == "collect":
        if arguments.results is not None:
            _keep("demo", collect_demo(arguments.results))
        if arguments.controls is not None:
            _keep("controls", collect_controls(arguments.controls))
        if arguments.peers is not None:
            (DATA / "bridge_peers.json").write_text(arguments.peers.read_text("utf-8"), "utf-8")
        if arguments.birds is not None:
            collect_birds(arguments.birds, ROOT / "bench/boxes/birds.toml")
        if arguments.statistics is not None:
            # A run of some checks alone (--only) replaces their rows.
            new = json.loads(arguments.statistics.read_text("utf-8"))
            names = {row["name"] for row in new}
            old = json.loads((DATA / "statistics.json").read_text("utf-8"))
            _keep("statistics", [*(row for row in old if row["name"] not in names), *new])
    if arguments.what == "check":
        found = list(drifted())
        for document in found:
            print(f"{document}: run `python -m tests.tables write`", file=sys.stderr)
        return 1 if found else 0
    for document in drifted():
        document.write_text(rendered(document.read_text("utf-8")), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
