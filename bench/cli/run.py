"""Commands that run: run and task; and check, which runs what is yours."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import click
from click.core import ParameterSource

from bench.cli.main import (
    Machines,
    dry_run_option,
    names_option,
    out_option,
    recorded_command,
    run_settings,
    text_options,
    texts_of,
)
from bench.options import FewShot
from bench.runs import IDENTITY, Protocol
from bench.suites import SetNames
from featstore.cli.options import (
    complete_keys,
    prompt_fields,
    say_taken,
    seeds_option,
    take,
    the_store,
)
from featstore.command_line import (
    EXIT_VERIFY,
    Choice,
    SectionedCommand,
    StorePlace,
    count,
    json_option,
    name_argument,
    print_json,
    setting_option,
    store_option,
    usage_error,
)
from featstore.options import (
    Owners,
    config_from,
    options_from,
    plain_settings,
    settings_from,
    typed,
)
from featstore.terminal import ProgressBar, bad, dim, duration, good, say
from fitters.settings import Control

if TYPE_CHECKING:
    from bench.options import Options
    from bench.runs import Run
    from bench.suites import Lists, Suite
    from bench.suites.paper import Lacking
    from featstore.store.store import FeatureStore

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
        f"{suite}: {count(plan['runs'], 'run')}, {plan['reused']:,} finished, {plan['new']:,} new "
        f"in {count(plan['fits'], 'fit')}"
    )


def _names_typed(named: Mapping[str, Any], *usual: str) -> list[str] | None:
    """Return the methods that a command line names, in a help as they were typed."""
    given = named.get("methods") or usual
    return [part for word in given for part in str(word).split(",")] or None


def _task_settings(named: Mapping[str, Any]) -> Owners:
    from bench.options import TASKS

    task = named.get("task")
    if not isinstance(task, str) or task not in TASKS:
        return {}
    return run_settings(_names_typed(named, TASKS[task].method), task)


@click.command(
    "run",
    cls=SectionedCommand,
    named=("Suites", "bench.suites:SUITES"),
    settings=lambda named: (
        run_settings(_names_typed(named)) if {"suite", "methods"} & set(named) else {}
    ),
    sections={
        "Options": "--store --out --dataset --method --dry-run --jobs --setting",
    },
    epilog="\b\nExample:"
    "\n  headstock eval run demo --store build/demo/store -o build/demo/results --jobs 2"
    "\n  headstock eval run demo --dataset mine --store store -o results"
    "\n  headstock eval run demo --store build/demo/store -o results --method ridge,csa \\"
    "\n      --source none,head"
    "\n  headstock eval run controls --store build/demo/store -o results --jobs 2"
    "\n  headstock eval run smoke -o /tmp/results"
    "\n  headstock eval run few-shot --dataset stamps --shots 1,2 --learners gda,proker \\"
    "\n      --store build/demo/store -o results"
    "\n  headstock eval run paper --store store -o results --dry-run"
    "\n  headstock eval run plan.toml --store store -o results",
)
@name_argument("suite", "bench.suites:SUITES", suffix=".toml")
@store_option(
    "Read from this store, a folder or an address. The smoke suite makes its own if none is given.",
    required=False,
)
@out_option
@click.option(
    "--dataset",
    metavar="NAME",
    help="Score this dataset, which has images and class names, instead of stamps or of all that "
    "the store has (suites demo, controls, few-shot).",
)
@click.option(
    "--label-set",
    metavar="NAME",
    help="Use the head of this label set, if the store has several (suites demo, controls, "
    "few-shot).",
)
@click.option("--shots", multiple=True, metavar="NUMBERS",
              callback=typed(plain_settings(FewShot)["shots"], several=True),
              help="Use these numbers of labelled images per class (suite few-shot) [default: "
                   "1,2,4,8,16].")  # fmt: skip
@names_option("--learners", "learners", "Run these learners (suite few-shot) [default: all but "
              "paper-few-shot].")  # fmt: skip
@names_option("--method", "methods", "Run these methods instead of the suite's own. The suite "
              "paper runs only these of its own.")  # fmt: skip
@options_from(Protocol, "source", several=True)
@options_from(Protocol, "limit")
@setting_option(
    "Set an option of the methods that have it, or of METHOD by METHOD.NAME=VALUE; a list is a run "
    "each"
)
@text_options
@options_from(Machines)
@dry_run_option
@json_option
def run_command(suite: str, store: StorePlace | None, out: Path | None, **given: Any) -> None:
    """Run a suite, or a confirmatory plan.

    SUITE is one of those below, or of another package; or a TOML file (docs/ref/boxes.md), which
    is stored before the first score, and whose primary comparison is printed after the last.
    Runs that are finished in the results folder are skipped; a run whose data, settings or
    definitions changed has another id and is made anew. What the store lacks of the paper suite
    is listed, with the commands that make it. Prompts and settings are the suite's own, unless
    they are named.
    """
    (_run_plan if suite.endswith(".toml") else _run_suite)(suite, store, out, given)


def _run_suite(
    suite: str, store: StorePlace | None, out: Path | None, given: dict[str, Any]
) -> None:
    """Make the runs of a suite."""
    import tempfile

    from bench.errors import ProtocolError
    from bench.suites import suite_named, suite_runs
    from featstore.store.gc import make_store
    from featstore.store.store import open_store
    from fitters.methods import methods_with

    chosen = suite_named(suite)
    store = _store_for(chosen, store)
    out = _out_of(out, suite)
    lists = texts_of(given)
    named = {"methods": given["methods"] or (), "sources": given["source"] or ()}
    owners = run_settings(named["methods"] or None)
    of_methods = settings_from(given.pop("words"), owners, runs=True, having=methods_with)
    data = _own_options(chosen, suite, given)
    with tempfile.TemporaryDirectory() if given["dry_run"] else nullcontext(out) as own:
        folder: StorePlace | None = store
        place = None
        with ProgressBar(suite, doing="listing runs"):
            if folder is None:
                assert chosen.create_store is not None
                folder = Path(own) / "store"
                chosen.create_store(folder)
            elif (
                given["dry_run"]
                and chosen.lacking
                and isinstance(folder, Path)
                and not folder.is_file()
                and not any(folder.glob("*"))
            ):
                # A store that does not exist yet, or an empty folder, lacks everything.
                place, folder = str(folder), Path(own) / "store"
                make_store(folder)
            opened = open_store(folder)
            missing = chosen.lacking(opened, place) if chosen.lacking else []
            runs = suite_runs(
                suite, opened, lists=lists, of_methods=of_methods, limit=given["limit"],
                **named, **data,
            )  # fmt: skip
        say_taken()
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


#: Options of `run` that change no number, and so go with a plan.
_BESIDE = {"suite", "store", "out", "dry_run", "as_json", "jobs", "engine", "device"}


def _run_plan(
    place: str, store: StorePlace | None, out: Path | None, given: dict[str, Any]
) -> None:
    """Store a plan, make its runs, and print its outcome."""
    from bench.confirmatory import outcome, read_plan, store_plan
    from featstore.store.store import open_store
    from fitters.cli.fit import typed_options

    if names := sorted(typed_options().keys() - _BESIDE):
        raise usage_error(
            f"{typed_options()[names[0]]} has no place beside a plan: all that is run stands in "
            f"{place}."
        )
    plan, store = read_plan(Path(place)), the_store(store)
    out = _out_of(out, plan.name)
    say_taken()
    runs = plan.runs(open_store(store))
    execution = config_from(Execution, given, store=store, out=out)
    if given["dry_run"]:
        execution.run(plan.name, runs)
        return
    store_plan(out, plan, runs)
    click.echo(f"{plan.name}: digest {plan.digest}, stored in {out / 'plans'}", err=True)
    execution.make(plan.name, runs)
    found = outcome(out, plan, runs)
    if given["as_json"]:
        print_json(found.facts())
        return
    found.table().plain.show()
    click.echo("\n".join(["", *found.lines]))


def _own_options(chosen: Suite, suite: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return the given options that only some suites have; usage error for those of others."""
    from bench.suites import SUITES

    special = dict.fromkeys(name for one in SUITES.values() for name in one.takes)
    data = {name: given[name] for name in special if given[name]}
    for name in data:
        if name not in chosen.takes:
            owners = ", ".join(own for own, one in SUITES.items() if name in one.takes)
            raise usage_error(
                f"--{name.replace('_', '-')} is for suite {owners}; {suite} has its own."
            )
    return data


