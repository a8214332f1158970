"""Whole runs recomputed from the store with scikit-learn and scipy: no code of ours but the store.

Only the draws (split, subset, control) are taken over, since a generator is no definition.
"""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import Ridge
from sklearn.metrics import average_precision_score, label_ranking_average_precision_score
from sklearn.preprocessing import normalize

import headstock as hs
from bench.corpus import held_out_split, read_corpus
from featstore.testing import item_table, write_set
from headstock.__main__ import cli
from tests.bench.results_by_hand import has
from tests.shorthand import execute

PENALTY, MIX = 0.3, 2.0


def rows_of(store, key):
    view = store.view(key)
    return view.numpy().astype(np.float64), view.items


def class_texts(store, key):
    """Mean of the unit prompts of each class, in order of first appearance."""
    rows, items = rows_of(store, key)
    classes = list(dict.fromkeys(items["class_id"]))
    unit = normalize(rows)
    own = items["class_id"].to_numpy()
    return normalize(np.stack([unit[own == c].mean(axis=0) for c in classes])), np.array(classes)


def centred(rows, mean):
    return normalize(normalize(rows) - mean)


def mean_of_units(rows):
    return normalize(rows).mean(axis=0)


class ByHand:
    """The protocol of methods.md for one run, written out."""

    def __init__(self, store, run):
        self.images, items = rows_of(store, "smoke/image/synthetic")
        self.image_ids = items["item_id"].to_numpy()
        self.classes = items["class_id"].to_numpy()
        self.captions, _ = rows_of(store, "smoke/caption/synthetic")
        self.names, self.name_classes = class_texts(store, "smoke/class_name/synthetic")
        head, _ = rows_of(store, "smokehead/head_weight/synthetic")
        texts, _ = class_texts(store, "smokehead/class_name/synthetic")
        if run.protocol.eval == "held-out":
            split = held_out_split(self.classes.astype(str), seed=run.seed)
            self.test, train = split.test, split.train
            image_mean = mean_of_units(self.images[train])
        else:
            self.test, train = np.arange(len(self.images)), np.empty(0, dtype=int)
            image_mean = mean_of_units(self.images)
        chosen = train if run.protocol.n_pairs == "all" else train[: run.protocol.n_pairs]
        text_mean = mean_of_units(texts if run.protocol.source == "head" else self.captions[chosen])
        x, y, weight = [], [], []
        if run.protocol.source == "head":
            x.append(centred(head, mean_of_units(head)))
            y.append(centred(texts, text_mean))
            weight.append(np.full(len(head), MIX if len(chosen) else 1.0))
        if len(chosen):
            x.append(centred(self.images[chosen], image_mean))
            y.append(centred(self.captions[chosen], text_mean))
            weight.append(np.ones(len(chosen)))
        x, y, weight = np.concatenate(x), np.concatenate(y), np.concatenate(weight)
        self.project_x = lambda rows: centred(rows, image_mean)
        if run.fit.method == "ridge":
            gram = np.trace((y * weight[:, None]).T @ y) / y.shape[1]
            model = Ridge(alpha=PENALTY * gram, fit_intercept=False).fit(y, x, sample_weight=weight)
            self.project_y = lambda rows: normalize(model.predict(centred(rows, text_mean)))
        else:
            # Wider space first: the map takes images into the space of the texts.
            u, _, vt = np.linalg.svd((x * weight[:, None]).T @ y, full_matrices=False)
            self.project_x = lambda rows: normalize(centred(rows, image_mean) @ (u @ vt))
            self.project_y = lambda rows: centred(rows, text_mean)

    def zero_shot(self):
        here = np.isin(self.name_classes, self.classes[self.test])
        scores = self.project_x(self.images[self.test]) @ self.project_y(self.names[here]).T
        return scores, (self.classes[self.test][:, None] == self.name_classes[here][None])

    def retrieval(self):
        scores = self.project_x(self.images[self.test]) @ self.project_y(self.captions[self.test]).T
        own = self.classes[self.test]
        return scores, own[:, None] == own[None]


