"""The paper suite on miniatures of the paper's sets, and the published numbers beside it."""

import itertools
import re
import shlex
from dataclasses import replace
from importlib.util import find_spec

import click
import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from sklearn.preprocessing import normalize

from bench import read_results, run_all
from bench.corpus import Items, read_corpus, stream
from bench.errors import ProtocolError
from bench.execution import split_of
from bench.fits import class_mean_pairs, fit_run
from bench.metrics.geometry import biased_cka, mutual_knn
from bench.options import Neighbours
from bench.reproduction import published_numbers, published_table
from bench.suites import paper, with_lists
from bench.suites.paper import COSINE_HEADS, INAT, paper_runs
from bench.tasks.diagnostics import score_neighbours
from featstore import open_store
from featstore.datasets import find_builder, synsets_of
from featstore.options import settings_from
from fitters import Pairs, preset
from headstock.__main__ import cli
from tests.assertions import assert_close, assert_same
from tests.bench.paper_store import build
from tests.bench.results_by_hand import has
from tests.typed import headstock


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    if find_spec("timm") is None:
        pytest.skip("needs timm's label files, of the extra `extract`")
    root = tmp_path_factory.mktemp("paper") / "store"
    build(root)
    return root


@pytest.fixture(scope="module")
def planned(store):
    """Fewer seeds, shots and means: the plan's shape stays, the minutes do not."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("SEEDS", (0, 1)), ("RETRIEVAL_SEEDS", (0, 1)), ("RETRIEVAL_PAIRS", (10, "all")),
            ("SHOTS", (1,)), ("LEARNERS", ("class-means",)), ("OWN_LEARNERS", ()),
            ("MEAN_OF", (1, 3)), ("METHODS", ("ridge",)), ("TRAINED_SEEDS", (0,)),
            ("EPOCHS", {}), ("OTHER_EPOCHS", 3),
        ):  # fmt: skip
            patch.setattr(paper, name, value)
        return paper_runs(open_store(store))


@pytest.fixture(scope="module")
def results(store, planned, tmp_path_factory):
    root = tmp_path_factory.mktemp("paper-results")
    # Trainings of controls and elsewhere are many; penalties are fixed, their choice takes time.
    some = [
        run
        for run in planned
        if run.fit.method not in paper.TRAINED
        or not (run.protocol.source in paper.CONTROLS or run.data.pairs_from)
    ]
    run_all(with_lists(some, {"penalty": (0.3,), "mix": (1.0,)}), store, root)
    return root


def test_trainings_have_the_controls_of_closed_forms_and_real_pairs_the_same_steps(
    store, monkeypatch
):
    monkeypatch.setattr(paper, "BATCH", 16)
    runs = [run for run in paper_runs(open_store(store)) if run.data.image_set[:4] == "pets"]

    def told(method, **wanted):
        own = [run for run in runs if run.fit.method == method and has(run, **wanted)]
        return {(run.protocol.source, run.data.head_set[:11], run.seed < 3) for run in own}

    for wanted in (
        {"task": "zero_shot", "pairs_per_class": 0, "n_pairs": 0, "pairs_from": ()},
        {"task": "zero_shot", "pairs_per_class": 1, "pairs_from": (), "sequential": False},
    ):
        found = {(s, h) for s, h, _ in told("paper-mlp", **wanted)}
        assert found == {(s, h) for s, h, _ in told("paper-cca", **wanted)}
        assert {s for s, _ in found} >= {"head", "random-cov", "shuffled"}
    # Eight pairs are one batch, with 40 rows three, with 60 rows five.
    bare = {
        run.fit.training.epochs
        for run in runs
        if run.fit.method == "paper-mlp" and run.protocol.source == "none"
        and run.protocol.pairs_per_class == 1 and not run.data.pairs_from
    }  # fmt: skip
    assert bare == {2500, 3 * 2500, 500, 5 * 500}


def planned_run(planned, **wanted):
    return next(
        run
        for run in planned
        if run.data.image_set.startswith(
            "flowers102/image/timm.beit_base_patch16_224.in22k_ft_in22k-"
        )
        and has(run, **wanted)
    )


def test_training_and_test_texts_are_read_apart(store, planned):
    run = planned_run(planned, task="zero_shot", method="paper-cca", pairs_per_class=1, seed=0,
                      source="head")  # fmt: skip
    opened = open_store(store)
    corpus = read_corpus(opened, run)
    names, head = opened.view(run.data.name_set), opened.view(run.data.head_name_set)
    for found, view, variant, template in (
        (corpus.names.rows, names, "paper", "paper"),
        (corpus.pair_names.rows, names, "description", "d000"),
        (corpus.head.texts, head, "lemmas", "none"),
    ):
        own = view.where(variant=[variant], template_id=[template]).numpy()
        assert_close(found, normalize(own), "float32")
    pairs = class_mean_pairs(corpus, np.arange(len(corpus.images)))
    place = {name: row for row, name in enumerate(corpus.pair_names.classes)}
    assert_same(pairs.y, corpus.pair_names.rows[[place[name] for name in pairs.groups]])


def test_the_papers_map_is_tested_on_other_texts_than_it_is_trained_on(store, planned):
    """The run's scores are those of the preset, trained by hand on lemmas, of the prompts."""
    run = planned_run(planned, task="zero_shot", method="paper-mlp", source="head", n_pairs=0,
                      pairs_per_class=0, seed=0, pairs_from=())  # fmt: skip
    opened = open_store(store)
    corpus = read_corpus(opened, run)
    fitted = fit_run(run, corpus, split_of(run, corpus))
    seed = int(stream("choice", run.seed).integers(2**31))
    head = corpus.head
    rows = Pairs(normalize(head.weight), head.texts, head.groups)
    by_hand = preset("paper-mlp", epochs=3, seed=seed).fit_rows(rows, None)
    assert_close(
        fitted.alignment.project_y(corpus.names.rows), by_hand.project_y(corpus.names.rows),
        "float32", times=100,
    )  # fmt: skip
    # The next dataset has the same head: nothing is trained again, nor on pairs of another dataset.
    for one in (
        run,
        planned_run(planned, method="paper-mlp", source="head", n_pairs=10, task="zero_shot"),
    ):
        pets = next(
            other
            for other in planned
            if other.data.image_set.startswith("pets/") and one.changed(
                image_set=other.data.image_set, image_revision=other.data.image_revision,
                name_set=other.data.name_set, name_revision=other.data.name_revision,
            ) == other
        )  # fmt: skip
        own, other = read_corpus(opened, one), read_corpus(opened, pets)
        first = fit_run(one, own, split_of(one, own)).alignment
        assert fit_run(pets, other, split_of(pets, other)).alignment is first
        assert fit_run(one.changed(seed=1), own, split_of(one, own)).alignment is not first


