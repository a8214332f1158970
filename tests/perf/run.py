"""Speed as ratios against a floor or a peer, both measured alternately in this one run.

``make perf`` (or ``make perf ONLY=store``) prints a table and writes ``build/perf.json``;
docs/measurements/performance.md says what each line means. A figure below its goal is said, not
failed, because a shared machine may cause it; a figure that is missing fails the run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from tests.perf import (
    benchmarks,
    bridge,
    decoding,
    extract,
    fitting,
    imports,
    share,
    store,
    table,
    training,
)
from tests.perf.engine import GOALS, Figure, processor

GROUPS: dict[str, Callable[[Path], Iterator[Figure]]] = {
    "import": imports.figures,
    "store": store.figures,
    "decode": decoding.figures,
    "extract": extract.figures,
    "fit": fitting.figures,
    "train": training.figures,
    "bench": benchmarks.figures,
    "bridge": bridge.figures,
    "share": share.figures,
}


def main() -> int:
    """Run the groups asked for, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=sorted(GROUPS), help="one group")
    parser.add_argument("--out", type=Path, default=Path("build"), help="folder of perf.json")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    figures = []
    if hasattr(os, "getloadavg"):
        print(f"load average {os.getloadavg()[0]:.1f} on {processor()}", flush=True)
    print(table.heading(), flush=True)
    for name, group in GROUPS.items():
        if arguments.only in (None, name):
            for figure in group(arguments.out):
                figures.append(figure)
                print(table.line(figure), flush=True)
    rows = [asdict(figure) for figure in figures]
    (arguments.out / "perf.json").write_text(json.dumps(rows, indent=1) + "\n")
    expected = {goal for goal in GOALS if arguments.only in (None, goal.split(".")[0])}
    missing = sorted(expected - {figure.name for figure in figures if figure.n})
    if missing:
        print(f"perf: no figure for {', '.join(missing)}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
