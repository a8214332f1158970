"""Starting: CPU seconds of a help and of a first fit, against those of importing a library."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.perf.engine import PAIRS, Figure, figure_of

#: The command lines whose help is asked for.
HELPS = ("headstock", "headstock store", "headstock extract", "headstock fit", "headstock eval run")
CLICK = "import click"
SKLEARN = "import sklearn.linear_model"
FIT = """
import numpy as np
from fitters import Pairs, fit
rng = np.random.default_rng(0)
x = rng.standard_normal((60, 16))
fit("ridge", real=Pairs(x, x @ rng.standard_normal((16, 12))), rng=rng)
"""


def figures(_: Path) -> Iterator[Figure]:
    """Yield the lines of the group."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # modules are compiled by the warm runs
    for line in HELPS:
        words = [*line.split(), "--help"]
        code = f"import sys; sys.argv = {words}; from headstock.__main__ import main; main()"
        yield compare(f"import.help/{line.replace(' ', '-')}", code, CLICK)
    yield compare("import.first_fit", FIT, SKLEARN)


def compare(name: str, code: str, floor: str) -> Figure:
    """Compare CPU seconds of fresh processes: one runs our code, one imports a library."""
    for warm in (code, floor):  # what is compiled once is no part of it
        cpu_seconds(warm)
    ratios, spent = [], 0.0
    for pair in range(PAIRS):
        seconds = {}
        for side in (code, floor) if pair % 2 == 0 else (floor, code):
            seconds[side] = cpu_seconds(side)
        ratios.append(seconds[floor] / seconds[code])
        spent += sum(seconds.values())
    return figure_of(name, ratios, against=f'python -c "{floor}", CPU', cpu_seconds=spent)


def cpu_seconds(code: str) -> float:
    """Return the processor seconds of a fresh process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
