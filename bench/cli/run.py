"""Commands that run: run, task, score, sweep."""

from __future__ import annotations

import os
import platform
import shlex
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from bench.cli.main import (
    engine_option,
    jobs_option,
    json_option,
    limit_option,
    store_option,
    text_options,
    texts_given,
)
from featstore.cli.progress import ProgressBar
from featstore.command_line import StorePlace, StoreType, print_json

if TYPE_CHECKING:
    from bench.runs import Run
    from bench.suites.paper import Lacking

_PACKAGES = ("headstock", "numpy", "scipy", "scikit-learn", "polars", "zarr")


def run_and_report(
    suite: str,
    runs: Sequence[Run],
    *,
    store: StorePlace,
    out: Path,
    jobs: int,
    engine: Literal["local", "ray"],
    dry_run: bool,
    as_json: bool,
    weights: str | None = None,
) -> None:
    """Run what is not finished, record the session, and say what was done."""
    from bench.execution import run_all
    from bench.results import finished, write_session

    have = finished(out)
    new = [run for run in runs if run.run_id not in have]
    plan = {"runs": len(runs), "reused": len(runs) - len(new), "new": len(new)}
    plan["fits"] = len({run.fit_key for run in new})
    said = (
        f"{suite}: {plan['runs']:,} runs, {plan['reused']:,} finished, {plan['new']:,} new in "
        f"{plan['fits']:,} fits"
    )
    if dry_run:
        if as_json:
            print_json(plan)
        else:
            click.echo(f"{said}.")
        return
    click.echo(said, err=True)
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with ProgressBar(suite, "fits", total=plan["fits"]) as bar:
        summary = run_all(
            runs,
            store,
            out,
            jobs=jobs,
            engine=engine,
            weights=weights,
            on_done=lambda _: bar.advance(),
        )
    session = {
        "command": typed_command(),
        "started": started,
        "seconds": summary.seconds,
        "jobs": jobs,
        "engine": engine,
        "suite": suite,
        "store": str(store),
        "new": summary.new,
        "reused": summary.reused,
        "versions": _versions(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
    }
    if summary.new:
        name = f"{started.replace(':', '').replace('-', '')}-{os.getpid()}"
        write_session(out, name, session)
    if as_json:
        print_json({"results": str(out), **session})
    else:
        click.echo(
            f"{suite}: reused {summary.reused:,} / new {summary.new:,} runs "
            f"({summary.fits:,} fits) in {summary.seconds:.1f} s -> {out}"
        )


def typed_command() -> str:
    """Return the command line that does this again: every option that was given."""
    context = click.get_current_context()
    words = context.command_path.split()
    for option in context.command.params:
        value = context.params.get(option.name or "")
        given = context.get_parameter_source(option.name or "")
        if given is not click.core.ParameterSource.COMMANDLINE or value in (None, False):
            continue
        if option.name in ("as_json", "dry_run"):
            continue
        name = max(option.opts, key=len)
        if isinstance(option, click.Argument):
            words.append(str(value))
            continue
        values = value if isinstance(value, tuple) else (value,)
        for one in values:
            words += [name] if one is True else [name, str(one)]
    return shlex.join(words)


def _versions() -> dict[str, Any]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


class _SuiteCommand(click.Command):
    """Lists the suites in its help; they are imported only then."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from bench.suites.registry import SUITES

        with formatter.section("Suites"):
            formatter.write_dl([(name, suite.summary) for name, suite in SUITES.items()])
        super().format_options(ctx, formatter)


@click.command(
    "run",
    cls=_SuiteCommand,
    epilog="\b\nExample:"
    "\n  bench run --suite demo --store build/demo/store -o build/demo/results --jobs 2"
    "\n  bench run --suite smoke -o /tmp/results"
    "\n  bench run --suite paper --store store -o results --dry-run",
)
@click.option("--suite", required=True, help="Name of one of the suites above.")
@click.option(
    "--store",
    type=StoreType(),
    default=None,
    help="The store to read: folder or address. The smoke suite makes its own if none is given.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Results folder; finished runs in it are kept.",
)
@jobs_option
@engine_option
@limit_option
@text_options()
@click.option("--dry-run", is_flag=True, help="Say what would be run, and run nothing.")
@json_option
def run_command(
    suite: str,
    store: StorePlace | None,
    out: Path,
    jobs: int,
    engine: Literal["local", "ray"],
    limit: int | None,
    dry_run: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Run a suite on a store and write its results.

    Runs that are finished in the results folder are skipped; a run whose data, settings or
    definitions changed has another id and is made anew. What the store lacks of the paper suite is
    listed, with the commands that make it. Prompts are the suite's own, unless they are named.
    """
    from bench.errors import ProtocolError
    from bench.suites.registry import suite_named, with_texts
    from featstore.store.gc import make_store
    from featstore.store.store import open_store

    chosen = suite_named(suite)
    if store is None and chosen.create_store is None:
        raise click.UsageError(
            f"Suite {suite!r} needs --store, the folder or address that it reads.",
            click.get_current_context(),
        )
    with tempfile.TemporaryDirectory() if dry_run else nullcontext(out) as own:
        folder: StorePlace | None = store
        place = None
        if folder is None:
            assert chosen.create_store is not None
            folder = Path(own) / "store"
            chosen.create_store(folder)
        elif dry_run and chosen.lacking and _is_nothing(folder):
            # What a store lacks that nobody has made yet is everything.
            place, folder = str(folder), Path(own) / "store"
            make_store(folder)
        opened = open_store(folder)
        missing = chosen.lacking(opened, place) if chosen.lacking else []
        if missing and not as_json:
            _say_lacking(place or folder, missing, every=dry_run)
        runs = with_texts(chosen.runs(opened, limit=limit), texts_given(given))
        if not runs and not dry_run:
            raise ProtocolError(
                f"{folder} holds no sets of suite {suite!r} that fit together, so nothing can be "
                "run yet. --dry-run lists all that is lacking, with the commands that make it."
            )
        run_and_report(
            suite, runs, store=folder, out=out, jobs=jobs, engine=engine, dry_run=dry_run,
            as_json=as_json,
        )  # fmt: skip


def _is_nothing(store: StorePlace) -> bool:
    """Whether a store is a folder that is not there yet, or an empty one."""
    if "://" in str(store):
        return False
    folder = Path(store)
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


#: Lacking sets that are listed beside a run; `--dry-run` lists them all.
_SHOWN = 3


def _say_lacking(store: StorePlace, missing: Sequence[Lacking], *, every: bool) -> None:
    """Say what a store lacks, and how it is made: on stdout where that is what was asked for."""
    count = sum(len(one.encoders) for one in missing)
    click.echo(f"{store} lacks {count} sets of this suite:", err=not every)
    shown = missing if every else missing[:_SHOWN]
    for manifest in dict.fromkeys(one.manifest for one in shown):
        click.echo(f"  {manifest}", err=not every)
    for one in shown:
        told = "; ".join(part for part in (", ".join(one.experiments), one.note) if part)
        click.echo(f"  {one.command}   # {told}", err=not every)
    if every:
        click.echo(
            "DATA and WEIGHTS stand for folders of yours; docs/reproduce.md has the downloads."
        )
    if len(shown) < len(missing):
        click.echo("  and more: --dry-run lists them all", err=True)


@click.command(
    "task",
    epilog="\b\nExample:"
    "\n  bench task few_shot --images stamps/image/tf_efficientnet_lite0 \\"
    "\n      --names stamps/class_name/all-MiniLM-L6-v2 \\"
    "\n      --head imagenet1k/head_weight/tf_efficientnet_lite0 \\"
    "\n      --head-names imagenet1k/class_name/all-MiniLM-L6-v2 \\"
    "\n      --method ridge --source head --eval in-class -O shots=1 -O learner=lp++ \\"
    "\n      -O prototypes=names --seeds 3 --store build/demo/store -o results"
    "\n  bench task generalised --images stamps/image/tf_efficientnet_lite0 \\"
    "\n      --names stamps/class_name/all-MiniLM-L6-v2 \\"
    "\n      --head imagenet1k/head_weight/tf_efficientnet_lite0 \\"
    "\n      --head-names imagenet1k/class_name/all-MiniLM-L6-v2 \\"
    "\n      --method ridge --source head --store build/demo/store -o results"
    "\n  bench task neighbours --images stamps/image/tf_efficientnet_lite0 \\"
    "\n      --head imagenet1k/head_weight/tf_efficientnet_lite0 \\"
    "\n      --head-names imagenet1k/class_name/all-MiniLM-L6-v2 \\"
    "\n      --store build/demo/store -o results"
    "\n\n\b\nExample with an open_clip model, whose images and texts share a space:"
    "\n  bench task retrieval --images coco/image/oc:ViT-B-32 \\"
    "\n      --captions coco/caption/oc:ViT-B-32 --eval split -O captions=5 \\"
    "\n      --store store -o results"
    "\n  bench task few_shot --images pets/image/oc:ViT-B-32-quickgelu \\"
    "\n      --names pets/class_name/oc:ViT-B-32-quickgelu --eval split -O shots=16 \\"
    "\n      -O learner=coop --seeds 5 --store store -o results"
    "\n  bench task few_shot --images pets/image/ViT-B-32 --names pets/class_name/ViT-B-32 \\"
    "\n      --views pets.views10-seed0/image/ViT-B-32 --eval split -O shots=4 \\"
    "\n      -O learner=tip-adapter --seeds 5 --store store -o results"
    "\n  bench task zero_shot --images stamps/image/tf_efficientnet_lite0 \\"
    "\n      --names stamps/class_name/all-MiniLM-L6-v2 \\"
    "\n      --head imagenet1k/head_weight/tf_efficientnet_lite0 \\"
    "\n      --head-names imagenet1k/class_name/all-MiniLM-L6-v2 --head-templates none \\"
    "\n      --method paper-mlp --source head --store build/demo/store -o results",
)
@click.argument("name")
@store_option
@click.option("-o", "--out", type=click.Path(path_type=Path, file_okay=False), required=True,
              help="Results folder; finished runs in it are kept.")  # fmt: skip
@click.option("--images", required=True, help="Image set.")
@click.option("--names", default="", help="Class-name set of the images' classes.")
@click.option("--captions", default="", help="Caption set of the images.")
@click.option("--head", default="", help="Head set, with --head-names.")
@click.option("--head-names", default="", help="Class-name set of the head's classes.")
@click.option("--views", default="",
              help="few_shot: set of augmented views of the images.")  # fmt: skip
@click.option("--method", default="identity", show_default=True,
              help="A method of `fitters fit`, or identity: embeddings as they are.")  # fmt: skip
@click.option("--source", default="none", show_default=True,
              help="Prototypes: none, head, random, random-cov or shuffled.")  # fmt: skip
@click.option("--n-pairs", default="0", show_default=True, help="Real training images, or all.")
@click.option("--pairs-per-class", type=click.IntRange(min=0), default=0,
              help="Instead: training images of a class, whose mean meets its name.")  # fmt: skip
@click.option("--eval", "evaluation", default="all-names", show_default=True,
              help="all-names, held-out, split (the manifest's) or in-class.")  # fmt: skip
@click.option("--train-splits", default="train", show_default=True,
              help="Splits that --eval split may train on, by comma.")  # fmt: skip
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True,
              help="Seeds 0 to N - 1.")  # fmt: skip