def _store_for(chosen: Suite, store: StorePlace | None) -> StorePlace | None:
    """Return the store that a suite reads; None where it makes its own."""
    context = click.get_current_context()
    if chosen.create_store is None:
        return the_store(store)
    if context.get_parameter_source("store") is ParameterSource.ENVIRONMENT:
        store = context.params["store"] = None  # the variable names the store of other suites
    return store


def _print_lacking(store: StorePlace, missing: Sequence[Lacking], *, every: bool) -> None:
    """Print what a store lacks, and with `every` how it is made."""
    sets = count(sum(len(one.encoders) for one in missing), "set")
    if not every:
        click.echo(f"{store} lacks {sets} of this suite; --dry-run lists them.", err=True)
        return
    click.echo(f"{store} lacks {sets} of this suite:")
    for manifest in dict.fromkeys(one.manifest for one in missing):
        click.echo(f"  {manifest}")
    for one in missing:
        purpose = "; ".join(part for part in (", ".join(one.experiments), one.note) if part)
        click.echo(f"  {one.command}   # {purpose}")
    click.echo("DATA and WEIGHTS are folders of yours; docs/ref/boxes.md has the downloads.")


@complete_keys
@click.command(
    "task",
    cls=SectionedCommand,
    named=("Tasks", "bench.options:TASKS"),
    settings=_task_settings,
    sections={"Options": "--store --out --method --source --n-pairs --setting"},
    epilog="\b\nExample:"
    "\n  headstock eval task few_shot --images stamps/image/tf_efficientnet_lite0 \\"
    "\n      --names stamps/class_name/all-MiniLM-L6-v2 \\"
    "\n      --head imagenet1k/head_weight/tf_efficientnet_lite0 \\"
    "\n      --head-names imagenet1k/class_name/all-MiniLM-L6-v2 \\"
    "\n      --source head -s shots=1 -s learner=lp++ --seeds 0-2 \\"
    "\n      --store build/demo/store -o results"
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
    "\n      --captions coco/caption/oc:ViT-B-32 --eval split -s captions=5 \\"
    "\n      --store store -o results"
    "\n  headstock eval task few_shot --images pets/image/oc:ViT-B-32-quickgelu \\"
    "\n      --names pets/class_name/oc:ViT-B-32-quickgelu --method identity --eval split \\"
    "\n      -s shots=16 -s learner=coop --seeds 0-4 --store store -o results"
    "\n  headstock eval task few_shot --images pets/image/ViT-B-32 --names "
    "pets/class_name/ViT-B-32 \\"
    "\n      -s views=pets.views10-seed0/image/ViT-B-32 --method identity --eval split \\"
    "\n      -s shots=4 -s learner=tip-adapter --seeds 0-4 --store store -o results"
    "\n  headstock eval task zero_shot --images stamps/image/tf_efficientnet_lite0 \\"
    "\n      --names stamps/class_name/all-MiniLM-L6-v2 \\"
    "\n      --head imagenet1k/head_weight/tf_efficientnet_lite0 \\"
    "\n      --head-names imagenet1k/class_name/all-MiniLM-L6-v2 --head-prompts :none \\"
    "\n      --method paper-mlp --source head --store build/demo/store -o results",
)
@name_argument("task", "bench.options:TASKS")
@store_option("Read from this store, a folder or an address.", required=False)
@out_option
@options_from(SetNames, inferred=("images",))
@names_option("--method", "methods", "Fit by these methods; identity takes rows as they are, of a "
              "model's two towers [default: ridge for few_shot, else identity].")  # fmt: skip
