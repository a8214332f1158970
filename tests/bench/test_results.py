import multiprocessing

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from bench import read_ranks, read_results
from bench.errors import NoResultsError
from bench.results import (
    RANK_SCHEMA,
    RESULT_SCHEMA,
    Columns,
    file_of,
    finished,
    read_sessions,
    write_batch,
    write_session,
)
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
            "run_id": [run_id] * 2,
            "direction": ["image→name"] * 2,
            "query_id": ["a", "ü"],
            "cluster_id": ["x", "y"],
            "rank": [1, 7],
            "average_precision": [1.0, 1 / 7],
            "truncated_precision": [1.0, 0.0],
            "hits": [[1, 1, 1], [0, 0, 1]],
            "n_relevant": [1, 1],
            "top": [["x"], ["x", "y"]],
            "own": [None, None],
        },
        schema=RANK_SCHEMA,
    )
    return run_id, rows, ranks


def test_what_is_written_is_what_is_read(tmp_path):
    run_id, rows, ranks = a_run(1)
    write_batch(tmp_path, rows, ranks)
    assert_frame_equal(read_results(tmp_path), rows.sort("metric"))
    assert_frame_equal(read_ranks(tmp_path, [run_id]), ranks)
    assert read_results(tmp_path).schema == pl.Schema(RESULT_SCHEMA)
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
    with pytest.raises(
        NoResultsError, match=r"holds no finished run\. Make one with `headstock eval run"
    ):
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


def test_sessions_are_listed_oldest_first(tmp_path):
    assert read_sessions(tmp_path) == []
    write_session(tmp_path, "20260102", {"command": "b"})
    write_session(tmp_path, "20260101", {"command": "a"})
    assert [session["command"] for session in read_sessions(tmp_path)] == ["a", "b"]


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
    for number in range(start, start + 30, 5):
        write_batch(root, *a_batch(range(number, number + 7)))
    for number in range(start + 500, start + 510):
        write_batch(root, *a_run(number)[1:])


@pytest.mark.usefixtures("forked")
def test_many_processes_write_batches_and_runs_and_none_is_lost(tmp_path):
    """Four at once, into one folder."""
    made = multiprocessing.get_context("spawn").Process
    processes = [made(target=write_many, args=(tmp_path, start)) for start in (0, 10, 20, 30)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    # Batches reach from 0 to 30 + 25 + 6; single runs from 500 to 539.
    expected = {f"{n:064x}" for n in [*range(62), *range(500, 540)]}
    assert finished(tmp_path) == expected
    rows = read_results(tmp_path)
    assert set(rows["run_id"]) == expected
    assert rows.height == 2 * len(expected)
    assert read_ranks(tmp_path, sorted(expected)).height == 2 * len(expected)
    assert not list(tmp_path.rglob("*.staged"))


def test_a_column_of_one_value_is_as_any_other():
    schema = {"name": pl.String, "n": pl.Int64, "share": pl.Float64, "top": pl.List(pl.String)}
    table = Columns(schema)
    table.add(2, {"n": [1, 2]}, {"name": "ü", "share": 1, "top": ["x", "y"]})
    table.add(1, {"n": [3]}, {"name": "ü", "share": 1.0, "top": ["x", "y"]})
    expected = {"name": ["ü"] * 3, "n": [1, 2, 3], "share": [1.0] * 3, "top": [["x", "y"]] * 3}
    assert_frame_equal(table.frame(), pl.DataFrame(expected, schema=schema))
    table.add(1, {"n": [4]}, {})
    longer = {name: [*values, None] for name, values in expected.items()} | {"n": [1, 2, 3, 4]}
    assert_frame_equal(table.frame(), pl.DataFrame(longer, schema=schema))
    assert_frame_equal(Columns(schema).frame(), pl.DataFrame(schema=schema))


def test_files_are_read_as_each_alone(tmp_path):
    """All at once, one of a run or of many; one that lacks a column or is damaged is named."""
    for number in (1, 2, 3):
        write_batch(tmp_path, *a_run(number)[1:])
    alike = read_results(tmp_path)
    assert finished(tmp_path) == {a_run(number)[0] for number in (1, 2, 3)}
    older = file_of(tmp_path, "runs", a_run(2)[0])
    whole = pl.read_parquet(older)
    whole.drop("control_draw").write_parquet(older)
    with pytest.raises(NoResultsError, match=older.name):
        read_results(tmp_path)
    whole.write_parquet(older)
    assert_frame_equal(read_results(tmp_path), alike)
    wanted = [a_run(number)[0] for number in (3, 1)]
    ranks = pl.concat([a_run(3)[2], a_run(1)[2]])
    assert_frame_equal(read_ranks(tmp_path, wanted), ranks)
    write_batch(
        tmp_path, *(pl.concat(parts) for parts in zip(*(a_run(n)[1:] for n in (4, 5)), strict=True))
    )
    mixed = [a_run(number)[0] for number in (5, 3, 4, 1)]
    expected = pl.concat([a_run(number)[2] for number in (5, 3, 4, 1)])
    assert_frame_equal(read_ranks(tmp_path, mixed), expected)
    older.unlink()
    older.write_bytes(b"PAR1")
    with pytest.raises(NoResultsError, match=older.name):
        read_results(tmp_path)
    assert len(finished(tmp_path)) == 4


def a_bomb(path, rows):
    """Replace a file of results by a table of many rows, all of them nothing, in a small file."""
    table = pl.read_parquet(path)
    table.clear(rows).write_parquet(path, row_group_size=rows)
    return path.stat().st_size


@pytest.mark.parametrize(("table", "rows"), [("runs", 100_000), ("ranks", 600_000)])
def test_a_table_that_unpacks_to_far_more_than_it_is_is_not_read(
    tmp_path, table, rows, monkeypatch
):
    run_id = a_run(1)[0]
    write_batch(tmp_path, *a_run(1)[1:])
    size, read, unpacked = a_bomb(file_of(tmp_path, table, run_id), rows), [], pl.read_parquet
    assert size < 2**17
    monkeypatch.setattr(
        pl,
        "read_parquet",
        lambda data, **how: read.append(data.getvalue()) or unpacked(data, **how),
    )
    with pytest.raises(NoResultsError, match=r"would become .* in memory"):
        read_results(tmp_path) if table == "runs" else read_ranks(tmp_path, [run_id])
    assert size not in map(len, read)
    if table == "runs":
        assert finished(tmp_path) == set()
