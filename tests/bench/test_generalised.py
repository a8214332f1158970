"""Generalised zero-shot: by hand, and ICIS on a real classifier of scikit-learn's digits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from bench import read_results
from bench.corpus import Items, read_corpus
from bench.errors import ProtocolError
from bench.execution import execute
from bench.options import Generalised, ZeroShot
from bench.suites.single import task_runs
from bench.tasks.zero_shot import score_generalised, score_zero_shot
from featstore import open_store
from featstore.testing import item_table, write_set
from fitters import PRESETS
from headstock.__main__ import cli

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
UNSEEN = (3, 8)


class Identity:
    def project_x(self, rows):
        return rows

    project_y = project_x


def items(classes, rows):
    classes = np.array(classes)
    return Items(classes, classes, np.asarray(rows, dtype=np.float32))


NAMES = items(["a", "b", "c"], np.eye(3))


def test_by_hand():
    # Seen: a 2 of 3, b 1 of 1; unseen: c 1 of 4.
    found = [0, 0, 1, 1, 2, 0, 0, 1]
    images = items(list("aaabcccc"), np.eye(3)[found])
    seen = np.array([True, True, False])
    among_all, alone = score_generalised(Identity(), images, NAMES, seen)
    assert among_all.direction == "image→name"
    assert among_all.values["seen"] == pytest.approx((2 / 3 + 1) / 2)
    assert among_all.values["unseen"] == 0.25
    assert among_all.values["harmonic"] == pytest.approx(2 * (5 / 6) * 0.25 / (5 / 6 + 0.25))
    # Alone among unseen names nobody can be taken for a or b: one name, and always right.
    assert alone.direction == "unseen image→unseen name"
    assert (alone.n, alone.gallery) == (4, 1)
    for flags, kind in (([True] * 3, "seen"), ([False] * 3, "unseen")):
        with pytest.raises(ProtocolError, match=f"All 3 classes of the images are {kind}"):
            score_generalised(Identity(), images, NAMES, np.array(flags))
    with pytest.raises(ProtocolError, match="by the names of a head"):
        score_generalised(Identity(), images, NAMES, None)


def test_it_is_zero_shot_with_both_kinds_told_apart(rng):
    names = items([f"{i}" for i in range(6)], rng.normal(size=(6, 4)))
    images = items([f"{i % 5}" for i in range(60)], rng.normal(size=(60, 4)))
    seen = np.array([True, False, True, False, False, True])
    options = Generalised(scorer="csls")
    for mine, which in zip(
        score_generalised(Identity(), images, names, seen, options=options),
        ("all", "unseen"),
        strict=True,
    ):
        (theirs,) = score_zero_shot(
            Identity(), images, names, seen=seen, options=ZeroShot(classes=which, scorer="csls")
        )
        assert mine.values == theirs.values
        assert mine.chance == theirs.chance
        np.testing.assert_array_equal(mine.ranks.rank, theirs.ranks.rank)


PIXELS = {"name": "pixels"}


@pytest.fixture(scope="module")
def digits_store(tmp_path_factory):
    """Digits, a real classifier of eight of them, and texts that are no row of it.

    Texts are class means of half the pixels: what describes a class without being its row.
    """
    root = tmp_path_factory.mktemp("digits")
    digits = load_digits()
    pixels = digits.data / 16
    pixels = pixels - pixels.mean(axis=0)
    numbers = np.arange(10)
    texts = np.array([pixels[digits.target == n][:40].mean(axis=0)[::2] for n in numbers])
    seen = np.setdiff1d(numbers, UNSEEN)
    known = np.isin(digits.target, seen)
    head = LogisticRegression(C=0.1, max_iter=500).fit(pixels[known], digits.target[known])
    ids = [f"digits/{n}" for n in numbers]
    shown = item_table(
        [f"digits/{i:04d}" for i in range(len(pixels))], class_id=[ids[n] for n in digits.target]
    )
    write_set(root, pixels, shown, dataset="digits", encoder="test:pixels", space=PIXELS)
    for dataset, own in (("digits", numbers), ("known", seen)):
        classes = [f"{dataset}/{n}" for n in own]
        named = item_table(
            [f"{c}#none" for c in classes], "class_name", class_id=classes,
            variant=["name"] * len(own), template_id=["none"] * len(own),
            text=[WORDS[n] for n in own],
        )  # fmt: skip
        write_set(
            root, texts[own], named, dataset=dataset, kind="class_name", encoder="test:half",
            space={"name": "half"},
        )  # fmt: skip
    rows = [f"known/{n}" for n in seen]
    write_set(
        root, head.coef_, item_table([f"{c}#head" for c in rows], "head_weight", class_id=rows),
        dataset="known", kind="head_weight", encoder="test:pixels", space=PIXELS,
        bias=head.intercept_.astype(np.float32),
    )  # fmt: skip
    return root


SETS = {
    "images": "digits/image/pixels",
    "names": "digits/class_name/half",
    "head": "known/head_weight/pixels",
    "head_names": "known/class_name/half",
    "templates": ("none",),
    "variants": ("name",),
}


def test_one_command_trains_icis_and_prints_the_harmonic_mean(digits_store, tmp_path, monkeypatch):
    short = replace(
        PRESETS["icis"],
        settings={"width": 64, "learning_rate": 1e-3, "batch_size": 4},
        epochs=lambda _: 60,
    )
    monkeypatch.setitem(PRESETS, "icis", short)
    words = ["eval", "task", "generalised", "--method", "icis", "--source", "head"]
    for name, value in SETS.items():
        text = value if isinstance(value, str) else ",".join(value)
        words += [f"--{name.replace('_', '-')}", text]
    done = CliRunner().invoke(cli, [*words, "--store", str(digits_store), "-o", str(tmp_path)])
    assert done.exit_code == 0, done.output
    rows = read_results(tmp_path)
    assert set(rows["task"]) == {"generalised"}
    values = {(d, m): v for d, m, v in rows.select("direction", "metric", "value").iter_rows()}
    seen, unseen, harmonic = (values["image→name", name] for name in ("seen", "unseen", "harmonic"))
    assert seen > 0.6
    assert harmonic == pytest.approx(2 * seen * unseen / (seen + unseen))
    alone = values["unseen image→unseen name", "balanced-accuracy"]
    assert alone >= unseen  # names were taken away that were not the images' own
    table = CliRunner().invoke(cli, ["eval", "table", str(tmp_path), "--format", "csv"])
    assert table.exit_code == 0, table.output
    headings, *lines = table.output.split("\n\n")[0].splitlines()
    found = pl.read_csv("\n".join([headings, *lines]).encode())
    icis = found.filter((pl.col("method") == "icis") & (pl.col("direction") == "image→name"))
    assert icis["harmonic"].to_list() == [pytest.approx(harmonic)]
    chance = found.filter((pl.col("method") == "chance") & (pl.col("direction") == "image→name"))
    assert chance["harmonic"].to_list() == [pytest.approx(0.1)]
    shown = CliRunner().invoke(cli, ["eval", "table", str(tmp_path), "--all"]).output
    assert f"{100 * harmonic:.1f}" in shown
    assert "harmonic %" in shown


def test_seen_classes_are_those_of_the_head(digits_store):
    store = open_store(digits_store)
    (run,) = task_runs(store, "generalised", **SETS, method="conse", source="head")
    corpus = read_corpus(store, run)
    assert [i for i, flag in enumerate(corpus.seen) if not flag] == list(UNSEEN)
    ((_, rows, ranks),) = execute([run], corpus)
    counts = dict(rows.select("direction", "n_queries").unique().iter_rows())
    n_unseen = int(np.isin(load_digits().target, UNSEEN).sum())
    assert counts == {"image→name": 1797, "unseen image→unseen name": n_unseen}
    assert set(ranks["direction"]) == set(counts)
    # Held-out classes have no real pair, so that real pairs may be fitted there.
    run.changed(method="procrustes", eval="held-out", n_pairs="all")
    for evaluation in ("split", "in-class"):
        with pytest.raises(ProtocolError, match="with real pairs use eval 'held-out'"):
            run.changed(method="procrustes", eval=evaluation, pairs_per_class=1)
    images = corpus.images.take(np.isin(corpus.images.classes, ["digits/3", "digits/8"]))
    with pytest.raises(ProtocolError, match="All 2 classes of the images are unseen"):
        list(execute([run], replace(corpus, images=images)))