@click.option("--relevance", default="parent_id", show_default=True,
              help="Column by which captions are right: parent_id or class_id.")  # fmt: skip
@click.option("--locale", "locales", default="", help="Variants of captions, by comma; or all.")
@text_options(pairs=True)
@click.option("--epochs", type=click.IntRange(min=1), default=None,
              help="Epochs of a trained method; those of its preset, if left out.")  # fmt: skip
@click.option("--sequential", is_flag=True,
              help="A trained method sees the prototypes first, then the real pairs.")  # fmt: skip
@click.option("--unseen-only", is_flag=True,
              help="zero_shot: only classes that the head's label set lacks.")  # fmt: skip
@click.option("-O", "--option", "words", multiple=True, metavar="NAME=VALUE",
              help="Option of the task; a wrong one is answered with those it has.")  # fmt: skip
@click.option("--weights", default=None,
              help="Of the text tower that coop and cocoop learn prompts through, as in featstore "
              "extract; the hub otherwise.")  # fmt: skip
@jobs_option
@engine_option
@limit_option
@click.option("--dry-run", is_flag=True, help="Say what would be run, and run nothing.")
@json_option
def task_command(
    name: str,
    store: StorePlace,
    out: Path,
    n_pairs: str,
    evaluation: str,
    seeds: int,
    words: tuple[str, ...],
    unseen_only: bool,
    weights: str | None,
    jobs: int,
    engine: Literal["local", "ray"],
    limit: int | None,
    dry_run: bool,
    as_json: bool,
    **rest: Any,
) -> None:
    """Run the task NAME on the sets named and write its results.

    NAME is zero_shot, generalised, retrieval, few_shot, head_names, neighbours, modality_gap,
    neural_collapse, cosine_head, hubness or spectrum; docs/metrics.md says what each measures.
    `bench frame` prints the rows, `bench table` a table.
    """
    from bench.options import TASK_OPTIONS, parse_options
    from bench.suites.single import SUITE, TaskRequest, task_runs
    from featstore.errors import unknown_name
    from featstore.store.store import open_store

    if name not in TASK_OPTIONS:
        raise click.UsageError(unknown_name("task", name, TASK_OPTIONS))
    if n_pairs != "all" and not n_pairs.isdecimal():
        raise click.UsageError(f"--n-pairs is a number of images, or all; got {n_pairs!r}.")
    if unseen_only:
        words = (*words, "classes=unseen")
    listed: dict[str, Any] = {
        key: tuple(part for part in str(rest.pop(key)).split(",") if part)
        for key in ("locales", "train_splits")
    }
    listed = {key: value for key, value in listed.items() if value} | texts_given(rest)
    request = TaskRequest(
        task=name,
        n_pairs="all" if n_pairs == "all" else int(n_pairs),
        eval=evaluation,
        seeds=range(seeds),
        options=parse_options(name, list(words)),
        **listed,
        **rest,
    )
    runs = task_runs(open_store(store), request, limit=limit)
    run_and_report(
        SUITE, runs, store=store, out=out, jobs=jobs, engine=engine, dry_run=dry_run,
        as_json=as_json, weights=weights,
    )  # fmt: skip


