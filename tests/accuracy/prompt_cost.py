"""Processor seconds of CoOp and CoCoOp by number of classes, on one thread.

The text tower is as large as that of ViT-B/32: open_clip's with random weights, which cost
what others do.

    python -m tests.accuracy.prompt_cost
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import open_clip
import torch

from featstore.encoders.open_clip import OpenClipPair, OpenClipPromptTower, OpenClipTextEncoder
from fitters.few_shot.learner import Shots
from fitters.few_shot.prompt_learning import CoCoOp, CoOp, Descent

MODEL = "ViT-B-32"
CLASSES = (10, 50, 100)
SHOTS = 16
BATCH = 32


def main() -> None:
    """Print one line a number of classes."""
    model = open_clip.create_model(MODEL, load_weights=False).eval()
    pair = OpenClipPair(f"oc:{MODEL}", model, open_clip.get_model_config(MODEL), MODEL, {})
    tower = OpenClipPromptTower(OpenClipTextEncoder(pair))
    torch.set_num_threads(1)
    print(f"{SHOTS} shots a class; processor time of one thread")
    for c in CLASSES:
        names = open_clip.IMAGENET_CLASSNAMES[:c]
        batch, single = _shots(BATCH, c, tower.dim), _shots(1, c, tower.dim)
        step, steps = _a_step(CoOp, tower, names, batch), 200 * (SHOTS * c // BATCH)
        one, ones = _a_step(CoCoOp, tower, names, single), 10 * SHOTS * c
        classifier = CoCoOp(tower, names, descent=Descent(epochs=1)).fit(single)
        start = time.process_time()
        classifier.scores(batch.x[:10])
        scored = (time.process_time() - start) / 10
        print(
            f"{c} classes: CoOp {step:.3f} s a step, {steps:,} steps in {steps * step / 60:.1f} "
            f"min; CoCoOp {one:.3f} s a step, {ones:,} steps in {ones * one / 60:.1f} min, "
            f"{scored:.3f} s an image scored"
        )


def _shots(n: int, c: int, dim: int) -> Shots:
    """Return n random rows of c classes; what they are does not change what they cost."""
    rows = np.random.default_rng(0).normal(size=(n + c, dim))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return Shots(rows[:n], np.arange(n, dtype=np.int64) % c, c, prototypes=rows[n:])


def _a_step(
    learner: type[CoOp | CoCoOp], tower: OpenClipPromptTower, names: Sequence[str], shots: Shots
) -> float:
    """Return the seconds of one step with all shots as the batch: three more than one."""
    seconds = []
    for epochs in (1, 4):
        descent = Descent(epochs=epochs, batch_size=len(shots.labels))
        start = time.process_time()
        learner(tower, names, descent=descent).fit(shots)
        seconds.append(time.process_time() - start)
    return (seconds[1] - seconds[0]) / 3


if __name__ == "__main__":
    main()
