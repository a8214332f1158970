"""Suites: which runs they plan, and the table of doses."""

import shutil
from collections import Counter

import numpy as np
import pytest

from bench import read_results, run_all
from bench.evaluation import evaluate
from bench.statistics import DrawSums, two_term
from bench.suites import combinations, with_lists
from bench.suites.demo import create_smoke_store, demo_bases, demo_runs, dose_table, smoke_runs
from featstore import open_store
from featstore.errors import AmbiguousSetError
from featstore.store.gc import remove_set
from featstore.testing import write_set
from fitters.errors import SettingError, UnknownMethodError
from fitters.from_store import find_fits
from tests.bench.results_by_hand import hand_run, write_ranks
from tests.shorthand import sweep_runs


def test_a_suite_takes_every_encoder_that_fits_a_head(tmp_path):
    create_smoke_store(tmp_path)
    for dataset in ("smoke", "smokehead"):
        view = open_store(tmp_path).view(f"{dataset}/class_name/synthetic")
        write_set(
            tmp_path, view.numpy(), view.items, dataset=dataset, kind="class_name",
            encoder="other:text",
        )  # fmt: skip
        opened = open_store(tmp_path)
        # Names that no head's names share a space with fit none.
        assert len(find_fits(opened, dataset="smoke")) == 1 + (dataset == "smokehead")
    runs = demo_runs(opened, dataset="smoke")
    texts = {
        (run.data.name_set.split("/")[2], run.data.head_name_set.split("/")[2]) for run in runs
    }
    assert sorted((a.split("-")[0], b.split("-")[0]) for a, b in texts) == [
        ("other.text", "other.text"), ("synthetic.text", "synthetic.text"),
    ]  # fmt: skip
    with pytest.raises(AmbiguousSetError, match=r"`names=` .*smoke/class_name/other.text"):
        evaluate("ridge", opened, dataset="smoke", tasks="zero_shot", progress=False)


def test_a_suite_and_a_sweep_take_prompts_of_either_side(smoke_store):
    opened = open_store(smoke_store)
    texts = {"templates": [("none",)], "head_templates": [("photo",)]}
    runs = with_lists(smoke_runs(opened), texts)
    assert {run.data.templates for run in runs} == {("none",)}
    assert {(bool(run.data.head_set), run.data.head_templates) for run in runs} <= {
        (True, ("photo",)), (False, ()),
    }  # fmt: skip
    assert with_lists(runs, {}) == list(runs)
    (sets,) = find_fits(opened, dataset="smoke", label_set="smokehead")
    grid = {"n_pairs": (0,), "source": ("head",), "penalty": (1.0,), "seed": (0,)}
    for run in sweep_runs(opened, sets, grid | texts):
        own = run.data.head_variants, run.data.head_templates
        assert own == (texts.get("head_variants", [()])[0], ("photo",))
        assert run.data.templates == ("none",)


def test_the_demo_runs_on_class_folders_without_captions(smoke_store, tmp_path):
    """Images, class names and a head are enough: real pairs are images and their class texts."""
    shutil.copytree(smoke_store, tmp_path / "store")
    key = str(open_store(tmp_path / "store").info("smoke/caption/synthetic").key)
    remove_set(tmp_path / "store", key)
    opened = open_store(tmp_path / "store")
    runs = demo_runs(opened, dataset="smoke", methods=("ridge",), sources=("none", "head"))
    assert {run.task for run in runs} == {"zero_shot"}
    with pytest.raises(UnknownMethodError, match="'rigde'"):
        demo_runs(opened, dataset="smoke", methods=("rigde",))
    with pytest.raises(SettingError, match=r"no 'mine/image', 'mine/class_name' .*: 'smoke'"):
        demo_runs(opened, dataset="mine")
    some = [run for run in runs if run.seed == 0]
    assert {run.protocol.n_pairs for run in some} == {0, 16, "all"}
    run_all(some, tmp_path / "store", tmp_path / "results")
    rows = read_results(tmp_path / "results")
    top = rows.filter(metric="top-1", source="none").select("n_pairs", "value", "chance").rows()
    assert {n_pairs for n_pairs, *_ in top} == {"16", "all"}
    assert all(value > 3 * chance for _, value, chance in top)


def test_combinations_without_a_meaning_are_left_out(smoke_store):
    opened = open_store(smoke_store)
    (sets,) = find_fits(opened, dataset="smoke", label_set="smokehead")
    one = {"seed": (0,), "task": ("zero_shot",)}

    def cells(**lists):
        runs = sweep_runs(opened, sets, one | lists)
        facts = [run.columns() for run in runs]
        return {(r["source"], r["n_pairs"], r["sequential"], r["mix"]) for r in facts}

    # Both sources at once are trained on in two stages; a source alone is not.
    lists = {"method": ("paper-mlp",), "source": ("none", "head"), "n_pairs": (0, 16)}
    assert cells(**lists, sequential=(True,)) == {
        ("none", "16", False, "auto"), ("head", "0", False, "auto"),
        ("head", "16", True, "auto"),
    }  # fmt: skip
    # Real pairs are counted in one way, and none are of classes that are held out.
    lists = {"source": ("head",), "pairs_per_class": (0, 1), "n_pairs": (0, 16), "mix": (3.0,)}
    lists |= {"penalty": (1.0,)}
    held_out = {("head", "0", False, "1.0"), ("head", "16", False, "3.0")}
    assert cells(**lists) == held_out
    assert cells(**lists, eval=("in-class",)) == held_out | {("head", "1/class", False, "3.0")}


