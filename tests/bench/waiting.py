"""A benchmark of which two workers say who they are and wait: to be killed by a test."""

import os
import sys
import time
from pathlib import Path

from featstore.parallel import Workers


def tell_and_wait(folder):
    (folder / str(os.getpid())).touch()
    time.sleep(600)


if __name__ == "__main__":
    with Workers(jobs=2).connected() as run:
        list(run(tell_and_wait, [Path(sys.argv[1])] * 2))