def test_neighbours_are_those_of_the_classes_and_means_that_the_paper_takes(store):
    opened = open_store(store)
    of_head = planned_run(
        paper_runs(opened), task="neighbours", options=Neighbours(within="imagenet1k")
    )
    corpus = read_corpus(opened, of_head)
    kept = np.array([int(name[-8:]) for name in corpus.head.classes])
    inside = np.isin(kept, list({int(name[1:]) for name in synsets_of("imagenet1k")}))
    assert inside.sum() == 30
    (found,) = score_neighbours(corpus, options=of_head.task_options, rng=stream("sample", 0))
    theirs = mutual_knn(corpus.head.weight[inside], corpus.head.texts[inside], (3, 5, 10))
    assert {k: found.values[f"mutual-knn@{k}"] for k in theirs} == theirs
    assert found.n == 30
    means = {}
    for rows in ("raw", "unit"):
        options = Neighbours(of="class-means", rows=rows, k=(3,))
        (found,) = score_neighbours(replace(corpus, names=named(corpus)), options=options,
                                    rng=stream("sample", 0))  # fmt: skip
        images = corpus.images.rows if rows == "raw" else normalize(corpus.images.rows)
        classes = np.unique(corpus.images.classes)
        by_hand = np.stack([images[corpus.images.classes == c].mean(axis=0) for c in classes])
        means[rows] = found.values["CKA"]
        assert means[rows] == pytest.approx(biased_cka(by_hand, named(corpus).rows), rel=1e-6)
    assert means["raw"] != means["unit"]
    with pytest.raises(ProtocolError, match="within of neighbours cannot be 'flowers'"):
        score_neighbours(corpus, options=Neighbours(within="flowers"), rng=stream("sample", 0))
    with pytest.raises(ProtocolError, match="pets are no synsets"):
        score_neighbours(corpus, options=Neighbours(within="pets"), rng=stream("sample", 0))


def named(corpus):
    """Random texts, one a class of the images."""
    classes = np.unique(corpus.images.classes)
    rows = np.random.default_rng(1).normal(size=(len(classes), 5)).astype(np.float32)
    return Items(classes, classes, rows)


def test_published_numbers_are_those_of_the_paper():
    numbers = published_numbers()
    assert set(numbers["how"]) == {"exact", "figure"}
    assert numbers.filter(where="").is_empty()

    # The heights at which the project page draws its lines: 0.16 at 358, and 0.04 more every 70.
    drawn = {
        3: (333.8, 214.7, 174.7, 166.4, 131.2), 5: (314.8, 199.6, 162.7, 140.3, 118.8),
        10: (298.4, 195.9, 159.4, 133.2, 119.0),
    }  # fmt: skip
    for (k, heights), head in zip(drawn.items(), (108.8, 106.8, 105.5), strict=True):
        means, rows = (
            numbers.filter(metric=f"mutual-knn@{k}", direction=f"{side}~name")["theirs"].to_list()
            for side in ("class-mean", "head")
        )
        at = [0.16 + 0.04 * (358 - height) / 70 for height in (*heights, head)]
        assert means + rows == pytest.approx(at, abs=0.0006)
    assert numbers.filter(experiment="zero-shot")["how"].to_list() == ["figure"] * 27