def best_ranks(scores, relevant):
    best = np.where(relevant, scores, -np.inf).max(axis=1, keepdims=True)
    return 1 + ((scores >= best) & ~relevant).sum(axis=1)


def find(runs, **wanted):
    return next(run for run in runs if has(run, **wanted))


CELLS = [
    ("ridge", "head", 0, "all-names"),
    ("procrustes", "head", 0, "all-names"),
    ("ridge", "head", 0, "held-out"),
    ("ridge", "head", 8, "held-out"),
    ("ridge", "none", "all", "held-out"),
    ("procrustes", "head", "all", "held-out"),
]


@pytest.mark.parametrize(("method", "source", "n_pairs", "evaluation"), CELLS)
def test_zero_shot_runs_equal_the_recomputation(store, runs, method, source, n_pairs, evaluation):
    run = find(runs, method=method, source=source, n_pairs=n_pairs, eval=evaluation, seed=0)
    given = {"penalty": PENALTY} if method == "ridge" else {}
    run = run.changed(task="zero_shot", mix=MIX, **given)
    ((_, rows, ranks),) = execute([run], read_corpus(store, run))
    hand = ByHand(store, run)
    scores, relevant = hand.zero_shot()
    expected = best_ranks(scores, relevant)
    assert ranks["query_id"].to_list() == hand.image_ids[hand.test].tolist()
    np.testing.assert_array_equal(ranks["rank"].to_numpy(), expected)
    values = dict(rows.select("metric", "value").iter_rows())
    assert values["top-1"] == pytest.approx((expected == 1).mean())
    assert values["MRR"] == pytest.approx(label_ranking_average_precision_score(relevant, scores))
    assert set(rows["gallery"]) == {scores.shape[1]}


@pytest.mark.parametrize(("source", "n_pairs"), [("head", 8), ("none", "all")])
def test_retrieval_runs_equal_the_recomputation(store, runs, source, n_pairs):
    run = find(runs, method="ridge", source=source, n_pairs=n_pairs, task="retrieval", seed=1)
    run = run.changed(penalty=PENALTY, mix=MIX)
    ((_, rows, _),) = execute([run], read_corpus(store, run))
    scores, relevant = ByHand(store, run).retrieval()
    for direction, s, r in (
        ("image→caption", scores, relevant),
        ("caption→image", scores.T, relevant.T),
    ):
        values = {
            metric: value
            for where, metric, value in rows.select("direction", "metric", "value").iter_rows()
            if where == direction
        }
        ranks = best_ranks(s, r)
        assert values["R@5"] == pytest.approx((ranks <= 5).mean())
        assert values["median_rank"] == np.median(ranks)
        precisions = [average_precision_score(a, b) for a, b in zip(r, s, strict=True)]
        # Scores are float32 in the run and float64 here.
        assert values["mAP"] == pytest.approx(np.mean(precisions), rel=1e-6)


def test_conse_equals_the_recomputation(store, runs):
    run = find(runs, method="conse", eval="all-names")
    ((_, rows, ranks),) = execute([run], read_corpus(store, run))
    images, items = rows_of(store, "smoke/image/synthetic")
    head, _ = rows_of(store, "smokehead/head_weight/synthetic")
    texts, _ = class_texts(store, "smokehead/class_name/synthetic")
    names, classes = class_texts(store, "smoke/class_name/synthetic")
    logits = images @ head.T
    believed = np.where(logits >= np.sort(logits, axis=1)[:, [-10]], logits, -np.inf)
    # Texts are centred by the class texts' mean on both sides, as for every other method.
    mean = mean_of_units(texts)
    mixed = softmax(believed, axis=1) @ centred(texts, mean)
    relevant = items["class_id"].to_numpy()[:, None] == classes[None]
    expected = best_ranks(normalize(mixed) @ centred(names, mean).T, relevant)
    np.testing.assert_array_equal(ranks["rank"].to_numpy(), expected)
    assert rows.filter(metric="top-1")["value"].item() == pytest.approx((expected == 1).mean())


