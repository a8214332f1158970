"""Commands that run: run, task, score, sweep; and check, which runs what is yours."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from click.core import ParameterSource

from bench.cli.main import (
    device_option,
    dry_run_option,
    engine_option,
    jobs_option,
    lists_of,
    out_option,
    recorded_command,
    run_options,
    seeds_option,
    set_options,
    values_of,
)
from bench.suites.single import SWEEP, SetNames
from featstore.cli.manifests import options_option
from featstore.cli.progress import ProgressBar, duration
from featstore.command_line import (
    SectionedCommand,
    StorePlace,
    completed,
    count,
    json_option,
    print_json,
    store_option,
    usage_error,
)
from featstore.options import config_from
from featstore.plugins import KINDS
from featstore.terminal import bad, dim, good, say
from fitters.settings import SETTINGS_SECTION

if TYPE_CHECKING:
    from bench.options import Options
    from bench.runs import Run
    from bench.suites.paper import Lacking
    from bench.suites.registry import Suite

_PACKAGES = ("headstock", "numpy", "scipy", "scikit-learn", "polars", "zarr")


@dataclass(frozen=True)
class Execution:
    """Where runs are made, and what is printed of them.

    Attributes
    ----------
    store : folder or address
    out : Path
        Results folder.
    jobs, engine, weights, device
        As of `bench.execution.run_all`.
    dry_run, as_json : bool
    """

    store: StorePlace
    out: Path
    jobs: int
    engine: Literal["local", "ray"]
    dry_run: bool
    as_json: bool
    device: str = "cpu"
    weights: str | None = None

    def run(self, suite: str, runs: Sequence[Run]) -> None:
        """Make what is not finished, or with `dry_run` plan it, and print what was done."""
        if self.dry_run:
            plan = self._planned(suite, runs)
            if self.as_json:
                print_json(plan)
            else:
                click.echo(f"{_summary(suite, plan)}.")
            return
        session = self.make(suite, runs)
        if self.as_json:
            print_json({"results": str(self.out), "store": str(self.store), **session})
        else:
            click.echo(
                f"{suite}: {session['reused']:,} reused, {count(session['new'], 'new run')} of "
                f"{count(session['fits'], 'fit')} in {duration(session['seconds'])}; results are "
                f"in {self.out}"
            )

    def _planned(self, suite: str, runs: Sequence[Run]) -> dict[str, int]:
        from bench.results import finished

        with ProgressBar(suite, doing="looking at finished runs"):
            have = finished(self.out)
            new = [run for run in runs if run.run_id not in have]
        fits = len({run.fit_key for run in new})
        return {"runs": len(runs), "reused": len(runs) - len(new), "new": len(new), "fits": fits}

    def make(self, suite: str, runs: Sequence[Run]) -> dict[str, Any]:
        """Make what is not finished, and return what is recorded of it as a session."""
        import platform

        from bench.execution import run_all
        from bench.results import read_sessions, versions, write_session

        plan = self._planned(suite, runs)
        click.echo(_summary(suite, plan), err=True)
        ended = [one for one in read_sessions(self.out) if one.get("seconds") is not None]
        started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        session: dict[str, Any] = {
            "command": recorded_command(),
            "started": started,
            "seconds": None,
            "jobs": self.jobs,
            "engine": self.engine,
            "suite": suite,
            "new": plan["new"],
            "reused": plan["reused"],
            "fits": plan["fits"],
            "versions": {"python": platform.python_version(), **versions(_PACKAGES)},
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
        }
        record: Callable[[dict[str, Any]], None] = partial(
            write_session, self.out, f"{started.replace(':', '').replace('-', '')}-{os.getpid()}"
        )
        if plan["new"]:
            # Until it has ended, what it will make stands beside it: see `unfinished`.
            record(session | {"planned": [run.run_id for run in runs]})
        with ProgressBar(suite, "fits", total=plan["fits"]) as bar:
            done = run_all(
                runs, self.store, self.out, jobs=self.jobs, engine=self.engine,
                weights=self.weights, device=self.device, on_done=lambda _: bar.advance(),
            )  # fmt: skip
        session |= {"seconds": done.seconds, "new": done.new, "reused": done.reused}
        if plan["new"] or session["command"] not in [one.get("command") for one in ended]:
            record(session)
        return session


def _summary(suite: str, plan: Mapping[str, int]) -> str:
    return (
        f"{suite}: {plan['runs']:,} runs, {plan['reused']:,} finished, {plan['new']:,} new in "
        f"{count(plan['fits'], 'fit')}"
    )


_ROWS = {
    "Names": "--variants --templates --head-variants --head-templates --pair-variants "
    "--pair-templates --locale",
    "Heads": "--head-rows --clusters --head-size --head-by --leave-seen",
}
_PROTOCOL = {
    "Splits": "--eval --train-split --train-fraction --pairs-per-class --relevance --limit",
    "How settings are chosen": "--criterion --validation",
}


def _suites() -> Iterable[str]:
    from bench.suites.registry import SUITES

    return SUITES


def _tasks() -> Iterable[str]:
    from bench.options import TASKS

    return TASKS


class _SuiteCommand(SectionedCommand):
    """Lists the suites in its help; they are imported only then."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from bench.suites.registry import SUITES

        with formatter.section("Suites"):
            formatter.write_dl(SUITES.known())
        super().format_options(ctx, formatter)


