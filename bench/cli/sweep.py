"""`bench sweep`: K × source × mixing × penalty × method × seeds in one command."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from bench.cli.options import (
    engine_option,
    jobs_option,
    json_option,
    limit_option,
    store_option,
    text_options,
    texts_given,
)
from bench.cli.running import run_and_report
from featstore.command_line import StorePlace

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
def command(
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
    engine: Literal["processes", "ray"],
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
    from bench.suites.sets import find_sets
    from bench.suites.sweep import Grid, sweep_runs
    from featstore.store.opening import open_store

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
        msg = f"Invalid value for '{option}': {word!r} is not {what}."
        raise click.UsageError(msg, click.get_current_context()) from None
