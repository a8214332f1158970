"""Durable writes: the start of writeback is advice, and says nothing."""

from __future__ import annotations

import os
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