@click.command(
    "score",
    epilog="\b\nExample:"
    "\n  bench score aligners/ridge-head --store build/demo/store \\"
    "\n      --images stamps/image/tf_efficientnet_lite0 \\"
    "\n      --names stamps/class_name/all-MiniLM-L6-v2"
    "\n  bench score aligners/ridge-all --store store --images coco/image/dinov2 \\"
    "\n      --captions coco/caption/all-MiniLM-L6-v2 --eval split -O captions=5 -o scores.csv",
)
@click.argument("aligner", type=click.Path(path_type=Path))
@store_option
@click.option("--task", "tasks", multiple=True, metavar="NAME",
              help="zero_shot, generalised, retrieval or hubness; repeatable. Left out: zero_shot "
              "with --names, retrieval with --captions.")  # fmt: skip
@click.option("--images", required=True, help="Image set.")
@click.option("--names", default="", help="Class-name set of the images' classes.")
@click.option("--captions", default="", help="Caption set of the images.")
@click.option("--head", default="", help="generalised: head set, with --head-names.")
@click.option("--head-names", default="", help="Class-name set of the head's classes.")
@click.option("--eval", "evaluation", type=click.Choice(["all-names", "split"]),
              default="all-names", show_default=True,
              help="All images, or those of the manifest's split test.")  # fmt: skip
