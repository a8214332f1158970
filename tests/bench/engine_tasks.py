"""What `test_engines` gives to workers, in a module that a worker loads in a moment.

They import the module of what they run; a test module of bench takes them three seconds each.
"""

import os
import sys
import time
from pathlib import Path

from bench.errors import ProtocolError
from featstore.parallel import Workers


def square(number, offset=0):
    if number < 0:
        msg = f"got {number}"
        raise ProtocolError(msg)
    return number * number + offset


def process(_):
    return os.getpid()


def threads(_):
    import scipy.linalg  # noqa: F401 -- brings a BLAS of its own, beside NumPy's
    from threadpoolctl import threadpool_info

    return [pool["num_threads"] for pool in threadpool_info()]


def cores(_):
    import ray

    return ray.get_runtime_context().get_assigned_resources()["CPU"]


def die_once(marker, task):
    if not marker.exists():
        marker.touch()
        os._exit(1)
    return task


def tell_and_wait(folder):
    (folder / str(os.getpid())).touch()
    time.sleep(600)


if __name__ == "__main__":
    with Workers(jobs=2).connected() as run:
        list(run(tell_and_wait, [Path(sys.argv[1])] * 2))
