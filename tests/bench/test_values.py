"""Values of options: lists, one value, none, and the command line that is recorded of them."""

import json
import shlex

import click
import pytest

import bench
from bench.cli.headstock import cli as headstock
from bench.cli.main import cli, typed_command, words_of
from bench.cli.run import run_command as run_a_suite
from bench.cli.run import sweep_command
from bench.results import read_results
from bench.suites.demo import possible_pairs
from featstore import open_store
from featstore.command_line import run_command


@pytest.fixture
def refused(capsys, tmp_path):
    """Run a command line that is wrong usage; returns what it says: one line."""

    def run(*arguments):
        assert run_command(cli, "bench", [*map(str, arguments), "-o", str(tmp_path / "r")]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.count("\n") == 1
        assert not (tmp_path / "r").exists()
        return said.err

    return run


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("score a --store s --images i --names n --limit 10,20", "'--limit': takes one value of N"),
        ("score a --store s --images i --relevance class_id,parent_id", "takes one value of"),
        ("run --suite smoke --limit 10,20", "'--limit': takes one value of N; got 2."),
        ("run --suite smoke --limit ''", "'--limit': expected N, got nothing."),
        ("run --suite smoke --method ''", "'--method': expected NAMES, got nothing."),
        ("run --suite smoke --source ,", "'--source': expected none|head|random"),
        ("run --suite smoke --penalty ''", "'--penalty': expected auto|NUMBER, got nothing."),
        ("sweep --store s --limit ''", "'--limit': expected N, got nothing."),
        ("sweep --store s --method ' '", "'--method': expected NAMES, got nothing."),
        ("sweep --store s --n-pairs ''", "'--n-pairs': expected all|N, got nothing."),
        ("sweep --store s --variants ''", "'--variants': expected NAMES, got nothing."),
        ("sweep --store s --task ''", "'--task': expected NAMES, got nothing."),
        ("sweep --store s --task zero_short", "Did you mean 'zero_shot'?"),
        ("sweep --store s --seeds -1", "--seeds is a list such as 0-4 or 0,2,5; got '-1'."),
        ("task zero_shot --store s --images i --seeds x", "--seeds is a list such as"),
    ],
)
def test_too_many_values_and_none_are_wrong_usage(refused, typed, said):
    assert said in refused(*shlex.split(typed))


def test_an_option_takes_no_more_values_than_can_be_run(refused):
    many = ",".join(map(str, range(1, 10_002)))
    said = refused("sweep", "--store", "s", "--penalty", many)
    assert "'--penalty': takes at most 10,000 values; got 10,001." in said


def test_words_are_parted_by_commas_and_blanks():
    assert words_of(" a, b,,c d ") == ["a", "b", "c", "d"]
    assert words_of(" , ") == []


def test_the_smallest_of_several_limits_bounds_the_pairs(smoke_store, tmp_path, capsys):
    opened = open_store(smoke_store)
    images = str(opened.info("smoke/image/synthetic").key)
    few, more = (possible_pairs(opened, images, (8, 30), seeds=(0, 1), limits=limits)
                 for limits in ((20, 72), (72,)))  # fmt: skip
    assert (few, more) == ([8], [8, 30])
    words = "sweep --n-pairs 8,30 --source none --penalty 1 --mix 1 --seeds 0 --task zero_shot"
    words += f" --store {smoke_store} -o {tmp_path / 'r'} --limit 20,72 --dry-run"
    assert run_command(cli, "bench", words.split()) == 0
    assert capsys.readouterr().out == "sweep: 2 runs, 0 finished, 2 new in 2 fits.\n"


def _typed(command, name, words):
    """Return the command line that is recorded of a command with these words."""
    with command.make_context(name, [*words], parent=click.Context(cli, info_name="bench")):
        return typed_command()


def test_a_recorded_command_has_switches_that_are_off_and_the_store_of_the_environment(
    monkeypatch,
):
    monkeypatch.setenv("HEADSTOCK_STORE", "/a store")
    words = ["-o", "r", "--method", "paper-mlp,ridge", "--uncentred", "--sequential", "--jobs", "2"]
    typed = _typed(sweep_command, "sweep", words)
    assert typed == (
        "bench sweep --store '/a store' --out r --method paper-mlp,ridge --uncentred --sequential "
        "--jobs 2"
    )
    typed = _typed(sweep_command, "sweep", [*words[:4], "--centred", "--store", "s"])
    assert typed == "bench sweep --store s --out r --method paper-mlp,ridge --centred"
    assert _typed(run_a_suite, "run", ["--suite", "smoke", "-o", "r", "--limit", "9"]) == (
        "bench run --suite smoke --store '/a store' --out r --limit 9"
    )


def test_a_suite_with_its_own_store_does_without_that_of_the_environment(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("HEADSTOCK_STORE", str(tmp_path / "nowhere"))
    words = f"run --suite smoke -o {tmp_path / 'r'} --limit 30 --method ridge --source head --json"
    assert run_command(cli, "bench", words.split()) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["store"] == str(tmp_path / "r" / "store")
    assert "--store" not in facts["command"]
    monkeypatch.delenv("HEADSTOCK_STORE")
    assert run_command(cli, "bench", shlex.split(facts["command"])[1:]) == 0
    assert "0 new runs" in capsys.readouterr().out


def test_a_sweep_alone_has_a_report_which_shows_the_command_that_was_typed(
    smoke_store, tmp_path, capsys
):
    store, results = str(smoke_store), str(tmp_path / "r")
    words = ["--store", store, "-o", results, "--source", "none,head,random", "--n-pairs", "0,8"]
    words += ["--mix", "1,3", "--penalty", "1", "--seeds", "0,1"]
    assert run_command(headstock, "headstock", ["eval", "sweep", *words]) == 0
    words = ["report", results, "--store", store, "-o", str(tmp_path / "page.html")]
    assert run_command(headstock, "headstock", words) == 0, capsys.readouterr().err
    page = (tmp_path / "page.html").read_text()
    assert f"headstock report {results} --store {store} --out {tmp_path / 'page.html'}" in page
    assert "headstock eval sweep" in page
    assert f"bench report {results}" not in page


def test_results_are_read_from_a_folder_that_is_named_by_a_text(smoke_results):

    rows = bench.read_results(str(smoke_results))
    assert rows.equals(read_results(smoke_results))
    ids = rows["run_id"].unique()
    assert set(bench.read_ranks(str(smoke_results), ids)["run_id"]) <= set(ids)
    found = bench.compare(str(smoke_results), rows)
    assert found.equals(bench.compare(smoke_results, rows))


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("sweep --method rigde", "Did you mean 'ridge'?"),
        ("sweep --method ridge --gamma 3", "has a setting 'gamma'"),
        ("run --suite demo --method rigde", "Did you mean 'ridge'?"),
        ("run --suite demo --method ridge --gamma 3", "has a setting 'gamma'"),
    ],
)
def test_methods_and_their_settings_are_checked_before_the_store_is_read(
    typed, said, capsys, tmp_path
):
    words = [*typed.split(), "--store", str(tmp_path / "none"), "-o", str(tmp_path / "r")]
    assert run_command(cli, "bench", words) == 1
    assert said in capsys.readouterr().err
