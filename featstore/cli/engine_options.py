"""Options that say where an extraction runs and logs: ``--devices``, ``--rank``, ``--log`` ..."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from featstore.extraction.events import ExtractResult
from featstore.extraction.options import EncoderChoice, Options
from featstore.manifest import Manifest

_Function = TypeVar("_Function", bound=Callable[..., Any])

#: The parameters of a command that has these options.
PLACES = ("devices", "engine", "ray_address", "rank", "world_size")


class RankNumber(click.ParamType):  # type: ignore[type-arg]
    """A number from 0, or ``auto``."""

    name = "N|auto"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        """Return the number, or "auto"."""
        if value == "auto":
            return "auto"
        try:
            return int(value)
        except (TypeError, ValueError):
            self.fail(f"{value!r} is no number, and not 'auto'.", param, ctx)


_OPTIONS = [
    click.option(
        "--devices",
        help="One process a device, each with its share of the blocks: all (GPUs), or a list "
        "such as cuda:0,cuda:1 or cpu,cpu.",
    ),
    click.option(
        "--engine",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="Who runs the processes; ray: an actor for each of --devices (default all).",
    ),
    click.option("--ray-address", help="Of a Ray cluster; default RAY_ADDRESS, else this machine."),
    click.option(
        "--rank",
        type=RankNumber(),
        help="Do one process's share beside the others, which somebody else starts; auto reads "
        "it from torchrun or Slurm. The last one publishes.",
    ),
    click.option("--world-size", type=click.IntRange(min=1), help="How many ranks there are."),
    click.option(
        "--log",
        type=click.Path(path_type=Path),
        help="JSON lines of what happens; default STORE.extract.jsonl beside the store.",
    ),
    click.option("--no-log", is_flag=True, help="Write no log."),
]


def engine_options(function: _Function) -> _Function:
    """Give a command the options that say where it runs and what it logs."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def check_places(place: dict[str, Any]) -> None:
    """Refuse a command line that says two different things about where it runs.

    Raises
    ------
    click.UsageError
        If it does.
    """
    if place["rank"] is not None and (place["devices"] is not None or place["engine"] != "local"):
        msg = "A rank is one process: leave --devices and --engine out, or --rank."
        raise click.UsageError(msg)
    if place["rank"] is None and place["world_size"] is not None:
        msg = "--world-size needs --rank: which of them this process is."
        raise click.UsageError(msg)
    if place["ray_address"] is not None and place["engine"] != "ray":
        msg = "--ray-address needs --engine ray."
        raise click.UsageError(msg)


def run_extraction(
    source: Manifest,
    *,
    kind: str,
    encoders: list[EncoderChoice],
    store: Path,
    options: Options,
    place: dict[str, Any],
) -> list[ExtractResult]:
    """Extract where the command line says.

    Raises
    ------
    click.UsageError
        If it says two different things.
    FeatstoreError
        As for `extract_many`.
    """
    from featstore.extraction import engines, extract_many

    check_places(place)
    devices, rank = place["devices"], place["rank"]
    job: dict[str, Any] = {"kind": kind, "encoders": encoders, "store": store}
    if place["engine"] == "ray":
        return engines.extract_on_ray(
            source,
            **job,
            options=options,
            devices=devices or "all",
            address=place["ray_address"],
        )
    if devices is not None:
        return engines.extract_on_devices(source, **job, options=options, devices=devices)
    if rank is None:
        return extract_many(source, **job, options=options)
    which = engines.rank_of(rank, place["world_size"])
    options = replace(options, device=engines.local_device(options.device))
    found = engines.extract_rank(
        source, **job, options=options, rank=which.rank, world_size=which.world_size
    )
    for result in found:
        if result.blocks_left:
            click.echo(
                f"rank {which.rank} of {which.world_size} is done; {result.blocks_left:,} blocks "
                f"of {result.key} are left to others, the last of whom publishes it",
                err=True,
            )
    return found
