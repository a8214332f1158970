"""Are the tests able to see a broken line?  ``python -m tests.mutants [WORD ...]``

Each line of tests/mutants/table.py is broken by itself on a copy of the tree, and the tests named
for it must fail. With words, only mutants of which the area, the file or the line holds one of
them. What survives is listed, and the exit code is 1. Some 6 seconds of a core each.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.mutants.run import Mutant, judge_all
from tests.mutants.table import MUTANTS

#: Mutants side by side.
JOBS = 2


def main(words: list[str]) -> int:
    """Judge the mutants that hold one of these words, or all; return the exit code."""
    chosen: list[Mutant] = [
        mutant
        for area, mutants in MUTANTS.items()
        for mutant in mutants
        if not words or any(word in f"{area} {mutant.name}" for word in words)
    ]
    if not chosen:
        areas = ", ".join(MUTANTS)
        print(f"No mutant holds {' or '.join(words)}. Areas: {areas}.", file=sys.stderr)
        return 2
    left = []
    with tempfile.TemporaryDirectory(prefix="headstock-mutants-") as folder:
        try:
            for verdict in judge_all(chosen, Path(folder), jobs=JOBS):
                print(
                    f"{verdict.seconds:5.1f} s  {verdict.outcome:9}{verdict.mutant.name}",
                    flush=True,
                )
                if verdict.outcome != "killed":
                    left.append(verdict)
        except ValueError as err:
            print(err, file=sys.stderr)
            return 1
    for verdict in left:
        mutant = verdict.mutant
        print(
            f"\n{verdict.outcome}: {mutant.name}\n  {mutant.guards}\n  {mutant.text.strip()}\n"
            f"  became  {mutant.broken.strip()}\n  {verdict.said.strip()}",
            file=sys.stderr,
        )
    print(f"{len(chosen) - len(left)} of {len(chosen)} mutants were killed")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