@options_from(Protocol, several=True)
@text_options
@seeds_option("Run with each of these random seeds, such as 0-4 or 0,2,5.")
@setting_option(
    "Set an option of the task, the methods or the run; a list is a run each, and "
    "METHOD.NAME=VALUE is for one method. `eval task TASK --help` lists them"
)
@click.option("--weights", type=click.Path(), metavar="PLACE",
              help="Load the weights of the text tower, through which coop and cocoop learn "
                   "prompts, from here, as in headstock extract [default: the hub].")  # fmt: skip
@options_from(Machines)
@dry_run_option
@json_option
def task_command(task: str, seeds: tuple[int, ...], **given: Any) -> None:
    """Run TASK on the sets named and write its results.

    TASK is zero_shot, generalised, retrieval, few_shot, neighbours, modality_gap or cosine_head;
    docs/ref/tasks.md says what each measures. `headstock ls --available tasks` lists them, with
    those of other packages.
    Most options take several values, separated by commas (`--method ridge,csa --source
    head,random`): every combination is a run for each seed. `headstock eval table` prints a table,
    with `--part rows` the rows.
    """
    from bench.errors import ProtocolError
    from bench.options import TASKS
    from bench.runs import Run
    from bench.suites import SUITE, combinations
    from featstore.store.store import open_store
    from fitters.methods import methods_with

    methods = given["methods"] or take("methods", (TASKS[task].method,))
    given["eval"] = given["eval"] or take("eval", (TASKS[task].eval,))
    if not given["source"] and not given["n_pairs"] and IDENTITY not in methods:
        given["source"] = take("source", SOURCES)
    values = settings_from(
        given.pop("words"), run_settings(methods, task), runs=True, having=methods_with
    )
    lists = {"method": methods, "seed": seeds, **_lists(given, values.pop("a run"))}
    lists["options"] = _task_options(task, values.pop(task))
    given |= {"store": the_store(given["store"]), "out": _out_of(given["out"], task)}
    opened = open_store(given["store"])
    sets = config_from(SetNames, given | _find_sets(opened, task, given)).fields(opened)
    say_taken()
    lists["pairs_from"] = (sets.pop("pairs_from", ()),)
    if "n_pairs" in lists and not lists["pairs_from"][0]:
        lists["n_pairs"] = _possible(opened, sets["image_set"], lists)
    runs = combinations(partial(Run.of, suite=SUITE, task=task, **sets), lists, values)
    if not runs:
        raise ProtocolError(
            "Nothing is left to run: source 'none' needs real pairs, the others 0 or more that the "
            "split can give, and pairs per class need eval 'in-class' or 'split'. Ask for other "
            "sources or numbers of pairs."
        )
    config_from(Execution, given).run(SUITE, runs)


