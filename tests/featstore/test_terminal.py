"""What commands print: on terminals, in tables, as progress; a stranger's text acts on none."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
import pty
import re
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import click
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.tables import comma_separated
from featstore.terminal import ProgressBar, TextTable, good, say
from featstore.testing import item_table, write_set
from tests.assertions import ends_what_it_starts
from tests.typed import commands, headstock

#: Writes the clipboard, rings, blinks, clears (as one C1 character), turns the text around.
EVIL = "\x1b]52;c;Y3Vy\x07\x1b[5;7m\x9b2J\u202e\u2066x\r"

#: The set's key, of which the encoder's name is a part.
KEY = "birds/image/timm.toy-52-c-Y3Vy-5-7m-2J-x"

#: Controls but newline and tab, marks of direction, and what stands for bytes that are no UTF-8.
_RAW = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store and a manifest whose every free text is hostile."""
    root = tmp_path_factory.mktemp("stranger")
    rows = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    rows[1] = rows[0]  # a duplicate, whose ids are shown
    evil = {"split": [f"s{EVIL}"] * 6, "text": [EVIL] * 6, "class_id": [f"c{EVIL}"] * 6}
    items = item_table([f"b/{i}{EVIL}" for i in range(6)], **evil)
    write_set(
        root / "store", rows, items,
        encoder=f"timm:toy{EVIL}", space={"name": EVIL, EVIL: {EVIL: EVIL}},
        facts={"source": EVIL, EVIL: EVIL}, failures={items["item_id"][3]: EVIL},
        run={"date": EVIL, "device": EVIL, "versions": {EVIL: EVIL}},
    )  # fmt: skip
    # Names of files, one of which is no UTF-8.
    for name in (os.fsencode(f"odd{EVIL}"), b"odd\xff\x1b[5m"):
        Path(os.fsdecode(os.fsencode(root / "store") + b"/" + name)).write_bytes(b"x")
    (root / "made").mkdir()
    said = json.dumps(EVIL)
    (root / "made" / "dataset.toml").write_text(
        f"name = 'birds'\nsummary = {said}\npitfalls = [{said}]\n{said} = {said}\n"
    )
    text = {"item_id": f"b/0{EVIL}", "kind": "caption", "text": "x", "split": f"s{EVIL}"}
    pl.DataFrame([text]).write_parquet(root / "made" / "caption.parquet")
    return root


def _commands(root: Path) -> Iterator[list[str]]:
    store, made, key = str(root / "store"), str(root / "made"), KEY
    lines = [
        ["ls", store], ["show", store, key], ["show", store, key + EVIL],
        ["store", "verify", store], ["doctor", store], ["store", "card", store],
        ["store", "diff", store, key, store, key], ["store", "gc", store],
        ["store", "tag", store], ["store", "tag", store, EVIL], ["show", made],
        ["data", "make", made + EVIL, "--as", "labels", "-o", str(root / "out")],
        ["data", "make", made + EVIL, "--as", "folder", "-o", str(root / "out")],
        ["export", store, key, "-o", str(root / f"o{EVIL}"), "--format", "npy"],
        ["import", str(root / f"o{EVIL}.npy"), "--store", str(root / "s"),
         "--dataset", "d", "--kind", "image", "--encoder", EVIL],
        ["store", "push", store, str(root / "copy")], ["store", "repair", store, key],
    ]  # fmt: skip
    for arguments in lines:
        yield arguments
        if arguments[0] not in ("export", "import") and arguments[1] != "push":
            yield [*arguments, "--json"]
    yield ["fit", "ridge", "--store", store, "--images", key, "--captions", EVIL]
    yield ["show", made + EVIL]
    where = ["--store", store, "--images", key, "-o", str(root / "results")]
    yield ["eval", "task", "retrieval", *where]
    # And every command there is, with an option that there is not.
    for (_, *path), command in commands():
        if not isinstance(command, click.Group):
            yield [*path, f"--{EVIL}"]


def _type(lines: list[list[str]], screen: Connection) -> None:
    """Run command lines, one after another, on a screen."""
    os.dup2(screen.fileno(), 1)
    os.dup2(screen.fileno(), 2)
    # As a process that is started has them.
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(  # noqa: SIM115
        2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
    )
    for arguments in lines:
        print("code", headstock(*arguments))
    sys.stdout.flush()


def _run(lines: list[list[str]], *, terminal: str | None) -> str:
    """Return what the commands print, on a pipe or on a terminal of this kind."""
    main, other = os.pipe() if terminal is None else pty.openpty()
    screen = Connection(other, readable=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TERM", terminal or "dumb")
        patch.setenv("COLUMNS", "200")
        child = multiprocessing.get_context("spawn").Process(target=_type, args=(lines, screen))
        child.start()
    screen.close()
    data = b""
    try:
        while piece := os.read(main, 2**16):
            data += piece
    except OSError:  # Linux: the other end was closed
        pass
    os.close(main)
    child.join()
    assert child.exitcode == 0
    return data.decode("utf-8", "surrogateescape").replace("\r\n", "\n")


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("terminal", [None, "xterm"])
def test_no_command_prints_what_acts_on_a_terminal(stranger: Path, terminal: str | None) -> None:
    lines = list(_commands(stranger))
    printed = _run(lines, terminal=terminal)
    assert printed.count("code ") == len(lines)
    assert printed.count("\\x1b]52;c;Y3Vy\\x07") > 60
    if terminal is None:
        (document,) = [one for one in printed.split("code ") if '"failures"' in one]
        shown, _ = json.JSONDecoder().raw_decode(document[document.index("{") :])
        assert shown["space"][EVIL] == {EVIL: EVIL}
        assert list(shown["failures"].values()) == [EVIL]
    else:  # what the progress bar draws, and colours, are ours
        printed = re.sub(r"\x1b\[(\?25[lh]|[12]?[AK]|([012]|3[0-9]|9[0-9])?m)|\r", "", printed)
    assert _RAW.findall(printed) == []


def test_no_text_of_a_csv_is_a_formula() -> None:
    texts = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "a=1", ""]
    frame = pl.DataFrame({"text": texts, "=head": range(8), "number": [-1.5] * 8})
    rows = list(csv.reader(io.StringIO(comma_separated(frame), newline="")))
    assert rows[0] == ["text", "'=head", "number"]
    column = ["'=1+1", "'+1", "'-1", "'@SUM(A1)", "'\tx", "\\rx", "a=1", ""]
    assert [row[0] for row in rows[1:]] == column
    assert {float(row[2]) for row in rows[1:]} == {-1.5}


