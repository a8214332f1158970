"""Every command that writes, as the fault matrix types it, and those that only read.

A command that is in neither list fails a test. `{web}` is the address of a server of this machine
that serves a store.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import click

from bench.cli.main import cli as bench_cli
from featstore.cli import cli as featstore_cli
from fitters.cli import cli as fitters_cli


@dataclass(frozen=True)
class Command:
    """A command line, and the world in which it is typed.

    Attributes
    ----------
    name : str
        What it does, as the table of docs/measurements/reliability.md has it.
    line : str
        As it is typed, in the folder of its world.
    world : str
        Name of one of `tests.faults.worlds.WORLDS`; "" for an empty folder.
    after : str
        A line that is typed before what is left is compared.
    before : tuple of str
        Lines that are typed in that world first, without faults.
    stores : tuple of str
        Folders that are stores, before or afterwards: cleaned and verified after each attempt.
    done : str
        What it says, with exit code 1, if nothing is left to do; "" if that is no error.
    threads : bool
        It writes in several threads: the calls of all of them are counted.
    """

    name: str
    line: str
    world: str = ""
    stores: tuple[str, ...] = ("store",)
    threads: bool = False
    done: str = ""
    after: str = ""
    before: tuple[str, ...] = ()


IMAGES = "birds/image/toy"
_OTHER = ("store", "other")
_ENCODER = "--encoder timm:test_resnet --weights w.safetensors"
_FIT = "--store store --x toy/image/toy"
_HEAD = "--head labels/head_weight/toy --head-names labels/class_name/toy"
_SETS = "--images toy/image/toy --captions toy/caption/toy"
_EXTRACT = f"featstore extract manifest --kind image {_ENCODER} --thumbnails --jobs 1 --store store"
_LABELS = "featstore manifests labels birds.txt -o labels"
_PREFETCH = f"featstore prefetch {{web}} {IMAGES}"
_MOMENTS = f"fitters fit ridge {_FIT} --y toy/caption/toy --penalty 1 -o ridge"
_SWEEP = (
    "bench sweep --store store -o results --task zero_shot,retrieval --method ridge --source head "
    "--n-pairs 0,4 --mix 1 --penalty 1 --seeds 0,1"
)

_SUBMIT = "bench submit results:ridge/head/0 --name one -o board/one.json"

_FITTED: dict[str, Any] = {"world": "toy", "before": (_MOMENTS,)}
_SWEPT: dict[str, Any] = {"world": "toy", "before": (_SWEEP,)}

WRITES = (
    Command("rm", f"featstore rm store {IMAGES} --force", "birds", done="holds no set"),
    Command("rm, of two", f"featstore rm store {IMAGES} --force", "two_encoders",
            done="holds no set"),
    Command("rm, unfinished", "featstore rm store begun/image/toy --force", "unfinished",
            done="holds no set"),
    Command("gc", "featstore gc store --grace 1h", "litter"),
    Command("init", "featstore init store"),
    Command("init --shared", "featstore init store --shared"),
    Command("init --shared, of a store", "featstore init store --shared", "birds"),
    Command("tag", "featstore tag store v1", "tagged"),
    Command("tag --delete", "featstore tag store v0 --delete", "tagged"),
    Command("sign", "featstore sign store --key me.pem", "signing"),
    Command("push", "featstore push store other", "tagged", _OTHER),
    Command("push, behind", "featstore push store other", "beside", _OTHER),
    Command("pull", "featstore pull {web} store", threads=True),
    Command("sync", "featstore sync store other", "apart", _OTHER),
    Command("repair", f"featstore repair store {IMAGES}", "lost"),
    Command("repair --from", f"featstore repair store {IMAGES} --from copy", "damaged"),
    Command("import", "featstore import rows.npy --items items.csv --dataset birds --kind image "
            "--encoder their:vit --store store", "rows_of_others"),
    *(
        Command(f"export {form}", f"featstore export store {IMAGES} --format {form} -o out/{name}",
                "birds")
        for form, name in (("npy", "rows"), ("parquet", "rows.parquet"), ("h5", "rows.h5"),
                           ("safetensors", "rows.safetensors"))
    ),
    Command("manifests make", "featstore manifests make folder photos -o manifest", "files", ()),
    Command("manifests make csv",
            "featstore manifests make csv pairs.csv -o manifest --option images=photos", "files",
            ()),
    Command("manifests labels", _LABELS, "files", ()),
    Command("manifests build", "featstore manifests build dtd --root data -o built --subset",
            "official", ()),
    Command("manifests build stamps", "featstore manifests build stamps --source stamps -o built",
            "stamps", ()),
    Command("card", "featstore card store -o store", "birds"),
    # A shard of the cache that is complete loses its marks when it is opened next.
    Command("prefetch", _PREFETCH, stores=(), threads=True, after=_PREFETCH),
    Command("cache gc", "featstore cache gc --all", stores=(), before=(_PREFETCH,)),
    Command("fitters fit", f"fitters fit ridge {_FIT} {_HEAD} -o aligners/ridge", "toy"),
    Command("fitters fit --force", f"fitters fit ridge {_FIT} {_HEAD} -o ridge --force", **_FITTED),
    Command("fitters fit, moments", _MOMENTS, "toy"),
    Command("fitters fit, trained",
            f"fitters fit paper-mlp {_FIT} {_HEAD} -o mlp --epochs 2", "toy"),
    Command("fitters export", "fitters export ridge -o ridge.safetensors", **_FITTED),
    Command("fitters apply", "fitters apply ridge --store store --view toy/image/toy -o rows.npy",
            **_FITTED),
    Command("bench run", "bench run --suite smoke --method conse --source head -o results",
            stores=("results/store",)),
    Command("bench task", f"bench task retrieval {_SETS} --eval split --method ridge --source head "
            f"{_HEAD} --store store -o results", "toy"),
    Command("bench sweep", _SWEEP, "toy"),
    Command("bench report", "bench report results --store store -o report.html", **_SWEPT),
    Command("bench submit", _SUBMIT, **_SWEPT),
    Command("extract", _EXTRACT, "model"),
    Command("extract, more", _EXTRACT, "model", before=(f"{_EXTRACT} --limit 2",)),
    Command("extract head", f"featstore extract --kind head_weight --label-file things.txt "
            f"{_ENCODER} --store store", "model"),
)  # fmt: skip

#: Commands that work in processes of their own -> where those write ("" is the folder of the
#: command), and the number of their first calls, one of which kills one of them.
WORKERS = {
    Command("extract, decoders", _EXTRACT.replace("--jobs 1", "--jobs 2"), "model"): ("pipe:", 5),
    Command("extract, devices", f"{_EXTRACT} --devices cpu,cpu", "model"): ("", 30),
    Command("bench run, jobs", "bench run --suite smoke --method conse --source head -o results "
            "--jobs 2", stores=("results/store",)): ("", 30),
}  # fmt: skip

#: Steps that `headstock demo` is given where it is killed as a whole: as its own, but small.
DEMO = f"""
headstock extract manifest --kind image {_ENCODER} --jobs 2 --store OUT/store
headstock fit ridge {_FIT} --y toy/caption/toy --penalty 1 -o OUT/ridge --force
headstock eval {_SWEEP.removeprefix("bench ").replace("-o results", "-o OUT/results")} --jobs 2
headstock report OUT/results --store store -o OUT/report.html
"""

#: Commands that only read, typed so that they do their work.
READS = (
    Command("ls", "featstore ls store", "birds"),
    Command("show", f"featstore show store {IMAGES}", "birds"),
    Command("verify", "featstore verify store", "birds"),
    Command("diff", "featstore diff store other", "beside"),
    Command("doctor", "featstore doctor store", "birds"),
    Command("extract, dry run",
            f"featstore extract manifest --kind image {_ENCODER} --store store --dry-run", "model"),
    Command("card", "featstore card store", "birds"),
    Command("cache ls", "featstore cache ls", "birds"),
    Command("manifests sources", "featstore manifests sources"),
    Command("manifests ls", "featstore manifests ls"),
    Command("manifests show", "featstore manifests show manifest --full", "files",
            before=("featstore manifests make folder photos -o manifest",)),
    Command("manifests check", "featstore manifests check dtd --root data", "official"),
    Command("fitters ls", "fitters ls .", **_FITTED),
    Command("fitters show", "fitters show ridge", **_FITTED),
    Command("fitters apply",
            "fitters apply ridge --store store --view toy/image/toy --near toy/caption/toy",
            **_FITTED),
    Command("bench table", "bench table results", **_SWEPT),
    Command("bench compare", "bench compare results:ridge/head/0 results:ridge/head/4", **_SWEPT),
    Command("bench ls", "bench ls results", **_SWEPT),
    Command("bench check", "bench check learner class-means"),
    Command("bench leaderboard", "bench leaderboard board", "toy", before=(_SWEEP, _SUBMIT)),
    Command("headstock", "headstock", **_SWEPT),
)  # fmt: skip

#: `headstock demo` writes a folder; the rest is done by its steps, commands that are listed above.
STEPS_ONLY = frozenset({"headstock demo"})


@cache
def every_command() -> set[str]:
    """Return the program and name of every command that there is."""
    groups = {"featstore": featstore_cli, "fitters": fitters_cli, "bench": bench_cli}
    found = {path for name, group in groups.items() for path in _below(group, name)}
    return found | {"headstock", *STEPS_ONLY}


def _below(group: click.Group, path: str) -> Iterator[str]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from _below(command, f"{path} {name}")
        else:
            yield f"{path} {name}"


def path_of(line: str) -> str:
    """Return the program and name of the command of a line."""
    words, known = shlex.split(line), every_command()
    return next(" ".join(words[:n]) for n in (3, 2, 1) if " ".join(words[:n]) in known)