BY_HAND, PRINTED = re.search(
    r"```python\n(import numpy.*?)```\n\n```text\n(.*?)```",
    (Path(__file__).parents[2] / "docs" / "reproduce.md").read_text("utf-8"),
    re.DOTALL,
).groups()


def write_prompts(root, dataset, texts, variants, rng):
    """Write noisy prompts of each class, in this order; return the classes."""
    labels = [f"{dataset}/{n}" for n in range(len(texts))]
    prompts = [(label, *kind) for label in labels for kind in variants]
    columns = dict(
        zip(("class_id", "variant", "template_id"), zip(*prompts, strict=True), strict=True)
    )
    ids = ["#".join(prompt) for prompt in prompts]
    rows = np.repeat(texts, len(variants), axis=0) + 0.6 * rng.standard_normal((len(ids), 12))
    items = item_table(ids, "class_name", **columns, text=ids)
    write_set(root, rows, items, dataset=dataset, kind="class_name", encoder="st:toy")
    return labels


@pytest.fixture
def planted(tmp_path):
    """Return a folder whose store has the demo's sets, with a planted map."""
    root, rng = tmp_path / "build" / "demo" / "store", np.random.default_rng(0)
    root.parent.mkdir(parents=True)
    texts, to_images = rng.standard_normal((120, 12)), rng.standard_normal((12, 20))
    kinds = [("name", "none"), ("name", "photo"), ("lemmas", "none"), ("definition", "none")]
    labels = write_prompts(root, "stamps", texts[:30], kinds[:2], rng)
    of_head = write_prompts(root, "imagenet1k", texts[30:], kinds, rng)
    named = np.arange(150) % 30
    images = texts[named] @ to_images + 2 + 3 * rng.standard_normal((150, 20))
    items = item_table([f"i{n}" for n in range(150)], class_id=[labels[n] for n in named])
    write_set(root, images, items, dataset="stamps")
    items = item_table(of_head, "head_weight", class_id=of_head)
    write_set(root, texts[30:] @ to_images, items, dataset="imagenet1k", kind="head_weight")
    return tmp_path


def test_the_demo_by_hand_is_what_an_evaluation_says_and_its_card_has_the_formula(
    planted, monkeypatch, capsys
):
    """And a plain mean of the texts, which one would guess, is not."""
    monkeypatch.chdir(planted)
    exec(BY_HAND, {})
    by_hand = capsys.readouterr().out.splitlines()
    ridge = hs.types.FitConfig("ridge", penalty=0.3)
    kernel_ridge = hs.types.FitConfig("kernel-ridge", penalty=0.01, gamma=4.0)
    results = hs.evaluate(
        ["procrustes", ridge, kernel_ridge],
        hs.open_store("build/demo/store"),
        tasks="zero_shot",
        controls=False,
        out="out",
    )
    top_1 = dict(results.table(["top-1"]).select("method", "top-1").iter_rows())
    expected = [f"{m} {100 * top_1[m]:.2f} %" for m in ("procrustes", "ridge", "kernel-ridge")]
    assert by_hand == expected
    guess = BY_HAND.replace("unit(prompts_of(c, v).mean(axis=0))", "prompts_of(c, v).sum(axis=0)")
    assert guess != BY_HAND
    capsys.readouterr()
    exec(guess, {})
    assert capsys.readouterr().out.splitlines() != expected
    cli.main(["show", "out", "ridge/head/0"], standalone_mode=False)
    card = " ".join(capsys.readouterr().out.split())
    assert "text of a name unit(mean of name prompts)" in card
    assert "text of a head's row unit(unit(mean of name prompts) + definition)" in card


DEMO = os.environ.get("HEADSTOCK_DEMO")


@pytest.mark.parametrize("demo", [DEMO] if DEMO else [])
def test_the_demo_by_hand_has_the_numbers_of_the_documents(demo, tmp_path, monkeypatch, capsys):
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "demo").symlink_to(Path(demo).resolve())
    monkeypatch.chdir(tmp_path)
    exec(BY_HAND, {})
    assert capsys.readouterr().out == PRINTED
