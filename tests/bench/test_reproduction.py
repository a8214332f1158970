"""Boxes: what they may say, that they do nothing, and a study repeated from end to end."""

import contextlib
import json
import platform
import re
import shutil
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.cli.demo import reproduce_command
from bench.cli.run import run_command
from bench.errors import BoxError
from bench.reproduction import (
    BUILT_IN,
    STUDIES,
    check_revisions,
    compare_box,
    expected_table,
    missing_sets,
    parse_box,
    read_box,
    sets_of,
)
from bench.results import read_sessions
from featstore import open_store
from featstore.errors import FeatstoreError

BOX = """
format = 1
name = "smoke"
title = "The smoke suite"
[store]
sets = ["smoke/image/synthetic"]
[suite]
name = "smoke"
[expected]
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
    assert (found.name, found.suite) == (name, name)
    assert bool(found.sets) is (name not in STUDIES)
    assert not found.store


def test_what_was_recorded_is_reproduced(box, smoke_results, runs):
    outcome = compare_box(parse_box(box.encode()), smoke_results, runs)
    assert outcome.holds
    assert len(outcome.numbers) > 20
    assert outcome.sentence.startswith("Reproduced: all")
    certificate = outcome.certificate()
    assert certificate["verdict"] == "reproduced"
    assert certificate == compare_box(parse_box(box.encode()), smoke_results, runs).certificate()


def test_a_number_that_is_off_and_one_that_is_missing_are_named(box, smoke_results, runs):
    first = parse_box(box.encode()).expected[0]
    off = changed(box, f'"{first["metric"]}", {first["percent"]:g}]', f'"{first["metric"]}", -9]')
    outcome = compare_box(parse_box(off.encode()), smoke_results, runs)
    (wrong,) = [number for number in outcome.numbers if not number.holds]
    assert wrong.expected == -9
    assert wrong.ours == pytest.approx(first["percent"], abs=0.005)
    lost = changed(box, f'"{first["method"]}"', '"no-such-method"')
    outcome = compare_box(parse_box(lost.encode()), smoke_results, runs)
    assert [number.ours for number in outcome.numbers if not number.holds] == [None]
    assert "1 have no result of ours" in outcome.sentence


def test_a_row_that_means_several_cells_is_refused(smoke_results, runs):
    vague = BOX + 'columns = ["method", "metric", "percent"]\nrows = [["ridge", "top-1", 1]]\n'
    with pytest.raises(BoxError, match=r"\d+ cells are ridge, top-1"):
        compare_box(parse_box(vague.encode()), smoke_results, runs)


REVISION = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("format = 1", "format = 9", "its format is 9"),
        ("format = 1", f"format = {'[' * 3000}{']' * 3000}", "recursion"),
        ('name = "smoke"', 'name = "../../x"', r"matching regex .* `\$\.name`"),
        # A box names no command, no file, no model and no number of processes.
        ("[suite]", "[[run]]\ncommand = 'rm -rf /'\n[suite]", "unknown field `run`"),
        ("sets =", "make = [{command = 'x'}]\nsets =", "unknown field `make`"),
        *[
            ('name = "smoke"\n[e', f'name = "smoke"\n{key} = 1\n[e', f"unknown field `{key}`")
            for key in ("jobs", "weights", "out", "plugins", "device")
        ],
        # Its suite and what it asks of it are Headstock's own.
        ('name = "smoke"\n[e', 'name = "mine"\n[e', r"suite\.name must be one of demo, controls"),
        ('name = "smoke"\n[e', 'name = "smoke"\nmethods = ["x.py"]\n[e', "has 'x.py'; a box"),
        ('name = "smoke"\n[e', 'name = "smoke"\nsources = ["../x"]\n[e', "matching regex"),
        ('name = "smoke"\n[e', f'name = "smoke"\nlimit = {"9" * 400}\n[e', "`int` <="),
        # Its store is at an address that everybody reads alike.
        *[
            ("sets =", f'address = "{address}"\nsets =', "must begin with https:// or hf://")
            for address in ("/srv/store", "http://127.0.0.1/s")
        ],
        ("sets =", 'address = "https://a:b@c.org/s"\nsets =', "holds credentials"),
        ("sets =", 'address = "https://c.org/s"\nsets =', "KEY@REVISION, with the 64 digits"),
        ('sets = ["smoke/image/synthetic"]', 'sets = ["a@12"]', r"matching regex .* `\$\.store"),
        # Its numbers are numbers.
        *[
            ("tolerance = 0.05", f"tolerance = {value}", said)
            for value, said in {"nan": "nan is no number", -1: ">= 0.0", "true": "`bool`"}.items()
        ],
        ("tolerance = 0.05", 'columns = ["metric"]\nrows = [[1, 2]]', "must have 1 values"),
        ("tolerance = 0.05", 'columns = ["metric"]\nrows = [["R@1"]]', "needs a metric"),
    ],
)  # fmt: skip
def test_what_a_box_may_not_say_is_named(old, new, said):
    with pytest.raises(BoxError, match=said) as raised:
        parse_box(changed(BOX, old, new).encode())
    assert len(str(raised.value)) < 500


def test_sets_in_other_revisions_than_a_box_names_are_not_scored(runs):
    named = sets_of(runs)
    assert {key.split("/")[1] for key in named} == {
        "image", "caption", "class_name", "head_weight",
    }  # fmt: skip
    sets = json.dumps([f"{key}@{revision}" for key, revision in named.items()])
    text = changed(BOX, '["smoke/image/synthetic"]', f'{sets}\naddress = "hf://a/b"')
    check_revisions(parse_box(text.encode()), runs)
    key, revision = next(iter(named.items()))
    for other in (text.replace(revision, REVISION), text.replace(f'"{key}@', '"a/b/c@')):
        with pytest.raises(BoxError, match=f"reads '{key}@{revision}' at hf://a/b, and box"):
            check_revisions(parse_box(other.encode()), runs)


def test_what_a_box_asks_is_what_the_command_asks(smoke_store, tmp_path):
    """The options of a box and of `headstock eval run` plan the same runs."""
    asked = 'methods = ["ridge", "conse"]\nsources = ["head"]\nlimit = 60\npenalty = 0.5\n'
    asked += 'templates = ["photo"]\n'
    text = changed(BOX, "[expected]", f"{asked}[expected]")
    runs = parse_box(text.encode()).runs(open_store(smoke_store))
    words = "smoke --method ridge,conse --source head --limit 60 -s penalty=0.5 --dry-run"
    words += f" --prompts :photo --json --store {smoke_store} -o {tmp_path}"
    assert json.loads(CliRunner().invoke(run_command, words.split()).stdout)["runs"] == len(runs)
    assert {run.fit.penalty for run in runs if run.fit.method == "ridge"} == {0.5}
    assert {run.data.templates for run in runs} == {("photo",)}
    assert {run.protocol.limit for run in runs} == {60}


def test_sets_that_a_store_lacks_are_said_and_not_made(smoke_store, tmp_path, monkeypatch):
    text = changed(BOX, 'sets = ["', 'sets = ["no/image/set", "')
    assert missing_sets(parse_box(text.encode()), open_store(smoke_store)) == ["no/image/set"]
    (tmp_path / "box.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(reproduce_command, ["box.toml", "--store", str(smoke_store)])
    assert isinstance(said.exception, BoxError)
    assert f"{smoke_store} lacks 1 set that smoke reads: 'no/image/set'." in str(said.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["box.toml"]
    # A box that is called demo is not the demo: nothing is made for it.
    (tmp_path / "box.toml").write_text(changed(text, 'name = "smoke"', 'name = "demo"'))
    said = CliRunner().invoke(reproduce_command, ["box.toml"])
    assert isinstance(said.exception, FeatstoreError)
    assert [path.name for path in tmp_path.iterdir()] == ["box.toml"]


def test_a_study_is_repeated_from_end_to_end(box, smoke_results, smoke_store, tmp_path):
    """The finished runs are used again; the verdict is the exit code."""
    out = tmp_path / "out"
    shutil.copytree(smoke_results, out / "results")
    shutil.copytree(smoke_store, out / "store")
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text(box)
    bad.write_text(re.sub(r'"top-1", [\d.]+\]', '"top-1", 1234]', box, count=1))
    for file, code, verdict in ((good, 0, "reproduced"), (bad, 4, "not reproduced")):
        words = [str(file), "-o", str(out), "--json"]
        done = CliRunner().invoke(reproduce_command, words, standalone_mode=False)
        assert done.return_value == code
        assert json.loads(done.stdout) == json.loads((out / "certificate.json").read_text())
        assert json.loads(done.stdout)["verdict"] == verdict
    done = CliRunner().invoke(reproduce_command, [str(bad), "-o", str(out)])
    assert "Not reproduced" in done.output
    done = CliRunner().invoke(reproduce_command, [str(good), "-o", str(out), "--record", "top-1"])
    assert done.output == expected_table(smoke_results, suite="smoke", metrics=["top-1"])
    command = {session["command"] for session in read_sessions(out / "results")}
    assert command == {"reproduce BOX --out OUT"}
    assert str(tmp_path) not in (out / "certificate.json").read_text()


#: Events of the interpreter that change files, named by their first argument, and that reach
#: further.
FILES = ("open", "os.mkdir", "os.remove", "os.rename", "os.link", "os.symlink", "os.chmod",
         "os.rmdir", "os.truncate", "os.utime", "shutil.rmtree", "shutil.copyfile")  # fmt: skip
OTHERS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen",
          "socket.connect", "socket.getaddrinfo")  # fmt: skip


class Watch:
    """Tells what this process wrote, started and asked for; one for all tests of a process."""

    def __init__(self):
        self.seen = None
        sys.addaudithook(self._hear)

    def _hear(self, event, args):
        if self.seen is None or threading.get_ident() in self.others:
            return
        if event == "open":
            writes = isinstance(args[1], str) and set(args[1]) & set("wax+")
            writes = writes or (isinstance(args[2], int) and args[2] & 0o3)  # O_WRONLY, O_RDWR
            if not writes:
                return
        if event in (*FILES, *OTHERS):
            self.seen.append((event, str(args[0]) if args else ""))

    @contextlib.contextmanager
    def all(self):
        platform.processor()  # Python asks `uname`, once a process
        # Not what an earlier test left running.
        self.others = {one.ident for one in threading.enumerate()} - {threading.get_ident()}
        self.seen = found = []
        try:
            yield found
        finally:
            self.seen = None


@pytest.fixture(scope="session")
def watch():
    return Watch()


@pytest.fixture(scope="module")
def here(tmp_path_factory, smoke_results):
    """A folder with a module that tells when it is run, and finished results."""
    root = tmp_path_factory.mktemp("here")
    for name in ("evil.py", "x.py", "click.py", "ridge.py", "smoke.py"):
        (root / name).write_text(f"open({str(root / 'RAN')!r}, 'w').close()\n")
    shutil.copytree(smoke_results, root / "out" / "results")
    return root


def tree(root: Path):
    return {str(path.relative_to(root)) for path in root.rglob("*")}


#: What anybody may have written, in place of what stands in a box.
HOSTILE = [
    ("[suite]", "[[run]]\ncommand = 'headstock extract OUT/m --store STORE'\n[suite]"),
    ("tolerance = 0.05", f'columns = ["metric", "percent"]\nrows = [["top-1", 1{"0" * 400}]]'),
    ("tolerance = 0.05", 'columns = ["metric", "percent"]\nrows = [["method", 1]]'),
    *[
        ('name = "smoke"\n[e', f'name = "smoke"\n{more}\n[e')
        for more in (
            'methods = ["HERE/evil.py", "evil"]', 'variants = ["evil"]', "penalty = -1.0",
            'sources = ["$(touch HERE/x)"]',
            'methods = ["ridge"]\nsources = ["head"]\nlimit = 30', "",
        )
    ],
]  # fmt: skip


@pytest.mark.parametrize(("old", "new"), HOSTILE)
def test_no_box_writes_outside_its_folder_or_starts_anything(
    watch, here, smoke_store, monkeypatch, old, new
):
    """Whatever it says: it is a study that is scored, or an error of one line."""
    text = changed(BOX, old, new).replace("HERE", str(here))
    monkeypatch.chdir(here)
    (here / "box.toml").write_text(text)
    before = {path for path in tree(here) if not path.startswith("out")}
    words = ["box.toml", "-o", str(here / "out"), "--store", str(smoke_store)]
    with watch.all() as seen:
        done = CliRunner().invoke(reproduce_command, words, standalone_mode=False)
    if done.exception is not None:
        assert isinstance(done.exception, FeatstoreError), (text, done.exception)
        assert len(str(done.exception).splitlines()) == 1
        assert len(str(done.exception)) < 2000
    else:
        assert done.return_value in (0, 4)
    inside = (str(here / "out"), "/dev/null")
    assert not [one for one in seen if one[0] in OTHERS or not one[1].startswith(inside)], text
    assert {path for path in tree(here) if not path.startswith("out")} == before