def test_lists_leave_out_what_has_no_effect_on_a_source(smoke_store):
    (base,) = demo_bases(open_store(smoke_store), "task", dataset="smoke")
    lists = {
        "method": ("ridge",), "source": ("none", "head", "shuffled-within", "class-means"),
        "n_pairs": (0, 16), "eval": ("held-out",), "clusters": (10, 50), "head_size": (0, 20),
        "head_by": ("nearest",),
    }  # fmt: skip
    made = Counter(
        (p.source, p.n_pairs, p.clusters, p.head_size, p.head_by)
        for p in (run.protocol for run in combinations(base.changed, lists))
    )
    assert set(made.values()) == {1}
    expected = [("none", 16, 0, 0, "random"), ("class-means", 16, 0, 0, "random")]
    for k in (0, 16):
        for size, by in ((0, "random"), (20, "nearest")):
            expected += [("head", k, 0, size, by)]
            expected += [("shuffled-within", k, clusters, size, by) for clusters in (10, 50)]
    assert sorted(made) == sorted(expected)


SIZES, DRAWS, N = (10, 30, 100), range(4), 24
QUERIES = [f"q{i:02d}" for i in range(N)]
CLUSTERS = [f"c{i // 2:02d}" for i in range(N)]


@pytest.fixture
def hits(tmp_path, rng):
    """Write runs of every dose; return (source, clusters, size, by) → hits of its draws."""
    written = {}
    doses = [
        *(("head", 0, size, "random", DRAWS) for size in SIZES),
        *(("head", 0, size, "nearest", (0,)) for size in SIZES[:2]),
        ("head", 0, 0, "random", (0,)),
        *(("shuffled-within", n, 0, "random", DRAWS) for n in (4, 40)),
        ("shuffled", 0, 0, "random", DRAWS),
        ("random", 0, 0, "random", DRAWS),
    ]
    for place, (source, clusters, size, by, draws) in enumerate(doses):
        for seed in draws:
            own = rng.random(N) < 0.1 + 0.08 * place
            run = hand_run(
                source, seed=seed, eval="all-names", clusters=clusters, head_size=size, head_by=by
            )
            write_ranks(tmp_path, run, np.where(own, 1, 9), queries=QUERIES, clusters=CLUSTERS)
            written.setdefault((source, clusters, size, by), []).append(own.astype(float))
    return written


def test_slopes_are_least_squares_over_draws_and_clusters(tmp_path, hits):
    found = dose_table(tmp_path, read_results(tmp_path))
    found = found.filter(direction="image→name")
    levels = {dose: own["level"].to_list() for (dose,), own in found.group_by(["dose"])}
    # The whole head has 100 prototypes in these files; the control at random rows is no dose.
    assert levels == {
        "classes": [10, 30, 100, 100], "nearest classes": [10, 30], "clusters of names": [1, 4, 40],
    }  # fmt: skip
    keys = {
        "classes": [("head", 0, size, "random") for size in (*SIZES, 0)],
        "nearest classes": [("head", 0, size, "nearest") for size in SIZES[:2]],
        "clusters of names": [
            ("shuffled", 0, 0, "random"), ("shuffled-within", 4, 0, "random"),
            ("shuffled-within", 40, 0, "random"),
        ],
    }  # fmt: skip
    for dose, own in keys.items():
        rows = found.filter(dose=dose)
        x = np.log10(levels[dose])
        means = [np.mean(hits[key]) for key in own]
        np.testing.assert_allclose(rows["value"], means, atol=1e-12)
        assert rows["slope"].to_list() == pytest.approx([np.polyfit(x, means, 1)[0]] * len(own))
        # A line for every query of every draw, and the mean of their slopes with its interval.
        n_draws = max(len(hits[key]) for key in own)
        lines = [
            np.polyfit(x, [hits[key][draw % len(hits[key])][query] for key in own], 1)[0]
            for draw in range(n_draws)
            for query in range(N)
        ]
        sums = DrawSums.of(
            np.array(lines), np.repeat(np.arange(n_draws), N), np.tile(CLUSTERS, n_draws)
        )
        interval = two_term(sums).interval()
        assert (rows["slope_low"][0], rows["slope_high"][0]) == pytest.approx(interval)
    assert found.filter(n_draws=4)["sd"].null_count() == 0
    assert found.filter(n_draws=1)["sd"].null_count() == 3
