"""A benchmark of which two workers say who they are and wait: to be killed by a test."""

import os
import sys
import time
from pathlib import Path

from bench.engines.processes import run_in_processes


def tell_and_wait(folder):
    (folder / str(os.getpid())).touch()
    time.sleep(600)


if __name__ == "__main__":
    list(run_in_processes(tell_and_wait, [Path(sys.argv[1])] * 2, jobs=2))