@click.command(
    "run",
    cls=_SuiteCommand,
    sections={
        "Options": "--suite --store -o --dataset --method --source --limit --jobs --dry-run",
        "Rows and names": "--label-set --variants --templates --head-variants --head-templates",
        "Few-shot suites": "--shots --learners",
        "How settings are chosen": "--penalty --mix --criterion --validation",
        **SETTINGS_SECTION,
    },
    epilog="\b\nExample:"
    "\n  headstock eval run --suite demo --store build/demo/store -o build/demo/results --jobs 2"
    "\n  headstock eval run --suite demo --dataset mine --store store -o results"
    "\n  headstock eval run --suite demo --store build/demo/store -o results --method ridge,csa \\"
    "\n      --source none,head"
    "\n  headstock eval run --suite controls --store build/demo/store -o results --jobs 2"
    "\n  headstock eval run --suite smoke -o /tmp/results"
    "\n  headstock eval run --suite few-shot --dataset stamps --shots 1,2 --learners gda,proker \\"
    "\n      --store build/demo/store -o results"
    "\n  headstock eval run --suite paper --store store -o results --dry-run",
)
@click.option(
    "--suite",
    required=True,
    shell_complete=completed(_suites),
    help="Run this suite: one of those above, or of another package.",
)
@store_option(
    "Read from this store, a folder or an address. The smoke suite makes its own if none is given.",
    required=False,
)
@out_option
@click.option(
    "--dataset",
    default=None,
    help="Score this dataset, which has images and class names, instead of stamps or of all that "
    "the store has (suites demo, controls, few-shot).",
)
@click.option(
    "--label-set",
    default=None,
    help="Use the head of this label set, if the store has several (suites demo, controls, "
    "few-shot).",
)
@click.option("--shots", type=values_of("shots", task="few_shot"), metavar="NUMBERS",
              help="Use these numbers of labelled images per class, separated by commas (suite "
                   "few-shot) [default: 1,2,4,8,16].")  # fmt: skip
@click.option("--learners", type=values_of("learner", task="few_shot"), metavar="NAMES",
              help="Run these learners, separated by commas (suite few-shot) [default: all but "
                   "paper-few-shot].")  # fmt: skip
@click.option("--method", "methods", type=values_of("method"), metavar="NAMES",
              help="Run these methods instead of the suite's own, separated by commas. The suite "
                   "paper runs only these of its own.")  # fmt: skip
