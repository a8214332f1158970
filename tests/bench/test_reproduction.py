"""Boxes: what they may say, what they may run, and a study repeated from end to end."""

import json
import re
import shutil

import pytest
from click.testing import CliRunner

from bench.cli.demo import DEMO, Job, Step, reproduce_command
from bench.errors import BoxError
from bench.reproduction import (
    BUILT_IN,
    compare_box,
    expected_table,
    missing_sets,
    parse_box,
    read_box,
)
from featstore import copy_sets
from tests.featstore.remote.hub_server import TOKEN, hub_server

BOX = """
format = 1
name = "smoke"
title = "The smoke suite"
[store]
address = "OUT/store"
lacking = "Ask for STORE."
[[run]]
title = "Run the suite"
command = "headstock eval run --suite smoke --store STORE -o OUT/results"
[expected]
suite = "smoke"
tolerance = 0.05
"""


@pytest.fixture(scope="module")
def box(smoke_results):
    """A box that expects what the smoke suite gives."""
    return BOX + expected_table(smoke_results, suite="smoke", metrics=["top-1", "R@1"])


def changed(text, old, new):
    assert old in text
    return text.replace(old, new, 1)


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_boxes_are_whole(name):
    found = read_box(name)
    assert found.name == name
    assert found.run
    assert found.lacking


def test_the_demo_and_its_box_are_the_same_study():
    found = read_box("demo")
    commands = [step.command.replace("OUT/store", "STORE") for step in DEMO.steps]
    own = [command for _, command in (*found.make, *found.run)]
    assert own == [command for command in commands if command in own]
    assert [c for c in commands if c.split()[1] in ("data", "extract")] == own[:-1]


def test_what_was_recorded_is_reproduced(box, smoke_results):
    outcome = compare_box(parse_box(box.encode()), smoke_results)
    assert outcome.holds
    assert len(outcome.numbers) > 20
    assert outcome.sentence.startswith("Reproduced: all")
    certificate = outcome.certificate()
    assert certificate["verdict"] == "reproduced"
    assert certificate == compare_box(parse_box(box.encode()), smoke_results).certificate()


def test_a_number_that_is_off_and_one_that_is_missing_are_named(box, smoke_results):
    found = parse_box(box.encode())
    first = found.expected[0]
    off = changed(box, f'"{first["metric"]}", {first["percent"]:g}]', f'"{first["metric"]}", -9]')
    outcome = compare_box(parse_box(off.encode()), smoke_results)
    (wrong,) = [number for number in outcome.numbers if not number.holds]
    assert wrong.expected == -9
    assert wrong.ours == pytest.approx(first["percent"], abs=0.005)
    lost = changed(box, f'"{first["method"]}"', '"no-such-method"')
    outcome = compare_box(parse_box(lost.encode()), smoke_results)
    assert [number.ours for number in outcome.numbers if not number.holds] == [None]
    assert "1 have no result of ours" in outcome.sentence


def test_a_row_that_means_several_cells_is_refused(smoke_results):
    vague = BOX + 'columns = ["method", "metric", "percent"]\nrows = [["ridge", "top-1", 1]]\n'
    with pytest.raises(BoxError, match=r"\d+ cells are ridge, top-1"):
        compare_box(parse_box(vague.encode()), smoke_results)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("format = 1", "format = 9", "its format is 9"),
        ("format = 1", "format = 1\nmore = 2", "more is unknown"),
        ("format = 1", "format = [", "it is not TOML"),
        ('name = "smoke"', "", "name must be a text"),
        ("[store]", "[shop]", "no table"),
        ("headstock eval run", "rm -rf", "A box may run"),
        ("headstock eval run", "headstock store rm", "A box may run"),
        ("headstock eval run", "headstock store pull STORE OUT/x", "A box may run"),
        ("headstock eval run", "headstock eval run; rm", "A box may run"),
        ("headstock eval run", "headstock eval run '", "is no command"),
        ("headstock eval run", "headstock eval run /etc/passwd", "names things"),
        ("-o OUT/results", "-o /etc", "below OUT"),
        ("-o OUT/results", "-o OUT/../x", "below OUT"),
        ("-o OUT/results", "-o/etc", "which a box may not"),
        ("-o OUT/results", "--out=OUT/results", "which a box may not"),
        ("-o OUT/results", "", "needs -o"),
        ("--store STORE", "", "needs --store"),
        ("--store STORE", "--store=STORE", "which a box may not"),
        ("--store STORE", "--store /srv", "below OUT and STORE"),
        ("--suite smoke", "--suite smoke --plugin x.py", "which a box may not"),
        ("--suite smoke", "--suite smoke --config x.toml", "which a box may not"),
        ("headstock eval run --suite smoke", "headstock extract OUT/m", "which a box may not"),
        (
            "eval run --suite smoke --store STORE -o OUT/results",
            "extract OUT/m --store STORE",
            "fills the store",
        ),
        ('name = "smoke"', 'name = "../../x"', "name must be of letters"),
        ("tolerance = 0.05", 'tolerance = "abc"', "percentage points from 0 on"),
        ("tolerance = 0.05", "tolerance = inf", "percentage points from 0 on"),
        ("tolerance = 0.05", "tolerance = -1", "percentage points from 0 on"),
        ("tolerance = 0.05", "columns = [[1]]", "must be a list of texts"),
        ("tolerance = 0.05", "rows = [1]", "one a column"),
        ("tolerance = 0.05", "rows = 1", "list of rows"),
        ('lacking = "Ask for STORE."', "sets = 1", "must be a list of texts"),
        (
            "tolerance = 0.05",
            'columns = ["n_pairs", "metric", "percent"]\nrows = [[0, "R@1", 1]]',
            "must have a text as n_pairs",
        ),
        ("tolerance = 0.05", 'columns = ["place"]', "expected.columns"),
        ("tolerance = 0.05", 'columns = ["metric"]\nrows = [[1, 2]]', "must have 1 values"),
        ("tolerance = 0.05", 'columns = ["metric"]\nrows = [["R@1"]]', "needs a metric"),
    ],
)
def test_what_a_box_may_not_say_is_named(old, new, said):
    with pytest.raises(BoxError, match=said.replace("[", r"\[")):
        parse_box(changed(BOX, old, new).encode())


