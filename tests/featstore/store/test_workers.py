"""Worker threads: kept between blocks, and made anew in a forked child."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time

import pytest

from featstore.store.staging import run_beside, workers


def test_threads_are_kept() -> None:
    assert workers() is workers()
    assert workers().submit(os.getpid).result(10) == os.getpid()


def test_both_have_ended_whatever_they_raise() -> None:
    ended = []

    def slow() -> None:
        time.sleep(0.05)
        ended.append("slow")

    def failing() -> None:
        raise OSError(28, "full")

    assert run_beside(slow, lambda: 7, before=lambda: ended.append("before")) == (None, 7)
    assert ended == ["before", "slow"]
    with pytest.raises(ZeroDivisionError):
        run_beside(slow, lambda: 1 // 0, before=slow)
    assert ended[2:] == ["slow", "slow"]
    for work, before in ((failing, slow), (slow, failing)):
        ended.clear()
        with pytest.raises(OSError, match="full"):
            run_beside(work, lambda: ended.append("longest"), before=before)
        assert "longest" in ended


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
def test_a_forked_child_makes_its_own() -> None:
    code = """
        import os, warnings
        from featstore.store.staging import workers
        workers().submit(int).result()
        warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is the point
        child = os.fork()
        if not child:
            os._exit(workers().submit(int).result(10) + 7)
        raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False, timeout=60)
    assert done.returncode == 7
