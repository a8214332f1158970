"""What long commands show on stderr: a bar at a terminal, a line now and then elsewhere."""

from __future__ import annotations

import io
import re
import sys
import threading

import pytest

from featstore.cli.progress import ProgressBar
from tests.assertions import ends_what_it_starts


def test_what_is_done_at_once_gets_one_line_at_the_end(capsys):
    with ProgressBar("demo", "fits", total=3, terminal=False) as bar:
        for _ in range(3):
            bar.advance()
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert re.fullmatch(r"demo: 3 of 3 fits \(100%\), [\d.,]+ fits/(s|min)\n", err)


@pytest.mark.parametrize("terminal", [True, False])
def test_nothing_to_do_shows_nothing(terminal, capsys):
    with ProgressBar("demo", "fits", total=0, terminal=terminal):
        pass
    assert capsys.readouterr() == ("", "")


def test_what_counts_nothing_leaves_nothing_if_it_is_short(capsys):
    with ProgressBar("csa", doing="fitting", terminal=False):
        pass
    assert capsys.readouterr() == ("", "")


class Written(io.StringIO):
    """Says when a line was written."""

    def __init__(self):
        super().__init__()
        self.line = threading.Event()

    def write(self, text):
        done = super().write(text)
        if "\n" in self.getvalue():
            self.line.set()
        return done


@pytest.mark.parametrize(("unit", "total"), [("fits", 7), ("rows", None), ("", None)])
def test_a_command_in_which_nothing_advances_says_that_it_lives(unit, total, monkeypatch):
    written = Written()
    monkeypatch.setattr(sys, "stderr", written)
    with ProgressBar("csa", unit, total=total, doing="fitting", terminal=False, every=0.001):
        assert written.line.wait(60)
    first = written.getvalue().splitlines()[0]
    if total is None:
        assert re.fullmatch(r"csa: fitting, [\d.]+ s so far", first)
    else:
        assert first == "csa: 0 of 7 fits (0%), fitting"


def test_a_log_names_each_stage_that_takes_a_while(monkeypatch):
    monkeypatch.setattr(sys, "stderr", written := Written())
    with ProgressBar("csa", doing="reading", terminal=False, every=0.001) as bar:
        assert written.line.wait(60)
        written.line.clear()
        bar.stage("choosing penalty")
        while "choosing" not in written.getvalue():
            assert written.line.wait(60)
    assert written.getvalue().startswith("csa: reading, ")
    assert re.search(r"^csa: choosing penalty, [\d.]+ s so far$", written.getvalue(), re.MULTILINE)


def test_bytes_are_counted_from_any_thread(capsys):
    with ProgressBar("to s3://b", "bytes", terminal=False) as bar:
        threads = [threading.Thread(target=bar.advance, args=(1024,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert re.match(r"to s3://b: 8 KiB, .*/s$", capsys.readouterr().err)


def test_time_left_is_told_at_the_pace_so_far():
    bar = ProgressBar("demo", "fits", total=4, terminal=False)
    bar.advance(2)
    assert re.search(r"2 of 4 fits \(50%\), .*, \d.* left", bar.line())


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


def _fails():
    with ProgressBar("x", "rows", terminal=False) as bar:
        bar.advance()
        raise OSError("the disk is full")


def test_an_error_passes_through_and_ends_the_display(capsys):
    with ends_what_it_starts("_write_lines"), pytest.raises(OSError, match="full"):
        _fails()
    assert capsys.readouterr().err.startswith("x: 1 rows")
