"""Every command that writes, as the fault matrix types it, and those that only read.

A command that is in neither list fails a test. `{web}` is the address of a server of this machine
that serves a store.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import cache
from typing import Any

import click

from tests.typed import commands


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
        What it says, with exit code 2, if nothing is left to do; "" if that is no error.
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
_FIT = "--store store --images toy/image/toy"
_HEAD = "--head labels/head_weight/toy --head-names labels/class_name/toy"
_SETS = "--images toy/image/toy --captions toy/caption/toy"
_EXTRACT = f"headstock extract manifest --kind image {_ENCODER} --thumbnails --jobs 1 --store store"
_HEAD_ROWS = f"headstock extract things.txt --kind head_weight {_ENCODER} --store store"
_LABELS = "headstock data make birds.txt --as labels -o labels"
_IMPORT = ("headstock import rows.npy --items items.csv --dataset birds --kind image "
           "--encoder their:vit --store store")  # fmt: skip
_SMOKE = "headstock eval run smoke --method conse --source head -o results"
_PREFETCH = f"headstock store pull {{web}} --cache-only --select {IMAGES}"
_MOMENTS = f"headstock fit ridge {_FIT} --captions toy/caption/toy -s penalty=1 -o ridge"
_SWEEP = (
    "headstock eval task retrieval --store store -o results --method ridge --eval held-out "
    f"{_SETS} {_HEAD} --source head --n-pairs 0,4 -s mix=1 -s penalty=1 --seeds 0,1"
)
_LITTLE = _SWEEP.replace("--n-pairs 0,4", "--n-pairs 0").replace("--seeds 0,1", "--seeds 0")
_SUBMIT = "headstock eval submit results:ridge/head/0 --name one -o board/one.json"

_FITTED: dict[str, Any] = {"world": "toy", "before": (_MOMENTS,)}
_SWEPT: dict[str, Any] = {"world": "toy", "before": (_SWEEP,)}

WRITES = (
    Command("rm", f"headstock store rm store {IMAGES} --yes", "birds", done="holds no set"),
    Command("rm, of two", f"headstock store rm store {IMAGES} --yes", "two_encoders",
            done="holds no set"),
    Command("rm, unfinished", "headstock store rm store begun/image/toy --yes", "unfinished",
            done="holds no set"),
    Command("rm --items", f"headstock store rm store {IMAGES} --items gone.txt --yes", "withdrawn"),
    Command("gc", "headstock store gc store --grace 1", "litter"),
    Command("compact", "headstock store compact store", "grown"),
    Command("init", "headstock store init store"),
    Command("init --shared", "headstock store init store --shared"),
    Command("tag", "headstock store tag store v1", "tagged"),
    Command("tag --delete", "headstock store tag store v0 --delete", "tagged"),
    Command("sign", "headstock store tag store --sign-key me.pem", "signing"),
    Command("push", "headstock store push store other", "tagged", _OTHER),
    Command("push, behind", "headstock store push store other", "beside", _OTHER),
    Command("pull", "headstock store pull {web} store", threads=True),
    Command("sync", "headstock store push store other --both", "apart", _OTHER),
    Command("repair", f"headstock store repair store {IMAGES}", "lost"),
    Command("repair --from", f"headstock store repair store {IMAGES} --copy copy", "damaged"),
    Command("import", _IMPORT, "rows_of_others"),
    Command("import, joining", _IMPORT, "grown"),
    *(
        Command(f"export {form}", f"headstock export store {IMAGES} --format {form} -o out/{name}",
                "birds")
        for form, name in (("npy", "rows"), ("parquet", "rows.parquet"), ("h5", "rows.h5"),
                           ("safetensors", "rows.safetensors"))
    ),
    Command("data make", "headstock data make photos --as folder -o manifest", "files", ()),
    Command("data make csv", "headstock data make pairs.csv --as csv -o manifest -s images=photos",
            "files", ()),
    Command("data labels", _LABELS, "files", ()),
    Command("data build", "headstock data build dtd --root data -o built --subset", "official", ()),
    Command("data build stamps", "headstock data build stamps -s files=stamps -o built", "stamps",
            ()),
    Command("card", "headstock store card store -o store", "birds"),
    # A shard of the cache that is complete loses its marks when it is opened next.
    Command("prefetch", _PREFETCH, stores=(), threads=True, after=_PREFETCH),
    Command("cache gc", "headstock cache --max-size 0", stores=(), before=(_PREFETCH,)),
    Command("fit", f"headstock fit ridge {_FIT} {_HEAD} -o aligners/ridge", "toy"),
    Command("fit --replace", f"headstock fit ridge {_FIT} {_HEAD} -o ridge --replace", **_FITTED),
    Command("fit, moments", _MOMENTS, "toy"),
    Command("fit, trained",
            f"headstock fit paper-mlp {_FIT} {_HEAD} -o mlp -s epochs=2", "toy"),
    Command("export, an alignment", "headstock export ridge -o ridge.safetensors", **_FITTED),
    Command("apply", "headstock apply ridge --store store --set toy/image/toy -o rows.npy",
            **_FITTED),
    Command("bridge", "headstock bridge old.npy new.npy --seeds 0 -o map.safetensors",
            "two_spaces", ()),
    Command("derive", f"headstock store derive store {IMAGES} --by truncate:2", "birds"),
    Command("eval run", _SMOKE, stores=("results/store",)),
    Command("eval task", f"headstock eval task retrieval {_SETS} --eval split --method ridge "
            f"--source head {_HEAD} --store store -o results", "toy"),
    Command("eval task, lists", _SWEEP, "toy"),
    Command("report", "headstock report results --store store -o report.html", "toy",
            before=(_LITTLE,)),
    Command("eval submit", _SUBMIT, **_SWEPT),
    Command("extract", _EXTRACT, "model"),
    Command("extract, more", _EXTRACT, "model", before=(f"{_EXTRACT} --limit 2",)),
    Command("extract head", _HEAD_ROWS, "model"),
)  # fmt: skip

#: Commands that work in processes of their own -> where those write ("" is the folder of the
#: command), and the number of their first calls, one of which kills one of them.
WORKERS = {
    Command("extract, decoders", _EXTRACT.replace("--jobs 1", "--jobs 2"), "model"): ("socket:", 5),
    Command("extract, devices", f"{_EXTRACT} --device cpu,cpu", "model"): ("", 30),
    Command("eval run, jobs", f"{_SMOKE} --jobs 2", stores=("results/store",)): ("", 30),
}  # fmt: skip

#: Steps that `headstock reproduce demo` is given where it is killed as a whole: as its own, but
#: small.
DEMO = f"""
headstock extract manifest --kind image {_ENCODER} --jobs 2 --store OUT/store
headstock fit ridge {_FIT} --captions toy/caption/toy -s penalty=1 -o OUT/ridge --replace
{_SWEEP.replace("-o results", "-o OUT/results")} --jobs 2
headstock report OUT/results --store store -o OUT/report.html
"""

#: Commands that only read, typed so that they do their work.
READS = (
    Command("ls", "headstock ls store", "birds"),
    Command("show", f"headstock show store {IMAGES}", "birds"),
    Command("verify", "headstock store verify store", "birds"),
    Command("diff", "headstock store diff store other", "beside"),
    Command("doctor", "headstock doctor store", "birds"),
    Command("extract, dry run",
            f"headstock extract manifest --kind image {_ENCODER} --store store --dry-run", "model"),
    Command("card", "headstock store card store", "birds"),
    Command("cache ls", "headstock cache", "birds"),
    Command("data sources", "headstock ls --available sources"),
    Command("data ls", "headstock ls --available datasets"),
    Command("data show", "headstock store verify manifest", "files",
            before=("headstock data make photos --as folder -o manifest",)),
    Command("data check", "headstock data build dtd --dry-run --root data", "official"),
    Command("ls, alignments", "headstock ls .", **_FITTED),
    Command("show, an alignment", "headstock show ridge", **_FITTED),
    Command("apply",
            "headstock apply ridge --store store --set toy/image/toy --near toy/caption/toy",
            **_FITTED),
    Command("eval table", "headstock eval table results", **_SWEPT),
    Command("eval compare", "headstock eval compare results:ridge/head/0 results:ridge/head/4",
            **_SWEPT),
    Command("eval ls", "headstock ls results", **_SWEPT),
    Command("check", "headstock check learner class-means"),
    Command("eval leaderboard", "headstock eval leaderboard board", "toy",
            before=(_SWEEP, _SUBMIT)),
    Command("headstock", "headstock", **_SWEPT),
)  # fmt: skip

#: Commands that need no right to write the store: they write below `mine`, or find all done.
SHARED = (
    Command("extract, done", _EXTRACT, "model", before=(_EXTRACT,)),
    Command("extract, dry run, done", f"{_EXTRACT} --dry-run", "model", before=(_EXTRACT,)),
    Command("extract, rank, done", f"{_EXTRACT} --shard 0/1", "model", before=(_EXTRACT,)),
    Command("extract head, done", _HEAD_ROWS, "model", before=(_HEAD_ROWS,)),
    Command("import, done", _IMPORT, "rows_of_others", before=(_IMPORT,)),
    Command("repair, whole", f"headstock store repair store {IMAGES}", "birds"),
    Command("repair, dry run", f"headstock store repair store {IMAGES} --dry-run", "damaged"),
    Command("gc, dry run", "headstock store gc store --dry-run", "litter"),
    Command("compact, dry run", "headstock store compact store --dry-run", "grown"),
    Command("ls, unfinished", "headstock ls store", "unfinished"),
    Command("verify, litter", "headstock store verify store", "litter"),
    Command("export", f"headstock export store {IMAGES} --format npy -o mine/rows", "birds"),
    Command("push", "headstock store push store mine/other", "tagged"),
    Command("card -o", "headstock store card store -o mine/card.md", "birds"),
    Command("fit", f"headstock fit ridge {_FIT} {_HEAD} -o mine/ridge", "toy"),
    Command("apply -o", "headstock apply ridge --store store --set toy/image/toy -o mine/rows.npy",
            **_FITTED),
    Command("eval task", _LITTLE.replace("-o results", "-o mine/results"), "toy"),
    Command("eval task, done", _LITTLE, "toy", before=(_LITTLE,)),
    Command("report", "headstock report results --store store -o mine/report.html", "toy",
            before=(_LITTLE,)),
    Command("eval submit", _SUBMIT.replace("board/", "mine/"), **_SWEPT),
)  # fmt: skip

#: These write a folder or a page; the rest is done by their steps, commands that are listed above.
STEPS_ONLY = frozenset({"headstock try", "headstock reproduce", "headstock search"})


@cache
def every_command() -> set[str]:
    """Return every command that there is, as it is typed."""
    leaves = (path for path, one in commands() if not isinstance(one, click.Group))
    return {"headstock", *map(" ".join, leaves)}


def path_of(line: str) -> str:
    """Return the command of a line, without its arguments."""
    words, known = shlex.split(line), every_command()
    return next(" ".join(words[:n]) for n in (4, 3, 2, 1) if " ".join(words[:n]) in known)