class _Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


ROWS = [("a/image/model-01234567", "same", "1"), ("b/caption/model-89abcdef", "same", "2,345")]


def _at_a_terminal(monkeypatch: pytest.MonkeyPatch, columns: int, table: TextTable) -> list[str]:
    monkeypatch.setattr(sys, "stdout", screen := _Screen())
    monkeypatch.setenv("COLUMNS", str(columns))
    table.show()
    return [re.sub(r"\x1b\[\d*m", "", line) for line in screen.getvalue().splitlines()]


def test_what_a_terminal_has_no_room_for_is_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    table = TextTable(("NAME", "TYPE", "N"), ROWS)
    assert _at_a_terminal(monkeypatch, 40, table)[1] == "a/image/model-01234567    same      1"
    lines = ["a/image/model-0  same      1", "1234567"]
    assert _at_a_terminal(monkeypatch, 28, table)[1:3] == lines
    # From four rows on, what is the same in all of them is said once; names stay.
    table = TextTable(("NAME", "TYPE", "N"), ROWS[:1] + 3 * ROWS[1:])
    assert _at_a_terminal(monkeypatch, 40, table)[:2] == ["TYPE: same", f"NAME{'N':>27}"]


@given(
    st.lists(st.tuples(st.text("ab/-. ", max_size=40), st.integers(0, 10**6), st.text(max_size=9)),
             min_size=1, max_size=5),
    st.integers(60, 120),
)  # fmt: skip
def test_no_line_of_a_table_is_wider_than_the_terminal(rows, columns):
    with pytest.MonkeyPatch.context() as monkeypatch:
        table = TextTable(("NAME", "N", "WHAT"), [(a, f"{n:,}", b) for a, n, b in rows])
        lines = _at_a_terminal(monkeypatch, columns, table)
    assert max(map(len, lines)) <= columns


@pytest.mark.parametrize(
    ("variables", "coloured"),
    [
        ({}, False),
        ({"FORCE_COLOR": "1"}, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        ({"FORCE_COLOR": "", "NO_COLOR": ""}, False),
    ],
)
def test_a_pipe_is_coloured_only_if_it_is_forced(variables, coloured, monkeypatch, capsys):
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    say(good("OK"), " 1\x1b[5m")
    said = capsys.readouterr().out
    assert said == ("\x1b[32mOK\x1b[0m 1\\x1b[5m\n" if coloured else "OK 1\\x1b[5m\n")


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("headstock l", ["ls"]),
        ("headstock show STORE birds/i", [KEY]),
        ("headstock fit procr", ["procrustes"]),
        ("headstock fit ridge --store STORE --images b", [KEY]),
        ("headstock fit ridge --store nowhere --images b", []),
        ("headstock eval run dem", ["demo"]),
        ("headstock eval task few", ["few_shot"]),
    ],
)
def test_shells_complete_commands_keys_and_methods(stranger, typed, completed, monkeypatch, capsys):
    """As the script of bash asks for it, which is click's: by the environment."""
    words = typed.replace("STORE", str(stranger / "store"))
    monkeypatch.setenv("_HEADSTOCK_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    with pytest.raises(SystemExit) as ended:
        headstock()
    assert ended.value.code == 0
    said = capsys.readouterr().out.strip().splitlines()
    assert [line.split(",")[1] for line in said] == completed


# ---- What long commands show on stderr: a bar at a terminal, a line now and then ------------


def _fails():
    with ProgressBar("x", "rows", terminal=False) as bar:
        bar.advance()
        raise OSError("the disk is full")


def test_an_error_passes_through_and_ends_the_display(capsys):
    with ends_what_it_starts("_write_lines"), pytest.raises(OSError, match="full"):
        _fails()
    assert capsys.readouterr().err.startswith("x: 1 rows")


def test_what_is_done_at_once_gets_one_line_at_the_end(capsys):
    with ProgressBar("demo", "fits", total=3, terminal=False) as bar:
        for _ in range(3):
            bar.advance()
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert re.fullmatch(r"demo: 3 of 3 fits \(100%\), [\d.,]+ fits/(s|min)\n", err)


def test_a_terminal_gets_a_bar_and_stdout_stays_clean(capsys):
    with ProgressBar("toy/image", "rows", terminal=True) as bar:
        bar.update(1, 2, left=320.0)
        print("a row of data")
        bar.update(2, 2, note="1 failed", ending="Writing is the limit.")
    out, err = capsys.readouterr()
    assert out == "a row of data\n"
    assert "toy/image: 2 of 2 rows (100%)" in err
    assert "1 failed" in err
    assert err.splitlines()[-1].endswith("Writing is the limit.")