@click.option("--source", "sources", type=values_of("source"), metavar="NAMES",
              help="Use these sources of prototypes instead of the suite's own, separated by "
                   "commas: none, head, random, random-cov, shuffled. The suite controls runs "
                   "only these of its own.")  # fmt: skip
@click.option("--limit", "limits", type=values_of("limit", several=False), metavar="N",
              help="Score at most N images, for a quick look; every row records it.")  # fmt: skip
@run_options("fit", "data", without=("method", "pair_variants", "pair_templates", "locales"))
@jobs_option
@engine_option
@device_option
@dry_run_option
@json_option
def run_command(suite: str, store: StorePlace | None, out: Path, **given: Any) -> None:
    """Run a suite on a store and write its results.

    Runs that are finished in the results folder are skipped; a run whose data, settings or
    definitions changed has another id and is made anew. What the store lacks of the paper suite is
    listed, with the commands that make it. Prompts and settings are the suite's own, unless they
    are named: a setting is given to the methods that have it, and several values of it, separated
    by commas, make a run each.
    """
    import tempfile

    from bench.errors import ProtocolError
    from bench.suites.registry import suite_named, suite_runs
    from bench.suites.single import check_settings
    from featstore.store.gc import make_store
    from featstore.store.store import open_store

    chosen = suite_named(suite)
    store = _store_for(chosen, store, suite)
    lists = lists_of(given, "fit", "data")
    (limit,) = given["limits"] or (None,)
    named = {name: given[name] or () for name in ("methods", "sources")}
    check_settings(lists, named["methods"])
    data = _own_options(chosen, suite, given)
    with tempfile.TemporaryDirectory() if given["dry_run"] else nullcontext(out) as own:
        folder: StorePlace | None = store
        place = None
        with ProgressBar(suite, doing="listing runs"):
            if folder is None:
                assert chosen.create_store is not None
                folder = Path(own) / "store"
                chosen.create_store(folder)
            elif given["dry_run"] and chosen.lacking and _is_nothing(folder):
                # A store that does not exist yet lacks everything.
                place, folder = str(folder), Path(own) / "store"
                make_store(folder)
            opened = open_store(folder)
            missing = chosen.lacking(opened, place) if chosen.lacking else []
            runs = suite_runs(suite, opened, lists=lists, limit=limit, **named, **data)
        if given["dry_run"] and chosen.outline and not given["as_json"]:
            for one, state in chosen.outline(missing):
                click.echo(f"  {one.name} ({one.where}): {state}")
        if missing and not given["as_json"]:
            _print_lacking(place or folder, missing, every=given["dry_run"])
        if not runs and not given["dry_run"]:
            raise ProtocolError(
                f"{folder} holds no sets of suite {suite!r} that fit together, so nothing can be "
                "run yet. --dry-run lists all that is missing, with the commands that make it."
            )
        config_from(Execution, given, store=folder, out=out).run(suite, runs)


