"""The settings that every choosing method picks: of heads, controls, real pairs and mixtures.

Only choices with a clear winner are kept: where the best two points of a grid score alike, another
processor may take the other one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fitters import CONTROLS, METHODS, Pairs
from fitters.alignment import select
from tests.goldens.world import world_pairs, write_world

#: What a choice may set.
SETTINGS = ("penalty", "mix", "gamma", "n_components", "top_k", "power", "first_share")

#: By how much the best score must be above the second for a choice to be kept.
CLEAR = 1e-5

#: Choices that are made in another way than by default, method by method.
OTHERWISE: dict[str, list[dict[str, Any]]] = {
    "ridge": [
        {"criterion": "rank"}, {"criterion": "error"}, {"validation": "squared"},
        {"penalty": 0.5},
        {"mix": 0.5}, {"n_folds": 3},
    ],
    "ridge-x2y": [{"criterion": "rank"}, {"criterion": "error"}],
    "kernel-ridge": [

        {"validation": "cosine"}, {"gamma": 0.5},
        {"penalty": 0.1}, {"criterion": "rank"},
    ],
    "cca": [{"n_components": 6}, {"n_components": None}],
    "csa": [{"penalty": 0.3}],
    "asif": [{"top_k": 8}],
}  # fmt: skip


def chosen_settings(folder: Path, skipped: list[str] | None = None) -> dict[str, dict[str, Any]]:
    """Return case -> what was chosen; cases without a clear winner are put into `skipped`."""
    write_world(folder)
    head, real, _ = world_pairs(folder)
    found: dict[str, dict[str, Any]] = {}
    for name, method, prototypes, some, options in _cases(head, real):
        choice = select(
            method, prototypes=prototypes, real=some, rng=np.random.default_rng(3), **options
        ).facts
        if "scores" not in choice:
            continue
        if not all(_is_clear(part) for part in (choice, *_parts(choice))):
            if skipped is not None:
                skipped.append(name)
            continue
        found[name] = {key: choice[key] for key in SETTINGS if key in choice}
        found[name]["edges"] = list(choice["edges"])
    return found


def _cases(
    head: Pairs, real: Pairs
) -> Iterator[tuple[str, str, Pairs | None, Pairs | None, dict[str, Any]]]:
    few = real.take(np.arange(0, real.n, 3))
    sources: dict[str, Pairs | None] = {"head": head, "none": None}
    for control in ("random", "random-cov", "shuffled"):
        sources[control] = CONTROLS[control](head, np.random.default_rng(1))
    for method, spec in METHODS.items():
        if not spec.tunes:
            continue
        # Kernels and anchors take seconds on all pairs.
        quick = spec.fitted_on == "moments"
        for source, prototypes in sources.items():
            for pairs, some in (("0", None), ("few", few), ("all", real)):
                if (source, pairs) == ("none", "0") or (pairs == "all" and not quick):
                    continue
                if (prototypes is None or some is None) and set(spec.options) <= {"mix"}:
                    continue
                options: dict[str, Any] = {}
                if "gamma" in spec.options and source in CONTROLS:
                    # As bench does: a control chooses on the grid that its head explored. On one
                    # of its own, kernels get so narrow that rounding alone decides.
                    rng = np.random.default_rng(3)
                    options["grid"] = select(method, prototypes=head, real=some, rng=rng).axes
                yield f"{method}, {source}, {pairs}", method, prototypes, some, options
        for other in OTHERWISE.get(method, []):
            said = ", ".join(f"{key}={value}" for key, value in other.items())
            for pairs, prototypes, some in (("0", head, None), ("few", head, few)):
                if pairs == "0" and {"validation", "mix", "n_folds"} & set(other):
                    continue
                if pairs == "few" and other.get("criterion") in ("cosine", "rank"):
                    continue
                yield f"{method}, head, {pairs}, {said}", method, prototypes, some, other


def _parts(choice: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the choices that a choice is made of: that of kernel ridge on its prototypes."""
    part = choice.get("of_prototypes")
    return [part] if isinstance(part, dict) and "scores" in part else []


def _is_clear(choice: dict[str, Any]) -> bool:
    scores = np.ravel(np.array(choice.get("component_scores", choice["scores"]), dtype=float))
    best = np.sort(scores[np.isfinite(scores)])[::-1]
    return bool(len(best) < 2 or best[0] - best[1] > CLEAR)
