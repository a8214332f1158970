"""Bridges: maps between real spaces by peers, what a search keeps and what a fit costs.

Peers are other tools for the same task, each at its defaults, and scikit-learn's ridge with the
penalties that we try. All are fitted on the same pairs and asked the same queries; ours chooses by
held-out neighbours on the pairs alone. Peers are installed in a folder that is thrown away, their
files pinned by hash. The table goes into build/bridge_peers.json, losses too.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from bench.bridge import Search, _chosen
from bench.statistics import DrawSums, two_term
from fitters.adapter import PENALTIES, Adapter, SpaceMap, kinds_for, space_maps
from tests.perf.engine import Figure, compare, not_measured, one_run
from tests.spaces.rows import real_rows

Rows = np.ndarray
Map = Callable[[Rows], Rows]
Peer = Callable[[Rows, Rows], Map]

#: Old and new space, pairs, and items that are searched.
PAIRS = (
    ("layer 3", "mean", 1_000, 3_000), ("letters", "mean", 1_000, 3_000),
    ("mean", "cls", 1_000, 3_000), ("mean", "letters", 1_000, 3_000),
    ("mean", "cls", 200, 3_000), ("lite0", "lite1", 660, 340),
)  # fmt: skip
QUERIES = 500

LOCK = Path(__file__).with_name("bridge.lock")


def ours(x: Rows, y: Rows, kinds: Any = None) -> Map:
    """Choose a map by held-out neighbours, fit it on all pairs, and return what applies it."""
    rng = np.random.default_rng(0)
    setting = _chosen(x, y, kinds or list(kinds_for(len(x), x.shape[1], y.shape[1])), rng)
    return space_maps(x, y, setting.kind, rng)(setting).apply


def ours_ridge(x: Rows, y: Rows) -> Map:
    """Choose among the ridge maps alone."""
    return ours(x, y, ["ridge"])


def ridge_cv(x: Rows, y: Rows) -> Map:
    """Choose by scikit-learn, left-out squared error, among as many penalties."""
    from sklearn.linear_model import RidgeCV

    unit = float(np.square(x - x.mean(axis=0)).sum() / x.shape[1])
    return RidgeCV(alphas=[penalty * unit for penalty in PENALTIES]).fit(x, y).predict


def peers() -> Mapping[str, Peer]:
    """Return the peers by name; the folder of their code is on the path."""
    from embspec._adapter import DriftAdapter
    from isotrieve.mapping import OrthogonalProcrustesMapping, RidgeMapping
    from vectormigrate.compat import LowRankAffineAdapter, OrthogonalProcrustesAdapter

    return {
        "RidgeCV": ridge_cv,
        "isotrieve ridge": lambda x, y: RidgeMapping().fit(x, y).transform,
        "isotrieve Procrustes": lambda x, y: OrthogonalProcrustesMapping().fit(x, y).transform,
        "vectormigrate affine": lambda x, y: LowRankAffineAdapter().fit(x, y).transform,
        "vectormigrate Procrustes": lambda x, y: OrthogonalProcrustesAdapter().fit(x, y).transform,
        "embspec": lambda x, y: DriftAdapter.fit(x, y).transform,
    }


def measure(every: Mapping[str, Peer], rows: Mapping[str, Rows]) -> Iterator[dict[str, Any]]:
    """Yield a row for each pair of spaces and peer: share of the ten nearest kept, CPU seconds."""
    for old, new, n_pairs, gallery in PAIRS:
        order = np.random.default_rng([0, 5]).permutation(len(rows[old]))
        x, y = (rows[name].astype(np.float64) for name in (old, new))
        fitted, held = order[:n_pairs], order[n_pairs : n_pairs + gallery]
        search, found = Search(y[held], QUERIES), {}
        for name, fit in every.items():
            started = time.process_time()
            try:
                with warnings.catch_warnings(action="ignore"):
                    made = fit(x[fitted], y[fitted])
                seconds = time.process_time() - started
                kept = search.kept(y[held], np.asarray(made(x[held]), np.float64))[2]
                found[name] = DrawSums.of(kept, np.zeros(len(kept)), held[: len(kept)]), seconds
            except Exception as err:  # whatever a peer raises, the others are still measured
                found[name] = f"{type(err).__name__}: {str(err)[:80]}"
        whole = {name: one for name, one in found.items() if not isinstance(one, str)}
        best = max((sums for sums, _ in whole.values()), key=lambda sums: sums.mean)
        for name in every:
            row = {"old": old, "new": new, "pairs": n_pairs, "peer": name}
            if name not in whole:
                yield row | {"failed": found[name]}
                continue
            sums, seconds = whole[name]
            behind = two_term(best - sums)
            yield row | {
                "kept": round(sums.mean, 4), "seconds": round(seconds, 3),
                "behind": round(behind.mean, 4), "se": round(float(behind.variance) ** 0.5, 4),
            }  # fmt: skip


def adapter() -> Figure:
    """Compare an adapter, with bias and rows of length 1, with the bare product of its weight."""
    rows, weight = (
        np.random.default_rng(0).standard_normal((n, 768), dtype=np.float32) for n in (40_000, 768)
    )
    made, out = Adapter(SpaceMap(weight[0], weight), True, rows[:8]), np.empty_like(rows)
    with threadpool_limits(limits=1):
        return compare(
            "bridge.adapter", lambda: made.apply(rows, out),
            lambda: np.matmul(rows, weight, out=out),
            against="the bare product, 40,000 × 768 to 768 columns, CPU s", pairs=PAIRED,
            clock=time.process_time,
        )  # fmt: skip


def figures(out: Path) -> Iterator[Figure]:
    """Yield speed against isotrieve and RidgeCV, and how near the best peer ours is anywhere."""
    yield adapter()
    names = ("bridge.isotrieve", "bridge.ridge_cv", "bridge.kept")
    with tempfile.TemporaryDirectory() as folder:
        command = (
            sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes",
            "--only-binary", ":all:", "--target", folder, "--requirement", str(LOCK),
        )  # fmt: skip
        if subprocess.run(command, check=False).returncode:
            yield from (
                not_measured(name, "not measured: the peers are not there") for name in names
            )
            return
        sys.path.append(folder)
        try:
            yield from _figures(out, names)
        finally:
            sys.path.remove(folder)


def _figures(out: Path, names: tuple[str, ...]) -> Iterator[Figure]:
    rows, every = real_rows(out / "spaces.npz"), peers()
    x, y = (rows[name][:1_000].astype(np.float64) for name in ("layer 3", "mean"))
    for name, peer in zip(names[:2], ("isotrieve ridge", "RidgeCV"), strict=True):
        with threadpool_limits(limits=1), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield compare(
                name, lambda: ours_ridge(x, y), lambda p=peer: every[p](x, y),
                against=f"{peer}, 1,000 pairs, 384 to 384 columns, CPU s", pairs=PAIRED,
                clock=time.process_time,
            )  # fmt: skip
    started = time.process_time()
    table = []
    with threadpool_limits(limits=1):
        for row in measure({"ours": ours, "ours, ridge alone": ours_ridge, **every}, rows):
            table.append(row)
            said = row.get("failed") or (
                f"{100 * row['kept']:5.1f} %, {100 * row['behind']:.1f} ± {100 * row['se']:.1f} "
                f"behind the best, {row['seconds']:.2f} CPU s"
            )
            print(f"  {row['old']} to {row['new']}, {row['pairs']:,}: {row['peer']:<25} {said}",
                  flush=True)  # fmt: skip
    lines = ",\n".join(json.dumps(row) for row in table)
    (out / "bridge_peers.json").write_text(f"[\n{lines}\n]\n", "utf-8")
    own = [row for row in table if row["peer"] == "ours"]
    least = min(row["kept"] / (row["kept"] + row["behind"] - row["se"]) for row in own)
    yield one_run(
        names[2], least, cpu_seconds=time.process_time() - started,
        against="the best peer's share kept less one standard error, the worst of six pairs",
    )  # fmt: skip


#: Pairs of timings; a figure is cheap enough for the least.
PAIRED = 9
