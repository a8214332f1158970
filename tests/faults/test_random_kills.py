"""Real kills at random moments of extractions; at every call of each command: `test_matrix`."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from featstore import open_store
from featstore.store import verify_store
from tests.faults.conftest import PLAIN_USER, Children
from tests.faults.scenarios import pictures
from tests.faults.test_every_call import EVERYTHING
from tests.faults.trees import litter, tree

#: Kills before the test is content, and after how many the job is left alone; at each file call:
#: `test_matrix`.
ROUNDS, EVERY = (50, 10) if EVERYTHING else (8, 4)


@pytest.mark.slow
def test_killed_at_random_until_done_it_is_the_same_store(children: Children, memory: Path) -> None:
    arguments = {
        "manifest": pictures(memory / "one", "one", 40),
        "other": pictures(memory / "two", "two", 17),
        "n": 11,
    }
    started = time.monotonic()
    where = memory / "undisturbed kills"
    report = children.run("extract_and_extend", where, args=arguments, **PLAIN_USER)
    assert report["code"] == 0, report["message"]
    whole = time.monotonic() - started
    expected = tree(where)
    rng = np.random.default_rng(20260521)
    kills = completed = 0
    root = memory / "killed"
    while kills < ROUNDS:
        pid = children.start("extract_and_extend", root, args=arguments, **PLAIN_USER)
        # Half of the kills soon after the start, when a resumed run does its work.
        time.sleep(float(rng.uniform(0, whole if rng.random() < 0.5 else whole / 4)))
        os.kill(pid, signal.SIGKILL)
        report = children.wait(pid)
        assert report["code"] in (0, -signal.SIGKILL), report
        if report["code"] != 0:
            kills += 1
            if (root / "log.json").exists():
                assert verify_store(root).problems == []
                store = open_store(root, verify="full")
                for info in store.sets():
                    store.view(str(info.key)).numpy(np.float32)
        if kills % EVERY == 0 or report["code"] == 0:
            # Every so often it is left alone, and everything must be there.
            report = children.run("extract_and_extend", root, args=arguments, **PLAIN_USER)
            assert report["code"] == 0, report["message"]
            assert tree(root) == expected
            assert litter(root) == []
            shutil.rmtree(root)
            completed += 1
    assert completed >= ROUNDS // EVERY
