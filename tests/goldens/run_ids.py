"""The ids of a handful of runs: a result is found by the id of its run, for ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench import Run
from bench.options import TASKS
from bench.runs import PROTOCOL_VERSION

_BASE: dict[str, Any] = {
    "suite": "golden", "task": "zero_shot", "eval": "all-names", "method": "ridge",
    "source": "head", "n_pairs": 0, "seed": 0, "image_set": "a/image/x", "image_revision": "1" * 64,
    "name_set": "a/class_name/y", "name_revision": "2" * 64,
    "head_set": "b/head_weight/x", "head_revision": "3" * 64,
    "head_name_set": "b/class_name/y", "head_name_revision": "4" * 64,
    # Of the sources, which change with every commit.
    "code": "0123456789abcdef",
}  # fmt: skip

_CAPTIONS = {"caption_set": "a/caption/y", "caption_revision": "5" * 64}

_CHANGES: dict[str, dict[str, Any]] = {
    "zero-shot of a head": {},
    "held out, with real pairs": {"eval": "held-out", "n_pairs": 64, "seed": 3, **_CAPTIONS},
    "all pairs alone": {"eval": "held-out", "n_pairs": "all", "source": "none", **_CAPTIONS},
    "given settings": {"penalty": 0.1, "mix": 2.0, "eval": "held-out", "n_pairs": 8, **_CAPTIONS},
    "a control and its draw": {"source": "shuffled", "control_draw": 7},
    "prompts of every side": {
        "variants": ("name", "lemmas"), "templates": ("none", "photo"), "head_variants": ("name",),
        "head_templates": ("none",), "pair_templates": ("photo",), "pair_variants": ("name",),
        "eval": "in-class", "pairs_per_class": 2,
    },
    "a training": {
        "method": "paper-mlp", "epochs": 5, "sequential": True, "eval": "held-out", "n_pairs": 8,
        **_CAPTIONS,
    },
    "an image and a text tower of one model": {
        "method": "identity", "source": "none", "head_set": "", "head_revision": "",
        "head_name_set": "", "head_name_revision": "",
    },
    "a limit and locales": {
        "limit": 100, "locales": ("en", "de"), "relevance": "class_id", "eval": "split",
        "train_splits": ("train", "val"), "train_fraction": 0.5,
    },
}  # fmt: skip

_OPTIONS: dict[str, dict[str, Any]] = {
    "zero_shot": {"prompts": "max", "scorer": "csls"},
    "generalised": {"prompts": "each"},
    "retrieval": {"captions": 1},
    "few_shot": {"shots": 4, "learner": "clap", "prototypes": "head"},
    "neighbours": {"of": "pairs", "k": (2, 5)},
    "modality_gap": {"between": "images-texts"},
}


def run_ids(_: Path) -> dict[str, Any]:
    """Return the version of the protocol, and case -> id of the run and of its fit."""
    runs = {name: Run.of(**{**_BASE, **changes}) for name, changes in _CHANGES.items()}
    for task, make in ((name, task.options) for name, task in TASKS.items()):
        changes = {"task": task, "eval": "in-class" if task == "few_shot" else "all-names"}
        if task != _BASE["task"]:
            runs[f"task {task}"] = Run.of(**{**_BASE, **changes})
        if task in _OPTIONS:
            options = make(**_OPTIONS[task])
            runs[f"task {task}, with options"] = Run.of(**{**_BASE, **changes, "options": options})
    ids = {name: [run.run_id, run.fit_key] for name, run in runs.items()}
    return {"protocol version": PROTOCOL_VERSION, **ids}
