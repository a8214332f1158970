"""Options of commands that encode: encoder, sets, engine, and a job as a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from featstore.command_line import store_option
from featstore.errors import FeatstoreError, unknown_name
from featstore.options import DEFAULT, file_key, option, option_names, options_from

if TYPE_CHECKING:
    from featstore.extraction.options import EncoderSpec
    from featstore.extraction.progress import ExtractResult
    from featstore.extraction.targets import Job

_Function = TypeVar("_Function", bound=Callable[..., Any])


def encoder_specs(given: Mapping[str, Any]) -> list[EncoderSpec]:
    """Return the encoders of a command line, one for each layer that is named.

    Parameters
    ----------
    given : mapping
        The parameters of the command.

    Raises
    ------
    click.UsageError
        If there are weights, pools …, but not one for each.
    EncoderError
        If an encoder has layers and a pool.
    """
    from featstore.extraction.options import EncoderSpec

    each: list[dict[str, Any]] = [{"encoder": name} for name in given["encoder"]]
    for name in option_names(EncoderSpec):
        values = _values(name, given)
        if not isinstance(values, tuple):  # a switch is for all of them
            values = (values,) * len(each)
        if values and len(values) != len(each):
            raise click.UsageError(
                f"{len(values)} --{name.replace('_', '-')} for {len(each)} --encoder: "
                f"give one for each, in their order ({DEFAULT!r} is what the model does by itself)."
            )
        for one, value in zip(each, values, strict=False):
            # An empty prefix is one: it takes the prompt away that a model has by itself.
            if value != DEFAULT and (value != "" or name == "prefix"):
                one[name] = value
    return [spec for one in each for spec in EncoderSpec(**one).each_layer()]


def _values(name: str, given: Mapping[str, Any]) -> Any:
    """Return what was given; what a file says of its encoders is not of those that are typed."""
    ctx = click.get_current_context()
    typed = ctx.get_parameter_source("encoder") is ParameterSource.COMMANDLINE
    from_file = ctx.get_parameter_source(name) is ParameterSource.DEFAULT_MAP
    switch = isinstance(given[name], bool)
    return () if typed and from_file and not switch else given[name]


class KeyType(click.types.StringParamType):
    """The key of a set: the shell completes it from the log of the store that was typed."""

    def shell_complete(
        self, ctx: click.Context, _: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the keys that begin so, without the digits at their ends."""
        from featstore.store.log import read_log

        store = ctx.params.get("store")
        with suppress(FeatstoreError, OSError):
            sets = read_log(store).sets if isinstance(store, Path) else {}
            names = {key.rpartition("-")[0] for key in sets}
            return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]
        return []


KEY = KeyType()


def complete_keys(command: click.Command) -> click.Command:
    """Let the shell complete the options of a command whose value is a KEY or a set of a head."""
    for parameter in command.params:
        if parameter.metavar == "KEY" or parameter.name == "head":
            parameter.type = KEY
    return command


@dataclass(frozen=True)
class Place:
    """Where an extraction runs."""

    devices: str | None = option(
        None,
        help="Run one process per device, each with its share of the blocks: all (GPUs), or a "
        "list such as cuda:0,cuda:1 or cpu,cpu.",
    )
    engine: Literal["local", "ray"] = option(
        "local",
        help="Run the processes on this machine, or on Ray with an actor for each of "
        "--devices (all by default).",
    )
    ray_address: str | None = option(
        None,
        help="Connect to the Ray cluster at this address [default: RAY_ADDRESS, else this "
        "machine].",
    )
    rank: int | Literal["auto"] | None = option(
        None,
        help="Do the share of this rank; you start the other ranks, and the last to finish "
        "publishes the set. auto reads the rank from torchrun or Slurm.",
        at_least=0,
    )
    world_size: int | None = option(None, help="Share the work among this many ranks.", at_least=1)

    def __post_init__(self) -> None:
        if self.rank is not None and (self.devices is not None or self.engine != "local"):
            raise click.UsageError(
                "A rank is one process: leave --devices and --engine out, or --rank."
            )
        if self.rank is None and self.world_size is not None:
            raise click.UsageError("--world-size needs --rank: which of them this process is.")
        if self.ray_address is not None and self.engine != "ray":
            raise click.UsageError("--ray-address needs --engine ray.")


