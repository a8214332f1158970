"""Alignments of every method as they are saved, and what they project three rows to.

The folders below ``aligners/`` are files of users: each version must read those of all before it.
`save_all` adds methods that have none and leaves the others alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.sparse import issparse

from fitters import METHODS, PRESETS, Alignment, FitConfig, Pairs, fit, load
from fitters.settings import TrainingOptions
from tests.goldens.files import HERE, rounded
from tests.shorthand import save_alignment

FOLDER = HERE / "aligners"
P, Q, CLASSES, IMAGES = 6, 5, 14, 16

#: Sizes of the trained presets that fit a file of a few kilobytes.
SMALL = {"n_components": 4, "width": 4}


def image_rows(n: int) -> np.ndarray:
    """Return n raw image rows: integers that look like no other's."""
    return _integers(n, P, 1)


def text_rows(n: int) -> np.ndarray:
    """Return n raw text rows."""
    return _integers(n, Q, 2)


def _integers(n: int, dim: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng([20_261_126, seed])
    return rng.integers(-9, 10, (n, dim)).astype(np.float32) + 0.5


def projections(alignment: Alignment) -> dict[str, Any]:
    """Return what an alignment makes of three rows a side, ten digits each."""
    found = {}
    for side, rows in (("x", image_rows(3)), ("y", text_rows(3))):
        made = getattr(alignment, f"project_{side}")(rows)
        dense = made.toarray() if issparse(made) else np.asarray(made)
        found[side] = [[rounded(float(value)) for value in row] for row in dense]
    return found


def saved() -> dict[str, Any]:
    """Return name -> projections of every alignment that lies below `FOLDER`."""
    return {path.name: projections(load(path)) for path in sorted(FOLDER.iterdir())}


def save_all() -> list[str]:
    """Fit and save what is missing, and return its names."""
    added = []
    for name, alignment in _alignments():
        save_alignment(FOLDER / name, alignment)
        added.append(name)
    return added


def _alignments() -> Iterator[tuple[str, Alignment]]:
    """Yield the missing alignments by name."""
    texts, captions = text_rows(CLASSES), text_rows(CLASSES + IMAGES)[CLASSES:]
    plant = np.random.default_rng(3).integers(-3, 4, (Q, P))
    head = Pairs(
        (texts @ plant + image_rows(CLASSES)).astype(np.float32), texts, np.arange(CLASSES)
    )
    images = (captions @ plant + _integers(IMAGES, P, 4)).astype(np.float32)
    real = Pairs(images, captions, np.arange(IMAGES))
    bias = np.arange(CLASSES, dtype=np.float32) / 4
    cases: dict[str, dict[str, Any]] = {name: {"method": name} for name in METHODS}
    cases |= {
        "ridge-not-centred": {"method": "ridge", "centre": False},
        "procrustes-rank": {"method": "procrustes", "rank": 3},
    }
    for name, case in cases.items():
        if (FOLDER / name).exists():
            continue
        method = case["method"]
        given: dict[str, Any] = {"prototypes": head, "real": real}
        if method == "text-to-concept":
            given = {"real": real}
        if method == "conse":
            given = {"prototypes": head}
        fixed = {"penalty": 0.1, "mix": 2.0, "gamma": 1.0, "n_components": 3}
        fixed = {name: fixed[name] for name in METHODS[method].options if name in fixed}
        trained = METHODS[method].fitted_on == "training"
        training = TrainingOptions(epochs=2) if trained else TrainingOptions()
        config = FitConfig(**case, **fixed, training=training)
        with _small_presets():
            data = METHODS[method].sources(config, **given, bias=bias)
            yield name, fit(config, data, rng=np.random.default_rng(5))


@contextmanager
def _small_presets() -> Iterator[None]:
    """Let presets have few columns for as long as this lasts."""
    before = dict(PRESETS)
    try:
        for name, preset in before.items():
            fewer = {key: few for key, few in SMALL.items() if key in preset.settings}
            fewer |= {"width": SMALL["width"]} if name == "icis" else {}
            PRESETS[name] = replace(preset, settings=preset.settings | fewer)
        yield
    finally:
        PRESETS.update(before)