@click.option("--relevance", default="parent_id", show_default=True,
              help="Of captions: parent_id or class_id.")  # fmt: skip
@click.option("--locale", "locales", default="", help="Variants of captions, by comma; or all.")
@text_options()
@click.option("-O", "--option", "words", multiple=True, metavar="NAME=VALUE",
              help="Option of the task; a wrong one is answered with those it has.")  # fmt: skip
@click.option("-o", "--out", type=click.Path(path_type=Path, dir_okay=False), default=None,
              help="Write the rows to a file: Parquet (.parquet) or CSV.")  # fmt: skip
@limit_option
@json_option
def score_command(
    aligner: Path,
    store: StorePlace,
    tasks: tuple[str, ...],
    evaluation: str,
    locales: str,
    words: tuple[str, ...],
    out: Path | None,
    limit: int | None,
    as_json: bool,
    **rest: Any,
) -> None:
    """Score ALIGNER, a folder that `fitters fit` wrote, on the sets named.

    The sets must lie in the spaces that it was fitted on. Nothing is fitted and no results folder
    is needed; comparisons, intervals and the report need runs (`bench run`, `bench task`). Images
    and names that the alignment was fitted on are no test of it: keep to held-out ones.
    """
    import polars as pl

    from bench.cli.results import write_rows
    from bench.options import parse_options
    from bench.suites.single import SCORED, TaskRequest, score_alignment
    from bench.tables import score_lines
    from featstore.store.store import open_store
    from fitters.alignment import read_alignment

    wanted = tasks or tuple(
        task for task, key in (("zero_shot", "names"), ("retrieval", "captions")) if rest[key]
    )
    if not wanted or not set(wanted) <= set(SCORED):
        raise click.UsageError(
            f"Give --names or --captions, or --task: {', '.join(SCORED)}.",
            click.get_current_context(),
        )
    shared: dict[str, Any] = {"eval": evaluation, **texts_given(rest), **rest}
    shared["locales"] = tuple(part for part in locales.split(",") if part)
    alignment, opened = read_alignment(aligner), open_store(store)
    scores = pl.concat(
        score_alignment(
            alignment,
            opened,
            TaskRequest(task=task, options=parse_options(task, list(words)), **shared),
            limit=limit,
        )
        for task in wanted
    )
    if out is not None:
        write_rows(out, scores)
    if as_json:
        print_json(scores.to_dicts())
    else:
        click.echo(score_lines(scores).text("table"), nl=False)