def _own_options(chosen: Suite, suite: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return the given options that only some suites have; usage error for those of others."""
    from bench.suites.registry import SUITES

    special = dict.fromkeys(name for one in SUITES.values() for name in one.takes)
    data = {name: given[name] for name in special if given[name] is not None}
    for name in data:
        if name not in chosen.takes:
            owners = ", ".join(own for own, one in SUITES.items() if name in one.takes)
            raise usage_error(
                f"--{name.replace('_', '-')} is for suite {owners}; {suite} has its own."
            )
    return data


def _store_for(chosen: Suite, store: StorePlace | None, name: str) -> StorePlace | None:
    """Return the store that a suite reads; None where it makes its own."""
    context = click.get_current_context()
    if chosen.create_store is None:
        if store is None:
            raise usage_error(f"Suite {name!r} needs --store, the folder or address that it reads.")
    elif context.get_parameter_source("store") is ParameterSource.ENVIRONMENT:
        store = context.params["store"] = None  # the variable names the store of other suites
    return store


def _is_nothing(store: StorePlace) -> bool:
    """Whether a store is a folder that is not there yet, or an empty one."""
    if "://" in str(store):
        return False
    folder = Path(store)
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


#: Lacking sets that are listed beside a run; `--dry-run` lists them all.
_SHOWN = 3


def _print_lacking(store: StorePlace, missing: Sequence[Lacking], *, every: bool) -> None:
    """Print what a store lacks and how it is made: with `every`, on stdout."""
    sets = count(sum(len(one.encoders) for one in missing), "set")
    click.echo(f"{store} lacks {sets} of this suite:", err=not every)
    shown = missing if every else missing[:_SHOWN]
    for manifest in dict.fromkeys(one.manifest for one in shown):
        click.echo(f"  {manifest}", err=not every)
    for one in shown:
        purpose = "; ".join(part for part in (", ".join(one.experiments), one.note) if part)
        click.echo(f"  {one.command}   # {purpose}", err=not every)
    if every:
        click.echo("DATA and WEIGHTS are folders of yours; docs/ref/boxes.md has the downloads.")
    if len(shown) < len(missing):
        click.echo("  and more: --dry-run lists them all", err=True)


task_option = click.option(
    "-O",
    "--option",
    "words",
    multiple=True,
    metavar="NAME=VALUE",
    help="Set an option of the task; repeatable. The error for an unknown one lists all.",
)


@click.command(
    "task",
    cls=SectionedCommand,
    sections={
        "Options": "--store -o --images --names --captions --head --head-names --method --source "
        "--n-pairs --seeds -O",
        **_ROWS,
        **_PROTOCOL,
        **SETTINGS_SECTION,
    },
    epilog="\b\nExample:"
    "\n  headstock eval task few_shot --images stamps/image/tf_efficientnet_lite0 \\"
    "\n      --names stamps/class_name/all-MiniLM-L6-v2 \\"
    "\n      --head imagenet1k/head_weight/tf_efficientnet_lite0 \\"
    "\n      --head-names imagenet1k/class_name/all-MiniLM-L6-v2 \\"
    "\n      --method ridge --source head --eval in-class -O shots=1 -O learner=lp++ \\"
    "\n      -O prototypes=names --seeds 0-2 --store build/demo/store -o results"
    "\n  headstock eval task generalised --images stamps/image/tf_efficientnet_lite0 \\"
    "\n      --names stamps/class_name/all-MiniLM-L6-v2 \\"
    "\n      --head imagenet1k/head_weight/tf_efficientnet_lite0 \\"
    "\n      --head-names imagenet1k/class_name/all-MiniLM-L6-v2 \\"
    "\n      --method ridge --source head --store build/demo/store -o results"
    "\n  headstock eval task neighbours --images stamps/image/tf_efficientnet_lite0 \\"
    "\n      --head imagenet1k/head_weight/tf_efficientnet_lite0 \\"
    "\n      --head-names imagenet1k/class_name/all-MiniLM-L6-v2 \\"
    "\n      --store build/demo/store -o results"
    "\n\n\b\nExample with an open_clip model, whose images and texts share a space:"
    "\n  headstock eval task retrieval --images coco/image/oc:ViT-B-32 \\"
    "\n      --captions coco/caption/oc:ViT-B-32 --eval split -O captions=5 \\"
    "\n      --store store -o results"
    "\n  headstock eval task few_shot --images pets/image/oc:ViT-B-32-quickgelu \\"
    "\n      --names pets/class_name/oc:ViT-B-32-quickgelu --eval split -O shots=16 \\"
    "\n      -O learner=coop --seeds 0-4 --store store -o results"
    "\n  headstock eval task few_shot --images pets/image/ViT-B-32 --names "
    "pets/class_name/ViT-B-32 \\"
    "\n      --views pets.views10-seed0/image/ViT-B-32 --eval split -O shots=4 \\"
    "\n      -O learner=tip-adapter --seeds 0-4 --store store -o results"
    "\n  headstock eval task zero_shot --images stamps/image/tf_efficientnet_lite0 \\"
    "\n      --names stamps/class_name/all-MiniLM-L6-v2 \\"
    "\n      --head imagenet1k/head_weight/tf_efficientnet_lite0 \\"
    "\n      --head-names imagenet1k/class_name/all-MiniLM-L6-v2 --head-templates none \\"
    "\n      --method paper-mlp --source head --store build/demo/store -o results",
)
@click.argument("name", shell_complete=completed(_tasks))
@store_option("Read from this store, a folder or an address.")
@out_option
@set_options
@run_options(
    "protocol", "fit", "data", without=("control_draw",), defaults={"method": ["identity"]}
)
@seeds_option("0")
@task_option
@click.option("--unseen-only", is_flag=True,
              help="Score only classes that the head's label set lacks (zero_shot).")  # fmt: skip
@click.option("--weights", type=click.Path(), default=None,
              help="Load the weights of the text tower, through which coop and cocoop learn "
                   "prompts, from here, as in headstock extract [default: the hub].")  # fmt: skip
@jobs_option
@engine_option
@device_option
@dry_run_option
@json_option
def task_command(name: str, words: tuple[str, ...], **given: Any) -> None:
    """Run the task NAME on the sets named and write its results.

    NAME is zero_shot, generalised, retrieval, few_shot, head_names, neighbours, modality_gap,
    neural_collapse, cosine_head, hubness or spectrum; docs/ref/tasks.md says what each measures.
    `headstock eval ls --tasks` lists them, with those of other packages.
    Most options take several values, separated by commas (`--method ridge,csa --source
    head,random`): every combination is a run for each seed. `headstock eval table` prints a table,
    with `--part rows` the rows.
    """
    from bench.options import TASKS
    from bench.runs import Run
    from bench.suites.single import SUITE, check_settings, combinations
    from featstore.errors import unknown_name
    from featstore.store.store import open_store
    from fitters.cli.fit import parse_seeds

    if name not in TASKS:
        raise usage_error(unknown_name("task", name, TASKS))
    seeds = parse_seeds(given["seeds"])
    if given["unseen_only"]:
        words = (*words, "classes=unseen")
    options = _parsed(name, words)
    lists = {"method": ("identity",), **lists_of(given, "protocol", "fit", "data")}
    check_settings(lists, lists["method"])
    sets = config_from(SetNames, given).fields(open_store(given["store"]))
    lists["pairs_from"] = (sets.pop("pairs_from", ()),)
    make = partial(Run.of, suite=SUITE, task=name, options=options, **sets)
    runs = combinations(make, {"seed": seeds, **lists})
    config_from(Execution, given).run(SUITE, runs)


def _parsed(task: str, words: tuple[str, ...]) -> Options:
    """Return the options of a task; what is wrong with them is wrong usage."""
    from bench.errors import ProtocolError
    from bench.options import parse_options

    try:
        return parse_options(task, list(words))
    except ProtocolError as err:
        raise usage_error(str(err)) from err


@click.command(
    "sweep",
    cls=SectionedCommand,
    sections={
        "Options": "--store -o --dataset --task --method --source --n-pairs --penalty --mix "
        "--seeds --jobs --dry-run",
        **_ROWS,
        **_PROTOCOL,
        **SETTINGS_SECTION,
    },
    epilog="\b\nExample:"
    "\n  headstock eval sweep --store build/demo/store -o build/demo/sweep --jobs 2"
    "\n  headstock eval sweep --store build/demo/store -o build/demo/sweep --method "
    "ridge,procrustes"
    " --source none,head,random --n-pairs 16,all --mix 1,3 --penalty 0.1,1 --seeds 0,1,2",
)
@store_option("Read from this store, a folder or an address.")
@out_option
@click.option(
    "--dataset", default=None, help="Score the images of this dataset, if the store has several."
)
@click.option(
    "--label-set", default=None, help="Use the head of this label set, if the store has several."
)
@click.option("--task", "tasks", type=values_of("task"), metavar="NAMES",
              help="Run these tasks, separated by commas [default: "
              "zero_shot,retrieval].")  # fmt: skip
@run_options("protocol", "fit", "data", without=("control_draw",), defaults=SWEEP)
@seeds_option("0-4")
@jobs_option
@engine_option
@device_option
@dry_run_option
@json_option
def sweep_command(
    dataset: str | None, label_set: str | None, tasks: tuple[str, ...] | None, **given: Any
) -> None:
    """Run every combination of the listed values.

    Options take several values, separated by commas. Cells of one seed share their moments: a
    ridge is fitted in milliseconds a cell, other methods of moments in some tenths of a second,
    methods that need rows as slowly as in a suite. Penalties and mixing weights are swept, not
    chosen; other settings (gamma) are at their defaults, unless they are listed. Tables,
    comparisons and the report read a sweep as they read a suite.
    """
    from bench.options import TASKS
    from bench.suites.inventory import find_fits
    from bench.suites.single import SWEEP, SWEEP_SUITE, check_settings, sweep_runs
    from featstore.errors import unknown_name
    from featstore.store.store import open_store
    from fitters.cli.fit import parse_seeds

    for name in tasks or ():
        if name not in TASKS:
            raise usage_error(unknown_name("task", name, TASKS))
    own: dict[str, Any] = {"seed": parse_seeds(given["seeds"])}
    own |= {} if tasks is None else {"task": tasks}
    own |= lists_of(given, "protocol", "fit", "data")
    check_settings(own, own.get("method", SWEEP["method"]))
    opened = open_store(given["store"])
    fits = find_fits(opened, dataset=dataset, label_set=label_set)
    runs = [run for fit in fits for run in sweep_runs(opened, fit, own)]
    config_from(Execution, given).run(SWEEP_SUITE, runs)


@click.command(
    "check",
    epilog="\b\nExample:\n  headstock check aligner ridge\n  headstock check learner class-means "
    "--json",
)
@click.argument(
    "kind", type=click.Choice([kind for kind in KINDS if kind not in ("suite", "place")])
)
@click.argument("what")
@click.option("--location", type=click.Path(path_type=Path),
              help="Check a source on this location, or a dataset in this root "
              "folder.")  # fmt: skip
@options_option("an encoder, a source or a dataset", "What defines it")
@json_option
def check_command(
    kind: str, what: str, location: Path | None, options: dict[str, str], as_json: bool
) -> int:
    """Check a method, task, encoder, source or dataset of your own.

    WHAT is a name (of an encoder FAMILY:MODEL), module:Object or file.py:Object (of an encoder with
    :MODEL behind). The check runs on planted rows and reads no store. It prints a line for every
    property that others rely on: ✓ it holds; ✗ what was expected, what was found and what to do;
    – it does not apply. The exit code is 1 if one does not hold. docs/ref/extend.md says how each
    kind is written.
    """
    from bench.contracts import contract_of

    if kind == "source" and location is None:
        raise usage_error("A source lists files: give it some by --location PATH.")
    contract = contract_of(kind, what, location=location, options=options)
    found = []
    for one in contract.findings():
        found.append(one)
        if not as_json:
            text = one.text or one.promise.partition("\n")[0]
            say(_MARKS[one.kept], f" {one.name}: {text}")
    if as_json:
        print_json({"kind": kind, "what": what, "checks": [asdict(one) for one in found]})
    return int(any(one.kept is False for one in found))


_MARKS = {True: good("✓"), False: bad("✗"), None: dim("–")}