def test_a_box_fills_no_store_but_its_own():
    make = "[[store.make]]\ntitle = 't'\ncommand = 'headstock extract OUT/m --store STORE'\n"
    text = changed(BOX, "[[run]]", f"{make}[[run]]")
    assert parse_box(text.encode()).make
    for address in ("/srv/store", "s3://b/x", "OUT/../x"):
        with pytest.raises(BoxError, match=r"store\.make fills a store below OUT"):
            parse_box(changed(text, "OUT/store", address).encode())


def test_a_column_that_the_table_lacks_is_no_result_of_ours(smoke_results):
    text = BOX + 'columns = ["metric", "percent"]\nrows = [["no-metric", 1]]\n'
    assert compare_box(parse_box(text.encode()), smoke_results).numbers[0].ours is None


def test_a_place_without_a_box(tmp_path):
    with pytest.raises(BoxError, match="demo, paper, a TOML file"):
        read_box(str(tmp_path / "none.toml"))


def test_words_that_only_begin_like_a_place_stay():
    step = Step("t", "headstock eval run --suite OUTER -o OUT/r --store STORE")
    job = Job("x", "", "", (step,), store="s3://b/OUT")
    assert job.commands("a b") == ["headstock eval run --suite OUTER -o 'a b/r' --store s3://b/OUT"]


def test_missing_sets(smoke_store, tmp_path):
    text = changed(BOX, "lacking", 'sets = ["smoke/image/synthetic", "no/image/set"]\nlacking')
    found = parse_box(text.encode())
    assert missing_sets(found, str(smoke_store)) == ["no/image/set"]
    assert missing_sets(found, str(tmp_path / "nowhere")) == list(found.sets)
    (tmp_path / "box.toml").write_text(text)
    said = CliRunner().invoke(
        reproduce_command, [str(tmp_path / "box.toml"), "--store", str(smoke_store)]
    )
    assert isinstance(said.exception, BoxError)
    assert f"Ask for {smoke_store}." in str(said.exception)


def test_a_study_is_repeated_from_end_to_end(box, smoke_results, smoke_store, tmp_path):
    """The finished runs are used again; the verdict is the exit code."""
    out = tmp_path / "out"
    shutil.copytree(smoke_results, out / "results")
    shutil.copytree(smoke_store, out / "store")
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text(box)
    run = BOX[BOX.index("[[run]]") : BOX.index("[expected]")]
    off = re.sub(r'"top-1", [\d.]+\]', '"top-1", 1234]', changed(box, run, ""), count=1)
    bad.write_text(off)
    for file, code, verdict in ((good, 0, "reproduced"), (bad, 1, "not reproduced")):
        words = [str(file), "-o", str(out), "--json"]
        done = CliRunner().invoke(reproduce_command, words, standalone_mode=False)
        assert done.return_value == code
        assert json.loads(done.stdout) == json.loads((out / "certificate.json").read_text())
        assert json.loads(done.stdout)["verdict"] == verdict
    done = CliRunner().invoke(reproduce_command, [str(bad), "-o", str(out)])
    assert "Not reproduced" in done.output
    done = CliRunner().invoke(reproduce_command, [str(good), "-o", str(out), "--record", "top-1"])
    assert done.output == expected_table(smoke_results, suite="smoke", metrics=["top-1"])


# huggingface_hub 2.4 hands httpx2 an upload in a way that this deprecates.
@pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")
def test_a_store_of_the_hub_gives_the_numbers_of_the_folder_bit_for_bit(
    box, smoke_results, smoke_store, tmp_path, monkeypatch
):
    """From an empty cache, by the box alone."""
    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    address = "hf://datasets/team/smoke"
    with hub_server(None, "team/smoke") as hub:
        for name, value in {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0",
                            "XDG_CACHE_HOME": str(tmp_path / "cache")}.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        copy_sets(smoke_store, address)
        text = changed(box, 'address = "OUT/store"', f'address = "{address}"')
        (tmp_path / "box.toml").write_text(text)
        words = [str(tmp_path / "box.toml"), "-o", str(tmp_path / "out"), "--json"]
        done = CliRunner().invoke(reproduce_command, words, standalone_mode=False)
        assert done.return_value == 0
        assert hub.count("GET", "/embedding/")
    here = compare_box(parse_box(box.encode()), smoke_results).certificate()
    certificate = json.loads((tmp_path / "out" / "certificate.json").read_text())
    for fact in ("numbers", "revisions", "results"):
        assert certificate[fact] == here[fact]
