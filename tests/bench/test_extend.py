"""The files of docs/ref/extend.md through ``--plugin``, on the smoke suite's store."""

import shlex
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from bench import read_results
from featstore import open_store
from featstore.command_line import run_command
from headstock.__main__ import cli
from tests.extend import SETS, files, write_files


@pytest.fixture
def typed(tmp_path, monkeypatch, smoke_store, no_plugins, capfd):
    """Return what runs a command in a folder with the files of the page and the smoke store."""
    write_files(tmp_path)
    (tmp_path / "smoke").symlink_to(smoke_store)
    monkeypatch.chdir(tmp_path)

    def run(command):
        name, *words = shlex.split(command)
        code = run_command(cli, name, words)
        out, err = capfd.readouterr()
        assert code == 0, f"{command}: {err or out}"
        return out

    return run


def test_every_file_is_short_and_of_one_kind():
    found = files()
    assert len(found) == 7
    for name, text in found.items():
        assert len(text.splitlines()) <= 60, name
        assert text.count("@hs.register(") == (name != "pyproject.toml"), name


def test_a_method_of_a_file_is_scored_beside_its_controls(typed, tmp_path):
    what = (
        "headstock eval task zero_shot --plugin mine.py --method mine,ridge --source head,shuffled"
    )
    typed(f"{what} {SETS} --eval held-out --seeds 0-1 -o results")
    rows = read_results(tmp_path / "results")
    origins = dict(rows.select("method", "origin").unique().iter_rows())
    assert origins == {"mine": "mine.py", "ridge": ""}
    means = rows.filter(metric="top-1").group_by("method", "source").agg(pl.col("value").mean())
    found = {(method, source): value for method, source, value in means.iter_rows()}
    assert found["mine", "head"] > 0.7
    assert found["mine", "shuffled"] < 0.3
    # It is the package's ridge; what chooses its penalty is another search.
    assert abs(found["mine", "head"] - found["ridge", "head"]) < 0.1


def test_a_task_and_a_learner_of_files_are_in_one_table(typed, tmp_path):
    typed(
        f"headstock eval task margins --plugin margins.py --plugin mine.py -s others=3 --method "
        "mine "
        f"--source head,shuffled --eval held-out {SETS} -o results"
    )
    typed(
        f"headstock eval task few_shot --plugin prior_means.py -s learner=prior-means --method "
        "ridge "
        f"--source head --eval in-class {SETS} -o results"
    )
    table = typed("headstock eval table results --all --plugin margins.py --plugin mine.py")
    assert "others=3" in table
    assert "learner=prior-means" in table
    rows = read_results(tmp_path / "results")
    origins = dict(rows.select("task", "origin").unique().iter_rows())
    assert origins == {"margins": "mine.py, margins.py", "few_shot": "prior_means.py"}
    values = rows.filter(task="margins", metric="margin").sort("source")["value"].to_list()
    assert values[0] > 0 > values[1]


def test_a_dataset_a_source_and_an_encoder_of_files_make_a_set_without_torch(typed, tmp_path):
    typed("headstock data build swatches --plugin swatches.py -o swatches")
    (tmp_path / "swatches/list.txt").write_text("red-0.png\tA red square.\n")
    listed = "headstock data make swatches/list.txt --as captioned-list -o listed -s split=test"
    assert "image        1  test 1" in typed(f"{listed} --plugin captioned_list.py")
    extract = "extract swatches --kind image --encoder colours:4 --plugin colours.py --store own"
    code = "import sys; sys.modules['torch'] = None; from headstock.__main__ import main; main()"
    subprocess.run([sys.executable, "-c", code, *extract.split()], check=True)
    rows = open_store(tmp_path / "own").view("swatches/image/colours.4").numpy().astype(np.float64)
    # The last shade of red is 255, 0, 0 in every cell.
    np.testing.assert_array_equal(rows[3].reshape(16, 3), np.tile([1.0, 0.0, 0.0], (16, 1)))