_LIST = "Comma- or space-separated."


@click.command(
    "sweep",
    epilog="\b\nExample:"
    "\n  bench sweep --store build/demo/store -o build/demo/sweep --jobs 2"
    "\n  bench sweep --store build/demo/store -o build/demo/sweep --method ridge,procrustes"
    " --source none,head,random --n-pairs 16,all --mix 1,3 --penalty 0.1,1 --seeds 0,1,2",
)
@store_option
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Results folder; finished cells in it are kept.",
)
@click.option("--dataset", default=None, help="Of the images, if the store has several.")
@click.option("--label-set", default=None, help="Of the head, if the store has several.")
@click.option("--method", "methods", default="ridge", show_default=True, help=_LIST)
@click.option(
    "--source",
    "sources",
    default="none,head,random,shuffled",
    show_default=True,
    help=f"none, head, random, random-cov, shuffled. {_LIST}",
)
@click.option("--n-pairs", default="0,16,64,256,all", show_default=True, help=_LIST)
@click.option(
    "--mix", "mixes", default="0.3,1,3", show_default=True,
    help="Mass of one class relative to one real image.",
)  # fmt: skip
@click.option(
    "--penalty", "penalties", default="0.03,0.1,0.3,1,3", show_default=True,
    help="Relative penalties.",
)  # fmt: skip
@click.option("--seeds", default="0,1,2,3,4", show_default=True, help=_LIST)
@click.option("--task", "tasks", default="zero_shot,retrieval", show_default=True, help=_LIST)
@click.option(
    "--eval",
    "evaluation",
    type=click.Choice(["held-out", "all-names"]),
    default="held-out",
    show_default=True,
    help="Score images whose description is held out, or all images against all names.",
)
@click.option(
    "--relevance",
    type=click.Choice(["class_id", "parent_id"]),
    default="class_id",
    show_default=True,
    help="What makes a caption relevant to an image: its class, or being its own.",
)
@click.option("--locales", default="", help="Captions' variants to use; all if left out.")
@text_options()
@jobs_option
@engine_option
@limit_option
@click.option("--dry-run", is_flag=True, help="Say what would be run, and run nothing.")
@json_option
def sweep_command(
    store: StorePlace,
    out: Path,
    dataset: str | None,
    label_set: str | None,
    methods: str,
    sources: str,
    n_pairs: str,
    mixes: str,
    penalties: str,
    seeds: str,
    tasks: str,
    evaluation: str,
    relevance: str,
    locales: str,
    jobs: int,
    engine: Literal["local", "ray"],
    limit: int | None,
    dry_run: bool,
    as_json: bool,
    **texts: Any,
) -> None:
    """Run every combination of what is listed, and write its results.

    Cells of one seed share their moments: a ridge is fitted in milliseconds a cell, other methods
    of moments in some tenths of a second, methods that need rows as slowly as in a suite. Nothing
    is chosen: penalties and mixing weights are what is swept. Tables, comparisons and the report
    read a sweep as they read a suite.
    """
    from bench.suites.demo import find_sets
    from bench.suites.single import Grid, sweep_runs
    from featstore.store.store import open_store

    grid = Grid(
        methods=tuple(_words(methods)),
        sources=tuple(_words(sources)),
        n_pairs=tuple(_pairs(word) for word in _words(n_pairs)),
        mixes=tuple(_number(float, word, "--mix") for word in _words(mixes)),
        penalties=tuple(_number(float, word, "--penalty") for word in _words(penalties)),
        seeds=tuple(_number(int, word, "--seeds") for word in _words(seeds)),
        tasks=tuple(_words(tasks)),
        evaluation=evaluation,
    )
    opened = open_store(store)
    sets = find_sets(opened, dataset=dataset, label_set=label_set)
    runs = sweep_runs(
        opened, sets, grid, locales=_words(locales), relevance=relevance, texts=texts_given(texts),
        limit=limit,
    )  # fmt: skip
    run_and_report(
        "sweep", runs, store=store, out=out, jobs=jobs, engine=engine, dry_run=dry_run,
        as_json=as_json,
    )  # fmt: skip


def _pairs(word: str) -> int | Literal["all"]:
    if word == "all":
        return "all"
    number: int = _number(int, word, "--n-pairs")
    return number


def _words(text: str) -> list[str]:
    return [word for word in text.replace(",", " ").split() if word]


def _number(kind: type, word: str, option: str) -> Any:
    try:
        return kind(word)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise click.UsageError(
            f"Invalid value for '{option}': {word!r} is not {what}.", click.get_current_context()
        ) from None