def _possible(store: FeatureStore, images: str, lists: Lists) -> Sequence[Any]:
    """Return the numbers of real pairs that every new split can give; say which are left out."""
    from bench.corpus import FRESH_SPLITS
    from bench.suites.demo import possible_pairs

    asked, evals = lists["n_pairs"], set(lists.get("eval", ())) & set(FRESH_SPLITS)
    possible = possible_pairs(
        store, images, asked, seeds=lists["seed"], evals=evals, limits=lists.get("limit", (None,)),
        fractions=lists.get("train_fraction", (Protocol.train_fraction,)),
    )  # fmt: skip
    if lost := [f"{k:,}" for k in asked if k not in possible]:
        click.echo(f"Left out: --n-pairs {', '.join(lost)}; a split has fewer images.", err=True)
    return possible


def _out_of(out: Path | None, name: str) -> Path:
    return out or take("out", Path("results") / name)


#: What methods are fitted on where nothing is named: the head, beside two controls.
SOURCES = ("head", "random", "shuffled")


def _find_sets(store: FeatureStore, task: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sets of a task as `bench.suites.sets_of_tasks`, and take what was left out."""
    from bench.suites import sets_of_tasks

    reads_head = not {"head", *get_args(Control)}.isdisjoint(given["source"])
    sets = sets_of_tasks(store, given, [task], reads_head=reads_head)
    for role, keys in sets.items():
        if not given[role]:
            take(role, keys)
    return sets


def _lists(given: dict[str, Any], of_runs: dict[str, Any]) -> dict[str, Sequence[Any]]:
    """Return the lists that flags and settings of a run make, and the sets that these name."""
    from featstore.options import settings_of
    from featstore.prompts import parse_prompts

    for name in settings_of(SetNames):
        (given[name],) = of_runs.pop(name, None) or (getattr(SetNames, name),)
    pairs = of_runs.pop("pair_prompts", ())
    lists = texts_of(given)
    if pairs:
        fields = [prompt_fields(parse_prompts(",".join(words)), "pair_") for words in pairs]
        lists |= {n: tuple(one[n] for one in fields) for n in fields[0]}
    flags = {n: given[n] for n in ("eval", "source", "n_pairs", "limit") if given[n]}
    return lists | flags | of_runs


def _task_options(task: str, values: Mapping[str, Sequence[Any]]) -> tuple[Options, ...]:
    """Return the options of a task for each combination of values; a wrong one is wrong usage."""
    from bench.errors import ProtocolError
    from bench.options import options_of

    try:
        return tuple(
            options_of(task, dict(zip(values, one, strict=True)))
            for one in product(*values.values())
        )
    except ProtocolError as err:
        raise usage_error(str(err)) from err


@click.command(
    "check",
    epilog="\b\nExample:\n  headstock check aligner ridge\n  headstock check learner class-means "
    "--json",
)
@click.argument("kind", type=Choice(["aligner", "learner", "task", "encoder"]))
@click.argument("what")
@setting_option("Set an option of an encoder")
@json_option
def check_command(kind: str, what: str, words: tuple[str, ...], as_json: bool) -> int:
    """Check a method, task or encoder of your own.

    WHAT is a name (of an encoder FAMILY:MODEL), module:Object or file.py:Object (of an encoder with
    :MODEL behind). The check runs on planted rows and reads no store. It prints a line for every
    property that others rely on: ✓ it holds; ✗ what was expected, what was found and what to do;
    – it does not apply. The exit code is 4 if one does not hold. docs/ref/extend.md says how each
    kind is written.
    """
    from bench.contracts import contract_of

    contract = contract_of(kind, what, options=dict(word.partition("=")[::2] for word in words))
    found = []
    for one in contract.findings():
        found.append(one)
        if not as_json:
            text = one.text or one.promise.partition("\n")[0]
            say(_MARKS[one.kept], f" {one.name}: {text}")
    if as_json:
        print_json({"kind": kind, "what": what, "checks": [asdict(one) for one in found]})
    return EXIT_VERIFY if any(one.kept is False for one in found) else 0


_MARKS = {True: good("✓"), False: bad("✗"), None: dim("–")}