def run_extraction(job: Job, place: Place) -> list[ExtractResult]:
    """Extract where the command line says.

    Raises
    ------
    FeatstoreError
        As for `featstore.extract`.
    """
    from featstore.extraction.job import run_logged
    from featstore.extraction.ranks import extract_rank, rank_of
    from featstore.extraction.ray_engine import extract_on_ray
    from featstore.extraction.workers import extract_on_devices

    if place.engine == "ray":
        return extract_on_ray(job, place.devices or "all", address=place.ray_address)
    if place.devices is not None:
        return extract_on_devices(job, place.devices)
    if place.rank is None:
        return run_logged(job)
    which = rank_of(place.rank, place.world_size)
    found = extract_rank(job, rank=which.rank, world_size=which.world_size)
    for result in found:
        if result.blocks_left:
            click.echo(
                f"rank {which.rank} of {which.world_size} is done; {result.blocks_left:,} blocks "
                f"of {result.key} are left to others, the last of whom publishes it",
                err=True,
            )
    return found


#: Parameters that a file cannot set.
_NOT_IN_FILES = frozenset({"config", "as_json", "dry_run", "help"})


def read_config(ctx: click.Context, _parameter: click.Parameter, path: Path | None) -> Path | None:
    """Make the options in a file the defaults of a command; the callback of ``--config``.

    Keys are the names of options with underscores, ``manifest`` and ``store`` included.
    Encoders are names, or ``[[encoder]]`` tables with ``name``, ``weights``, ``pool``,
    ``layers``, ``prefix``, ``prompt_name`` and ``max_length``.

    Raises
    ------
    click.UsageError
        If the file cannot be read, or has a key that is no option.
    """
    import tomllib

    if path is None:
        return None
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise click.UsageError(f"Cannot read {path}: {err.strerror or err}.", ctx) from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise click.UsageError(f"{path} is no TOML: {err}.", ctx) from err
    ctx.default_map = {**(ctx.default_map or {}), **_defaults(ctx, path, found)}
    return path


def _defaults(ctx: click.Context, path: Path, found: dict[str, Any]) -> dict[str, Any]:
    known = {
        file_key(parameter): parameter
        for parameter in ctx.command.params
        if parameter.name not in _NOT_IN_FILES
    }
    defaults: dict[str, Any] = {}
    for key, value in found.items():
        if key not in known:
            by = f"the options of {ctx.command_path} --help"
            raise click.UsageError(
                unknown_name("key", key, sorted(known), where=f"in {path}", listed_by=by), ctx
            )
        if key == "encoder" and isinstance(value, list) and all(isinstance(v, dict) for v in value):
            defaults |= _encoder_tables(ctx, path, value)
            continue
        many = getattr(known[key], "multiple", False)
        defaults[str(known[key].name)] = value if not many or isinstance(value, list) else [value]
    return defaults


def _encoder_tables(
    ctx: click.Context, path: Path, tables: list[dict[str, Any]]
) -> dict[str, list[str]]:
    """Return the lists that [[encoder]] tables stand for."""
    from featstore.extraction.options import EncoderSpec

    # A switch is for all encoders.
    names = [name for name in option_names(EncoderSpec) if name != "trust_remote_code"]
    keys = ["name", *names[1:]]
    for table in tables:
        for key in table:
            if key not in keys:
                where = f"in [[encoder]] of {path}"
                raise click.UsageError(unknown_name("key", key, keys, where=where), ctx)
        if "name" not in table:
            raise click.UsageError(f"{path}: an [[encoder]] has no name.", ctx)
    return {
        name: [_word(table.get(key, DEFAULT)) for table in tables]
        for name, key in zip(names, keys, strict=True)
        if any(key in table for table in tables)
    }


def _word(value: Any) -> str:
    """Return a value of a file as it is typed: a list by comma."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


KINDS = ["image", "caption", "class_name", "head_weight"]


def job_options(function: _Function) -> _Function:
    """Give a command the options of an extraction."""
    from featstore.extraction.options import EncoderSpec, ExtractConfig, HeadConfig

    options: list[Callable[[Any], Any]] = [
        click.argument("manifest", required=False, type=click.Path(path_type=Path)),
        click.option(
            "--kind",
            "kinds",
            multiple=True,
            required=True,
            type=click.Choice(KINDS),
            help="Encode items of this kind; repeatable.",
        ),
        options_from(EncoderSpec, each=True),
        store_option(
            "Write to this store, a folder or a bucket such as s3://team/features. It is made if "
            "it is missing."
        ),
        options_from(HeadConfig),
        options_from(ExtractConfig),
        click.option(
            "--config",
            type=click.Path(path_type=Path),
            is_eager=True,
            callback=read_config,
            help="Read options from this TOML file. An option that is typed wins.",
        ),
        options_from(Place),
        click.option(
            "--log",
            type=click.Path(path_type=Path),
            help="Write events as JSON lines to this file [default: STORE.extract.jsonl beside "
            "the store].",
        ),
        click.option("--no-log", is_flag=True, help="Write no log."),
    ]
    for add in reversed(options):
        function = add(function)
    return function
