"""`bench task`: one task on sets that are named, with any method or none."""

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
from featstore.command_line import StorePlace


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
              help="Of captions: parent_id or class_id.")  # fmt: skip
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
def command(
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
    engine: Literal["processes", "ray"],
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
    from bench.cli.running import run_and_report
    from bench.options import TASK_OPTIONS, parse_options
    from bench.suites.single import SUITE, TaskRequest, task_runs
    from featstore.errors import did_you_mean
    from featstore.store.opening import open_store

    if name not in TASK_OPTIONS:
        hint = did_you_mean(name, TASK_OPTIONS)
        msg = f"No task named {name!r}. Known: {', '.join(TASK_OPTIONS)}.{hint}"
        raise click.UsageError(msg)
    if n_pairs != "all" and not n_pairs.isdecimal():
        msg = f"--n-pairs is a number of images, or all; got {n_pairs!r}."
        raise click.UsageError(msg)
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
