"""Nothing but a regular file is ever opened: pipes, sockets, folders and links are refused.

Which names the code opens is found by running it. A default run plants pipes for all that writers
share, and a fixed sample of the rest; ``HEADSTOCK_FAULTS=all`` plants everything everywhere.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.faults.conftest import PICTURES, REPOSITORY

EVERYTHING = os.environ.get("HEADSTOCK_FAULTS") == "all"
ACTIONS = ("look", "clean", "remove", "extend", "write")
THINGS = ("pipe", "socket", "folder", "link")

#: Names that a stranger may put into a store, though no writer makes them.
ODD = [
    "birds/image/{set}/.staging/w9x-y", "birds/image/{set}/.staging/w000009-0123abcd",
    "birds/image/{set}/.staging/part-00000-of-00002", "birds/image/{set}/.staging/part-x",
    "birds/image/{set}/runs/zz.json", "birds/image/thumbnails-0badcafe.parquet",
    "birds/image/items-0badcafe.parquet", "tags/zz.json",
    "birds/zz", "birds/image/zz", ".log.json.0badcafe.staged",
    "birds/image/.thumbnails-0badcafe.parquet.0badcafe.staged",
    "fish/image/{set}/.staging/w9x-y/claim",
]  # fmt: skip


@pytest.fixture(scope="module")
def ask(memory):
    pytest.importorskip("PIL", reason=PICTURES)
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.irregular", str(memory)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def one(**case: Any) -> dict[str, Any]:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(case) + "\n")
        server.stdin.flush()
        answer: dict[str, Any] = json.loads(server.stdout.readline())
        return answer

    yield one
    server.communicate(timeout=60)


@pytest.fixture(scope="module")
def names(ask):
    """Every name that the code opens, whatever it does; those of one run alone are random."""
    found: set[str] = set()
    for action in ACTIONS:
        first, second = (ask(action=action) for _ in range(2))
        assert first["code"] == 0, first
        found |= set(first["opened"]) & set(second["opened"])
    folder = next(name for name in found if name.startswith("birds/image/") and "/runs/" in name)
    return sorted({*found, *(name.replace("{set}", folder.split("/")[2]) for name in ODD)})


def test_the_code_opens_every_kind_of_file(names):
    parts = {part.split("-")[0] for name in names for part in name.split("/")}
    assert {"log.json", "zarr.json", "v1", "lock", "claim", "journal.jsonl"} <= parts
    assert {"golden.json", "data", "0"} <= parts
    assert len(names) > 40


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("what", THINGS)
def test_nothing_hangs_and_nothing_is_followed(ask, names, what, action):
    chosen = set(names if EVERYTHING else names[THINGS.index(what) + ACTIONS.index(action) :: 13])
    if what == "pipe" and action != "look":
        chosen |= {
            name for name in names if name.split("/")[-1] in ("lock", "claim", "journal.jsonl")
        }
    for name in sorted(chosen):
        answer = ask(name=name, what=what, action=action)
        assert answer["code"] == 0, answer
        assert not answer["followed"], answer
