import polars as pl
import pytest

from bench import read_ranks, read_results, run_all
from bench.corpus import held_out_split, read_corpus
from bench.errors import ProtocolError
from bench.results import file_of, files_of, finished
from featstore import open_store
from tests.bench.results_by_hand import has

#: What differs between two runs of the same, here and in other files.
TIMES = ["fit_seconds", "score_seconds", "learner_seconds", "finished_at"]


def test_every_run_is_there_with_rows_and_ranks(runs, smoke_results):
    rows = read_results(smoke_results)
    assert set(rows["run_id"]) == {run.run_id for run in runs} == finished(smoke_results)
    assert len(set(runs)) == len(runs)
    zero_shot = rows.filter(pl.col("task") == "zero_shot")
    assert set(zero_shot["direction"]) == {"image→name"}
    retrieval = rows.filter(pl.col("task") == "retrieval")
    assert set(retrieval["direction"]) == {"image→caption", "caption→image"}
    for column in ("gallery", "chance", "n_queries", "value", "n_images_fitted"):
        # F1 has no chance level in closed form.
        assert rows.filter(~pl.col("metric").str.ends_with("F1"))[column].null_count() == 0


def test_planted_data_gives_the_planted_answer(smoke_results):
    """Head weights carry the latent map; random and shuffled rows do not."""
    top = read_results(smoke_results).filter(
        (pl.col("metric") == "top-1") & (pl.col("n_pairs") == "0") & (pl.col("method") != "conse")
    )
    mean = dict(top.group_by("source").agg(pl.col("value").mean()).iter_rows())
    chance = top["chance"].max()
    assert mean["head"] > 0.75
    assert mean["random"] < 5 * chance
    assert mean["shuffled"] < 5 * chance


def test_held_out_scores_only_held_out_classes(runs, smoke_store, smoke_results):
    run = next(r for r in runs if r.protocol.eval == "held-out" and r.task == "retrieval")
    corpus = read_corpus(open_store(smoke_store), run)
    split = held_out_split(corpus.images.classes, seed=run.seed)
    ranks = read_ranks(smoke_results, [run.run_id])
    held = set(corpus.images.classes[split.test])
    assert set(ranks["cluster_id"]) == held
    found = {item for top in ranks["top"] for item in top}
    owner = dict(zip(corpus.images.ids, corpus.images.classes, strict=True))
    owner |= dict(zip(corpus.captions.ids, corpus.captions.classes, strict=True))
    assert {owner[item] for item in found} <= held


def test_finished_runs_are_skipped_and_damaged_ones_redone(
    runs, smoke_store, tmp_path, monkeypatch
):
    monkeypatch.setattr("bench.execution._LOST", 600.0)  # all in one file, on a slow machine too
    some = [run for run in runs if run.protocol.eval == "all-names"][:4]
    calls = []
    first = run_all(some, smoke_store, tmp_path, on_done=calls.append)
    assert (first.reused, first.new, first.fits) == (0, 4, 4)
    assert calls == [1, 1, 1, 1]
    (name,) = set(files_of(tmp_path).values())
    stamp = file_of(tmp_path, "runs", name).stat().st_mtime_ns
    again = run_all([*some, some[0]], smoke_store, tmp_path)
    assert (again.reused, again.new) == (4, 0)
    assert file_of(tmp_path, "runs", name).stat().st_mtime_ns == stamp
    run_all(some[3:], smoke_store, tmp_path / "other")
    file_of(tmp_path, "ranks", name).unlink()
    for table in ("ranks", "runs"):
        of_other, of_this = (
            file_of(root, table, some[3].run_id) for root in (tmp_path / "other", tmp_path)
        )
        of_other.rename(of_this)
    third = run_all(some, smoke_store, tmp_path)
    assert (third.reused, third.new) == (1, 3)
    changed = [some[0].changed(templates=("none",))]
    assert run_all(changed, smoke_store, tmp_path).new == 1


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_in_a_run_comes_out_and_finished_runs_stay(runs, smoke_store, tmp_path, jobs):
    good = [run for run in runs if has(run, eval="all-names", method="ridge")][:5]
    bad = good[0].changed(image_revision="0" * 64)
    with pytest.raises(ProtocolError, match="Plan the suite again"):
        run_all([*good, bad], smoke_store, tmp_path, jobs=jobs)
    assert finished(tmp_path) <= {run.run_id for run in good}
    assert not list(tmp_path.rglob("*.staged"))