def test_the_runs_fill_the_table_and_differences_are_ours_minus_theirs(results):
    rows = read_results(results)
    table = published_table(rows)
    known = table.filter(pl.col("ours").is_not_null())
    assert {"zero-shot", "one pair a class", "retrieval", "cosine head", "mutual k-NN",
            "modality gap", "HAM10000"} == set(known["experiment"])  # fmt: skip
    gaps = known["ours"] - known["theirs"]
    assert_frame_equal(
        known.select("difference"), gaps.alias("difference").to_frame(), check_exact=False
    )
    # What was not run stays in the table, empty.
    food = table.filter(dataset="food101", experiment="zero-shot")
    assert food.height == 3
    assert food["ours"].null_count() == 3
    one = known.filter(
        pl.col("head").str.contains("imagenet22k"),
        experiment="zero-shot",
        dataset="pets",
        method="ridge",
    )
    value = rows.filter(
        pl.col("image_set").str.starts_with("pets/"),
        pl.col("head_set").str.starts_with("imagenet22k/"),
        task="zero_shot",
        metric="top-1",
        method="ridge",
        source="head",
        n_pairs="0",
        pairs_from="",
    )["value"]
    assert one["ours"].to_list() == value.to_list()
    assert one["theirs"].to_list() == [0.78]


def test_a_report_is_of_one_set_of_images_and_has_the_papers_numbers(store, results, tmp_path):
    page = tmp_path / "page.html"
    arguments = ["report", str(results), "--store", str(store), "-o", str(page)]
    assert headstock(*arguments, "--images", "pets") == 0
    html = page.read_text()
    assert "This page is about pets/image/" in html
    assert "The suite also scored flickr30k/image/" in html
    assert (
        "The paper&#39;s numbers beside ours" in html or "The paper's numbers beside ours" in html
    )
    # Of the two heads and three encoders of these images one choice is shown.
    curves = re.findall(r'<figure class="figure" id="(accuracy_by_pairs[^"]*)"', html)
    assert len(curves) == len(set(curves)) > 0
    tables = re.findall(r'<table class="grid.*?</table>', html, re.DOTALL)
    assert tables
    assert not any("pets · " in table for table in tables)
    assert headstock(*arguments, "--images", "zebras") == 2


def printed(store, capsys):
    """Return the commands of a dry run, as they are printed."""
    arguments = [
        "eval", "run", "paper", "--store", str(store), "-o", "results", "--dry-run",
    ]  # fmt: skip
    assert headstock(*arguments) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("headstock ")]


def test_every_command_for_an_empty_store_is_one_that_the_program_takes(tmp_path, capsys):
    """With options that exist, and one extraction of a dataset's images for all encoders."""
    commands = printed(tmp_path / "store", capsys)
    made, images, program = set(), [], cli.make_context("headstock", [])
    for words in commands:
        command, names = cli.get_command(program, words[1]), words[2:]
        while isinstance(command, click.Group):
            command = command.get_command(program, names.pop(0))
        given = command.make_context(words[1], [*names], program).params
        if given.get("words"):
            settings_from(given["words"], command.settings(given))
        if words[1] == "data":
            find_builder(given["dataset"])
        if words[1] == "extract":
            given = [*itertools.pairwise(names)]
            (kind,) = (value for option, value in given if option == "--kind")
            made |= {(words[2], kind, value) for option, value in given if option == "--encoder"}
            images += [words[2]] if kind == "image" else []
    assert len(images) == len(set(images))
    own = {
        "manifests/imagenet1k-val": COSINE_HEADS,
        "manifests/pets": INAT,
        "manifests/food101": INAT,
    }
    for folder, encoders in own.items():
        assert made >= {(folder, "image", one) for one in encoders}
    assert made >= {("manifests/inat21", "head_weight", one) for one in INAT}


def test_a_dry_run_succeeds_on_any_store_and_a_run_says_what_to_do(tmp_path, capsys):
    for store in (tmp_path / "none", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        assert len(printed(store, capsys)) > 30
    assert not (tmp_path / "none").exists()
    assert not list((tmp_path / "empty").iterdir())
    made = str(tmp_path / "made")
    assert headstock("store", "init", made) == 0
    assert len(printed(made, capsys)) > 30
    arguments = ["eval", "run", "paper", "--store", made, "-o", str(tmp_path / "results")]
    assert headstock(*arguments) == 1
    said = capsys.readouterr()
    assert "nothing can be run yet. --dry-run lists all that is missing" in said.err
    assert headstock(*arguments, "--dry-run") == 0
    assert "--dry-run" not in capsys.readouterr().out
    assert not open_store(made).sets()


# docs/ref/boxes.md and docs/reproduce.md
