"""Durable writes: whole or not at all, and nothing beside them; writeback is only advice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from featstore.durable import _sync_file_range, begin_writeback, write_durably


def test_writeback_changes_no_byte_and_forgives_a_closed_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with path.open("wb", buffering=0) as file:
        file.write(b"abc" * 5000)
        begin_writeback(file.fileno(), 100, 10_000)
        begin_writeback(file.fileno(), 0, 10**9)
        closed = os.dup(file.fileno())
    os.close(closed)
    begin_writeback(closed, 0, 10)
    assert path.read_bytes() == b"abc" * 5000


@pytest.mark.skipif(sys.platform != "linux", reason="sync_file_range is Linux's")
def test_the_system_takes_the_call(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb", buffering=0) as file:
        file.write(bytes(8192))
        assert _sync_file_range()(file.fileno(), 0, 8192, 2) == 0
    assert _sync_file_range()(-1, 0, 8192, 2) == -1


def test_a_name_appears_with_its_whole_content(tmp_path: Path) -> None:
    write_durably(tmp_path / "new" / "x", [b"ab", memoryview(b"cd")])
    assert (tmp_path / "new" / "x").read_bytes() == b"abcd"
    assert os.listdir(tmp_path / "new") == ["x"]  # noqa: PTH208


#: Writes a file, and sends itself a signal when half of it is written.
HALF = """
import os, sys
from pathlib import Path
from featstore.durable import write_durably

def parts():
    yield b"a" * 100_000
    os.kill(os.getpid(), int(sys.argv[2]))
    yield b"b"

write_durably(Path(sys.argv[1]), parts())
"""


def start_half(path: Path, sent: signal.Signals) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", HALF, str(path), str(int(sent))])


@pytest.mark.skipif(sys.platform != "linux", reason="sends signals of POSIX")
def test_the_next_writer_takes_away_what_a_killed_one_left(tmp_path: Path) -> None:
    for _ in range(2):
        assert start_half(tmp_path / "x", signal.SIGKILL).wait(60) == -signal.SIGKILL
        (left,) = os.listdir(tmp_path)  # noqa: PTH208
        assert left.startswith(".x.")
        (tmp_path / left).chmod(0o444)  # as it is when it is complete
    write_durably(tmp_path / "x", [b"whole"])
    assert os.listdir(tmp_path) == ["x"]  # noqa: PTH208
    # So does a name that the caller chose.
    (tmp_path / "chosen").write_bytes(b"half")
    write_durably(tmp_path / "x", [b"again"], staged=tmp_path / "chosen")
    assert (tmp_path / "x").read_bytes() == b"again"
    assert os.listdir(tmp_path) == ["x"]  # noqa: PTH208


@pytest.mark.skipif(sys.platform != "linux", reason="sends signals of POSIX")
def test_what_a_writer_that_lives_has_begun_stays_its_own(tmp_path: Path) -> None:
    child = start_half(tmp_path / "x", signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
    write_durably(tmp_path / "x", [b"other"])
    assert (tmp_path / "x").read_bytes() == b"other"
    child.send_signal(signal.SIGCONT)
    assert child.wait(60) == 0
    assert (tmp_path / "x").read_bytes() == b"a" * 100_000 + b"b"
    assert os.listdir(tmp_path) == ["x"]  # noqa: PTH208


@pytest.mark.skipif(sys.platform != "linux", reason="links and pipes of POSIX")
def test_a_link_or_a_pipe_in_the_way_is_neither_followed_nor_waited_for(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"not ours")
    staged = tmp_path / f".x.{'0' * 8}.staged"
    for plant in (lambda: staged.symlink_to(other), lambda: os.mkfifo(staged)):
        plant()
        write_durably(tmp_path / "x", [b"whole"])
        assert (tmp_path / "x").read_bytes() == b"whole"
        staged.unlink(missing_ok=True)
    assert other.read_bytes() == b"not ours"
