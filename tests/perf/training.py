"""Training: the loop beside the bare one, bfloat16 beside float32, the paper's head, a probe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.perf.engine import Figure, compare

PAIRS = 6
"""Fewest that give an interval."""


def figures(_: Path) -> Iterator[Figure]:
    """Yield the lines of the group ``train``."""
    yield _rows()
    yield _bf16()
    yield _paper()
    yield _probe()


def _drawn(n: int, p: int, q: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((n, d), dtype=np.float32) for d in (p, q))
    return tuple(rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, y))


def _rows() -> Figure:
    """Hold the loop with its order, batches, own dropout and schedule to the bare one."""
    import torch

    from fitters import MLPAligner, Pairs

    n, size, epochs = 4096, 512, 4
    x, y = _drawn(n, 768, 768)
    source = Pairs(x, y)
    aligner = MLPAligner("paper", width=1024, epochs=epochs, batch_size=size, precision="float32")
    target, texts = torch.from_numpy(x), torch.from_numpy(y)

    def bare() -> None:
        head = _plain_head(768, 1024, 768)
        optimiser = torch.optim.Adam(head.parameters(), lr=1e-3, fused=True)
        for _ in range(epochs):
            for start in range(0, n, size):
                batch = slice(start, start + size)
                optimiser.zero_grad()
                cosine = torch.cosine_similarity(head(texts[batch]), target[batch])
                (1 - cosine).mean().backward()
                optimiser.step()

    return compare(
        "train.rows",
        lambda: aligner.fit_rows(None, source),
        bare,
        against="forward, backward, fused Adam on resident slices; 768-1024-768, batch 512",
        pairs=PAIRS,
    )


def _bf16() -> Figure:
    from featstore.parallel import gains_from_bf16
    from fitters import MLPAligner, Pairs

    x, y = _drawn(1024, 768, 768)
    source = Pairs(x, y)

    def side(precision: str) -> Callable[[], Any]:
        made = MLPAligner("paper", width=1024, epochs=2, batch_size=512, precision=precision)
        return lambda: made.fit_rows(None, source)

    found = "a unit for it" if gains_from_bf16() else "no unit for it here: float32 is the default"
    against = f"the same in float32 ({found})"
    return compare("train.bf16", side("bf16"), side("float32"), against=against, pairs=PAIRS)


def _paper() -> Figure:
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    from fitters import Pairs, preset

    n, epochs = 1000, 2
    x, y = _drawn(n, 1280, 384)
    source = Pairs(x, y)
    aligner = preset("paper-mlp", epochs=epochs)

    def plain() -> None:
        head = _plain_head(384, 4 * 1280, 1280)
        optimiser = torch.optim.Adam(head.parameters(), lr=5e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=epochs)
        criterion = torch.nn.CosineEmbeddingLoss()
        pairs = TensorDataset(torch.from_numpy(y), torch.from_numpy(x))
        for _ in range(epochs):
            for texts, rows in DataLoader(pairs, batch_size=512, shuffle=True):
                if torch.rand(1).item() < 0.3:
                    texts = texts * (torch.rand_like(texts) > 0.5)
                loss = criterion(head(texts), rows, torch.ones(len(rows)))
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                loss.item()
            schedule.step()

    return compare(
        "train.paper_mlp",
        lambda: aligner.fit_rows(source, None),
        plain,
        against="a float32 DataLoader loop, the same updates: 1,000 × 1280 from 384",
        pairs=PAIRS,
    )


def _probe() -> Figure:
    """Hold all penalties of a ridge, and the choice among them, to one fit of one C."""
    from sklearn.linear_model import LogisticRegression

    from fitters.few_shot.learner import Shots
    from fitters.few_shot.probes import RidgeProbe

    classes, width = 1000, 384
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((classes, width))

    def drawn(shots: int) -> tuple[np.ndarray, np.ndarray]:
        rows = np.repeat(centres, shots, axis=0)
        rows += 3.0 * rng.standard_normal(rows.shape)  # both find some 95 of 100
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows.astype(np.float32), np.repeat(np.arange(classes), shots)

    (x, labels), validation = drawn(16), drawn(4)
    given = Shots(x, labels, classes, None, *validation)
    probe = RidgeProbe(penalties=tuple(np.geomspace(1e-3, 1e3, 20)))
    # CLIP's own C, 0.316 for features about ten long. At scikit-learn's tolerance it takes no step.
    peer = LogisticRegression(C=31.6, tol=1e-6, max_iter=1000)
    return compare(
        "train.ridge_probe/sklearn",
        lambda: probe.fit(given),
        lambda: peer.fit(x, labels),
        against="LogisticRegression, one C, which chooses nothing; 16,000 × 384, 1,000 classes",
        pairs=PAIRS,
    )


def _plain_head(k: int, h: int, d: int) -> Any:
    from torch import nn

    return nn.Sequential(
        nn.Linear(k, h), nn.GELU(), nn.Dropout(0.5), nn.Linear(h, d), nn.LayerNorm(d)
    )
