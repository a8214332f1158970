import multiprocessing

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from bench import read_ranks, read_results
from bench.errors import NoResultsError
from bench.results import RANK_SCHEMA, RESULT_SCHEMA, file_of, finished, write_batch
from featstore.errors import StoreWriteError


def a_run(number):
    run_id = f"{number:064x}"
    rows = pl.DataFrame(
        [
            {"run_id": run_id, "suite": "s", "metric": metric, "value": 0.5, "n_pairs": "16"}
            for metric in ("R@1", "MRR")
        ],
        schema=RESULT_SCHEMA,
    )
    ranks = pl.DataFrame(
        {
            "run_id": [run_id] * 2, "direction": ["image→name"] * 2, "query_id": ["a", "ü"],
            "cluster_id": ["x", "y"], "rank": [1, 7], "average_precision": [1.0, 1 / 7],
            "truncated_precision": [1.0, 0.0], "hits": [[1, 1, 1], [0, 0, 1]],
            "n_relevant": [1, 1], "top": [["x"], ["x", "y"]], "own": [None, None],
        },
        schema=RANK_SCHEMA,
    )  # fmt: skip
    return run_id, rows, ranks


def test_what_is_written_is_what_is_read(tmp_path):
    run_id, rows, ranks = a_run(1)
    write_batch(tmp_path, rows, ranks)
    assert_frame_equal(read_results(tmp_path), rows.sort("metric"))
    assert_frame_equal(read_ranks(tmp_path, [run_id]), ranks)
    assert {*rows.schema.dtypes()} == {pl.String, pl.Float64, pl.Int64, pl.Boolean}
    assert finished(tmp_path) == {run_id}


@pytest.mark.parametrize("damage", ["truncated", "foreign", "no ranks", "staged only"])
def test_a_damaged_run_counts_as_not_finished(tmp_path, damage):
    write_batch(tmp_path, *a_run(1)[1:])
    run_id = a_run(2)[0]
    path = file_of(tmp_path, "runs", run_id)
    if damage == "foreign":
        path.write_bytes(file_of(tmp_path, "runs", a_run(1)[0]).read_bytes())
        file_of(tmp_path, "ranks", run_id).write_bytes(b"PAR1")
    else:
        write_batch(tmp_path, *a_run(2)[1:])
        if damage == "truncated":
            path.write_bytes(path.read_bytes()[:-40])
        elif damage == "no ranks":
            file_of(tmp_path, "ranks", run_id).unlink()
        else:
            path.rename(path.with_name(f".{path.name}.1.staged"))
    assert finished(tmp_path) == {a_run(1)[0]}


def test_empty_and_missing_folders_say_how_to_fill_them(tmp_path):
    with pytest.raises(NoResultsError, match=r"Make one with `headstock eval run"):
        read_results(tmp_path)
    with pytest.raises(NoResultsError, match="does not exist"):
        read_results(tmp_path / "nowhere")
    assert finished(tmp_path / "nowhere") == set()
    assert read_ranks(tmp_path, []).is_empty()


def test_a_folder_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "ranks").write_text("a file where a folder should be")
    with pytest.raises(StoreWriteError, match="Cannot write"):
        write_batch(tmp_path, *a_run(1)[1:])
    assert not (tmp_path / "runs").exists()


def a_batch(numbers):
    parts = [a_run(number) for number in numbers]
    return pl.concat([rows for _, rows, _ in parts]), pl.concat([ranks for *_, ranks in parts])


def test_a_batch_under_another_name_does_not_count(tmp_path):
    write_batch(tmp_path, *a_batch([1, 2]))
    for folder in ("runs", "ranks"):
        (path,) = (tmp_path / folder).iterdir()
        path.rename(path.with_name("many-" + "0" * 64 + ".parquet"))
    assert finished(tmp_path) == set()


def write_many(root, start):
    """Write overlapping batches of seven, and single runs."""
    for number in (start, start + 5):
        write_batch(root, *a_batch(range(number, number + 7)))
    for number in range(start + 500, start + 505):
        write_batch(root, *a_run(number)[1:])


@pytest.mark.usefixtures("forked")
def test_many_processes_write_batches_and_runs_and_none_is_lost(tmp_path):
    """Four at once, into one folder."""
    made = multiprocessing.get_context("spawn").Process
    processes = [made(target=write_many, args=(tmp_path, start)) for start in (0, 5, 10, 15)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    # Batches reach from 0 to 15 + 5 + 6; single runs from 500 to 519.
    expected = {f"{n:064x}" for n in [*range(27), *range(500, 520)]}
    assert finished(tmp_path) == expected
    rows = read_results(tmp_path)
    assert set(rows["run_id"]) == expected
    assert rows.height == 2 * len(expected)
    assert read_ranks(tmp_path, sorted(expected)).height == 2 * len(expected)
    assert not list(tmp_path.rglob("*.staged"))


def test_files_are_read_as_each_alone(tmp_path):
    """All at once, one of a run or of many; one that lacks a column or is damaged is named."""
    for number in (1, 2, 3):
        write_batch(tmp_path, *a_run(number)[1:])
    write_batch(tmp_path, *a_batch([4, 5]))
    assert len(finished(tmp_path)) == 5
    wanted, _, ranks = zip(*map(a_run, (5, 3, 4, 1)), strict=True)
    assert_frame_equal(read_ranks(tmp_path, list(wanted)), pl.concat(ranks))
    path = file_of(tmp_path, "runs", a_run(2)[0])
    lacking = pl.read_parquet(path).drop("control_draw")
    for damage in (lacking.write_parquet, lambda path: path.write_bytes(b"PAR1")):
        path.unlink()
        damage(path)
        with pytest.raises(NoResultsError, match=path.name):
            read_results(tmp_path)
    assert len(finished(tmp_path)) == 4


@pytest.mark.parametrize(("table", "rows"), [("runs", 100_000), ("ranks", 600_000)])
def test_a_table_that_unpacks_to_far_more_than_it_is_is_not_read(tmp_path, table, rows):
    run_id = a_run(1)[0]
    write_batch(tmp_path, *a_run(1)[1:])
    path = file_of(tmp_path, table, run_id)
    # Many rows, all of them nothing.
    pl.read_parquet(path).clear(rows).write_parquet(path, row_group_size=rows)
    assert path.stat().st_size < 2**17
    with pytest.raises(NoResultsError, match=r"would become .* in memory"):
        read_results(tmp_path) if table == "runs" else read_ranks(tmp_path, [run_id])
    if table == "runs":
        assert finished(tmp_path) == set()
