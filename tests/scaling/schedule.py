"""Print and draw how long 10^9 rows take under each policy, beside all speeds together.

    python -m tests.scaling.schedule -o docs/measurements/schedule.png

Simulated, not measured; the same seeds give the same table.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.scaling.simulate import POLICIES, Cluster, Policy, simulate

#: 10^9 rows in blocks of 4,096.
BLOCKS = -(-(10**9) // 4096)

#: A device that encodes 1,000 images a second: an assumption. To begin a part takes 0.1 s: measured
#: by the clock on a busy machine, nearly all of it in eight fsyncs (docs/measurements/scaling.md).
CALM = Cluster(workers=256, block_seconds=4.096, spread=0.05, hand_over=0.1)
SLOW = replace(CALM, slow=0.05, slowness=4.0)

SCENARIOS = {
    "equal machines, speeds ± 5 %": CALM,
    "one in 20 four times slower": SLOW,
    "the same, each lost every 2 h for 10 min": replace(SLOW, mean_up=7200.0, away=600.0),
}

#: Parts for each worker. `headstock extract --device all` and Ray hand out 32 of so long a job.
PARTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SEEDS = range(5)


def ratios(cluster: Cluster, policy: Policy, parts: int) -> tuple[float, float]:
    """Return the median over seeds of time over the ideal, and of the share wasted."""
    size = max(1, round(BLOCKS / cluster.workers / parts))
    runs = [simulate(BLOCKS, cluster, policy, size, np.random.default_rng(seed)) for seed in SEEDS]
    slower = float(np.median([run.makespan / run.ideal for run in runs]))
    return slower, float(np.median([run.wasted for run in runs]))


def main() -> int:
    """Run every scenario, print a table, draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--out", type=Path, help="PNG to draw")
    arguments = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {}
    for name, cluster in SCENARIOS.items():
        print(
            f"\n{name}\n\n| parts a worker | static | queue | duplicates | wasted by duplicates |"
        )
        print("|---|---|---|---|---|")
        static, _ = ratios(cluster, "static", 1)
        found[name] = {"static": [static] * len(PARTS), "queue": [], "duplicates": []}
        for parts in PARTS:
            queue, _ = ratios(cluster, "queue", parts)
            twice, wasted = ratios(cluster, "duplicates", parts)
            found[name]["queue"].append(queue)
            found[name]["duplicates"].append(twice)
            print(f"| {parts} | {static:.2f} | {queue:.2f} | {twice:.2f} | {wasted:.1%} |")
    if arguments.out is not None:
        draw(found, arguments.out)
    return 0


def draw(found: dict[str, dict[str, list[float]]], out: Path) -> None:
    """Draw a panel a scenario."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    colours = {"static": "#8a8a8a", "queue": "#1f6fb4", "duplicates": "#d1662a"}
    figure, axes = plt.subplots(1, len(found), figsize=(11, 3.4), sharey=True, dpi=110)
    for panel, (name, lines) in zip(axes, found.items(), strict=True):
        for policy, values in lines.items():
            panel.plot(PARTS, values, color=colours[policy], marker=".", linewidth=1.6)
        panel.axvline(32, color="#bbbbbb", linewidth=0.8, linestyle=":")
        panel.set_xscale("log", base=2)
        panel.set_xticks(PARTS, [str(parts) for parts in PARTS])
        panel.set_title(name, fontsize=9.5)
        panel.set_xlabel("parts for each worker")
        panel.spines[["top", "right"]].set_visible(False)
    _name_lines(axes[-1], found, colours)
    axes[0].set_ylabel("time ÷ all speeds together")
    axes[0].set_ylim(1.0, 5.0)
    figure.tight_layout()
    figure.savefig(out, metadata={"Software": None})
    plt.close(figure)


def _name_lines(panel: Any, found: dict[str, dict[str, list[float]]], colours: Any) -> None:
    """Write the name of each line of the last panel where there is room beside it."""
    places = {"static": (5, 0, -14), "queue": (0, 6, 6), "duplicates": (1, -31, -27)}
    for policy, values in found[list(found)[-1]].items():
        place, right, up = places[policy]
        panel.annotate(
            policy, (PARTS[place], values[place]), xytext=(right, up), color=colours[policy],
            textcoords="offset points", fontsize=9,
        )  # fmt: skip


if __name__ == "__main__":
    assert set(POLICIES) == {"static", "queue", "duplicates"}
    sys.exit(main())
