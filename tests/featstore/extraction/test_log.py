"""The log of an extraction is a regular file: what may hang or act on being opened is refused."""

import json
import os
import re

import pytest

from featstore.errors import StoreWriteError
from featstore.extraction.progress import JobLog


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("log")])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path, make):
    path = tmp_path / "a.log"
    make(path)
    with pytest.raises(StoreWriteError, match=rf"{re.escape(str(path))}: it is no regular file"):
        JobLog(path)


def test_lines_are_appended_to_a_regular_file(tmp_path):
    path = tmp_path / "new" / "a.log"
    for event in ("begin", "end"):
        log = JobLog(path)
        log.write(event, n=3)
        log.close()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["event"], row["n"]) for row in rows] == [("begin", 3), ("end", 3)]
