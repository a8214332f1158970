"""Options of commands that encode: encoder, sets, engine, and a job as a file."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import click
from click.core import ParameterSource

from featstore.errors import unknown_name
from featstore.extraction.options import DECODE_TIMEOUT, EncoderChoice, Options
from featstore.extraction.progress import ExtractResult
from featstore.manifest.manifest import Manifest

#: Stands for what the model does by itself, where another encoder is given something.
DEFAULT = "-"

#: Parameter of the command -> attribute of `EncoderChoice`, which is also the flag's name and
#: the key of a TOML file, there with underscores.
PER_ENCODER = {
    "weights": "weights",
    "pools": "pool",
    "prefixes": "prefix",
    "prompt_names": "prompt_name",
    "max_lengths": "max_length",
}


class MaxLength(click.ParamType):  # type: ignore[type-arg]
    """A positive number of tokens, or ``-``."""

    name = "N"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        """Return the number, or "-"."""
        if value in (DEFAULT, ""):
            return DEFAULT
        try:
            number = int(value)
        except (TypeError, ValueError):
            number = 0
        if number < 1:
            self.fail(f"{value!r} is no positive number of tokens, and not '-'.", param, ctx)
        return number


ENCODER_OPTIONS = [
    click.option(
        "--encoder",
        "encoders",
        multiple=True,
        required=True,
        help="family:name, such as timm:resnet50 or st:NAME; repeat it for several in one pass.",
    ),
    click.option(
        "--weights",
        multiple=True,
        help="package:NAME, a file, a folder or hub (the default); this and the four below: one "
        "for each --encoder, - for what the model does by itself.",
    ),
    click.option(
        "--pool",
        "pools",
        multiple=True,
        help="timm: cls, patch_mean, cls+patch_mean or layer:NAME, instead of the head's input; "
        "hf: cls, mean, pooler or last.",
    ),
    click.option(
        "--prefix", "prefixes", multiple=True, help="st, hf: put before every text ('query: ')."
    ),
    click.option(
        "--prompt-name",
        "prompt_names",
        multiple=True,
        help="st: one of the model's own prompts, put before every text.",
    ),
    click.option(
        "--max-length",
        "max_lengths",
        multiple=True,
        type=MaxLength(),
        help="st, hf: tokens of a text that the model sees, fewer than it could.",
    ),
]


def encoder_choices(given: Mapping[str, Any]) -> list[EncoderChoice]:
    """Return the encoders of a command line.

    Parameters
    ----------
    given : mapping
        The parameters of the command.

    Raises
    ------
    click.UsageError
        If there are weights, pools …, but not one for each.
    """
    encoders: tuple[str, ...] = given["encoders"]
    values_of = {parameter: _values(parameter, given) for parameter in PER_ENCODER}
    for parameter, attribute in PER_ENCODER.items():
        values = values_of[parameter]
        if values and len(values) != len(encoders):
            msg = (
                f"{len(values)} --{attribute.replace('_', '-')} for {len(encoders)} --encoder: "
                f"give one for each, in their order ({DEFAULT!r} is what the model does by itself)."
            )
            raise click.UsageError(msg)
    return [
        EncoderChoice(
            name,
            **{
                attribute: _meant(attribute, values_of[parameter][number])
                for parameter, attribute in PER_ENCODER.items()
                if values_of[parameter]
            },
        )
        for number, name in enumerate(encoders)
    ]


def _values(parameter: str, given: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what was given; what a file says of its encoders is not of those that are typed."""
    ctx = click.get_current_context()
    typed = ctx.get_parameter_source("encoders") is ParameterSource.COMMANDLINE
    from_file = ctx.get_parameter_source(parameter) is ParameterSource.DEFAULT_MAP
    return () if typed and from_file else tuple(given[parameter])


def _meant(attribute: str, value: Any) -> Any:
    # An empty prefix is one: it takes the prompt away that a model has by itself.
    return None if value == DEFAULT or (value == "" and attribute != "prefix") else value


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


_ENGINE_OPTIONS = [
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
    for option in reversed(_ENGINE_OPTIONS):
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
    from featstore.extraction.job import extract_many
    from featstore.extraction.ranks import extract_rank, local_device, rank_of
    from featstore.extraction.ray_engine import extract_on_ray
    from featstore.extraction.workers import extract_on_devices

    check_places(place)
    devices, rank = place["devices"], place["rank"]
    job: dict[str, Any] = {"kind": kind, "encoders": encoders, "store": store}
    if place["engine"] == "ray":
        return extract_on_ray(
            source,
            **job,
            options=options,
            devices=devices or "all",
            address=place["ray_address"],
        )
    if devices is not None:
        return extract_on_devices(source, **job, options=options, devices=devices)
    if rank is None:
        return extract_many(source, **job, options=options)
    which = rank_of(rank, place["world_size"])
    options = replace(options, device=local_device(options.device))
    found = extract_rank(
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


#: What an [[encoder]] table may say beside its name, and the parameter that it goes to.
_OF_ENCODER = {attribute: parameter for parameter, attribute in PER_ENCODER.items()}
_ENCODER = {"name": "encoders", **_OF_ENCODER}

#: Names in a file that differ from the names of the parameters.
_NAMES = {"kind": "kinds", "encoder": "encoders", **_OF_ENCODER}

#: Parameters that a file cannot set.
_NOT_IN_FILES = frozenset({"config", "as_json", "measure", "help"})


def read_config(ctx: click.Context, _parameter: click.Parameter, path: Path | None) -> Path | None:
    """Make the options in a file the defaults of a command; the callback of ``--config``.

    Keys are the names of options with underscores, ``manifest`` and ``store`` included.
    Encoders are names, or ``[[encoder]]`` tables with ``name``, ``weights``, ``pool``,
    ``prefix``, ``prompt_name`` and ``max_length``.

    Raises
    ------
    click.UsageError
        If the file cannot be read, or has a key that is no option.
    """
    if path is None:
        return None
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        msg = f"Cannot read {path}: {err.strerror or err}."
        raise click.UsageError(msg, ctx) from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        msg = f"{path} is no TOML: {err}."
        raise click.UsageError(msg, ctx) from err
    ctx.default_map = {**(ctx.default_map or {}), **_defaults(ctx, path, found)}
    return path


def _defaults(ctx: click.Context, path: Path, found: dict[str, Any]) -> dict[str, Any]:
    parameters = {
        parameter.name: parameter
        for parameter in ctx.command.params
        if parameter.name and parameter.name not in _NOT_IN_FILES
    }
    spelled = {value: key for key, value in _NAMES.items()}
    known = {spelled.get(name, name): name for name in parameters}
    defaults: dict[str, Any] = {}
    for key, value in found.items():
        if key not in known:
            by = f"the options of {ctx.command_path} --help"
            msg = unknown_name("key", key, sorted(known), where=f"in {path}", listed_by=by)
            raise click.UsageError(msg, ctx)
        if key == "encoder" and isinstance(value, list) and all(isinstance(v, dict) for v in value):
            defaults |= _encoder_tables(ctx, path, value)
            continue
        many = getattr(parameters[known[key]], "multiple", False)
        defaults[known[key]] = value if not many or isinstance(value, list) else [value]
    return defaults


def _encoder_tables(
    ctx: click.Context, path: Path, tables: list[dict[str, Any]]
) -> dict[str, list[str]]:
    """Return the lists that [[encoder]] tables stand for."""
    for table in tables:
        for key in table:
            if key not in _ENCODER:
                where = f"in [[encoder]] of {path}"
                raise click.UsageError(unknown_name("key", key, _ENCODER, where=where), ctx)
        if "name" not in table:
            msg = f"{path}: an [[encoder]] has no name."
            raise click.UsageError(msg, ctx)
    lists = {"encoders": [str(table["name"]) for table in tables]}
    for key, parameter in _OF_ENCODER.items():
        if any(key in table for table in tables):
            lists[parameter] = [str(table.get(key, DEFAULT)) for table in tables]
    return lists


KINDS = ["image", "caption", "class_name", "head_weight"]


class BatchSize(click.ParamType):  # type: ignore[type-arg]
    """A positive number, or ``auto``."""

    name = "N|auto"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | Literal["auto"]:
        """Return the number, or "auto"."""
        if value == "auto":
            return "auto"
        try:
            number = int(value)
        except (TypeError, ValueError):
            number = 0
        if number < 1:
            self.fail(f"{value!r} is no positive number, and not 'auto'.", param, ctx)
        return number


_SET_OPTIONS = [
    click.argument("manifest", required=False, type=click.Path(path_type=Path)),
    click.option("--kind", "kinds", multiple=True, required=True, type=click.Choice(KINDS)),
    *ENCODER_OPTIONS,
    click.option("--store", required=True, type=click.Path(path_type=Path), help="The store."),
    click.option(
        "--label-set", help="Label set of a head, if its number of classes does not say it."
    ),
    click.option(
        "--label-file",
        type=click.Path(path_type=Path),
        help="Classes of a head, in the order of its rows, instead of MANIFEST: .txt, .csv, .json.",
    ),
    click.option(
        "--check-names", help="Text encoder that checks a head's rows against the class names."
    ),
    click.option("--check-weights", help="Its weights."),
    click.option("--device", default="cpu", show_default=True),
    click.option(
        "--precision",
        type=click.Choice(["float32", "bfloat16", "float16"]),
        default="float32",
        show_default=True,
        help="Of the forward pass; its cosine to float32 is recorded.",
    ),
    click.option(
        "--save-dtype",
        type=click.Choice(["float16", "bfloat16", "float32"]),
        default="float16",
        show_default=True,
        help="Stored dtype of images and texts; heads are float32.",
    ),
    click.option(
        "--batch-size", type=BatchSize(), help="Default: the encoder's. auto halves until it fits."
    ),
    click.option("--threads", type=click.IntRange(min=1), help="Threads of the forward pass."),
    click.option("--workers", type=click.IntRange(min=1), help="Decoding processes."),
    click.option(
        "--decode-timeout",
        type=click.FloatRange(min=0),
        default=DECODE_TIMEOUT,
        show_default=True,
        help="Seconds that one image may take; 0 decodes in threads, without a limit.",
    ),
    click.option(
        "--decode",
        type=click.Choice(["cpu", "gpu"]),
        default="cpu",
        show_default=True,
        help="gpu: plain JPEG files by nvJPEG, which makes another embedding space.",
    ),
    click.option("--tiff", is_flag=True, help="Decode TIFF files too; they fail otherwise."),
    click.option("--thumbnails", is_flag=True, help="Keep a small WebP of every image."),
    click.option(
        "--views",
        type=click.IntRange(min=0),
        default=0,
        help="Encode N seeded augmented views of each image, as a dataset of their own.",
    ),
    click.option("--seed", type=click.IntRange(min=0), default=0, help="Of the views."),
    click.option("--limit", type=click.IntRange(min=1), help="Only the first N items."),
    click.option(
        "--on-error",
        type=click.Choice(["skip", "fail"]),
        default="skip",
        show_default=True,
        help="What an item that cannot be read costs: its row, or the job.",
    ),
    click.option(
        "--max-failures",
        type=click.IntRange(min=0),
        help="Items that may fail; default the larger of 10 and 0.1 %.",
    ),
    click.option("--retry-failed", is_flag=True, help="Try failed items of a finished set again."),
    click.option("--trust-remote-code", is_flag=True, help="Run code that comes with the model."),
    click.option("--compile", "compiled", is_flag=True, help="Compile the forward pass."),
    click.option(
        "--wait",
        type=click.FloatRange(min=0),
        default=0.0,
        help="Seconds to wait for another writer of the set.",
    ),
    click.option(
        "--config",
        type=click.Path(path_type=Path),
        is_eager=True,
        callback=read_config,
        help="TOML file with any of these options; what is typed wins.",
    ),
]


def job_options(function: _Function) -> _Function:
    """Give a command the options of a job."""
    for option in reversed(_SET_OPTIONS):
        function = option(function)
    return function


def options_of(given: dict[str, Any], **more: Any) -> Options:
    """Return the options of a job from the parameters of a command."""
    return Options(
        dtype=given["save_dtype"],
        precision=given["precision"],
        device=given["device"],
        batch_size=given["batch_size"],
        threads=given["threads"],
        workers=given["workers"],
        decode_timeout=given["decode_timeout"] or None,
        decode=given["decode"],
        tiff=given["tiff"],
        thumbnails=given["thumbnails"],
        views=given["views"],
        seed=given["seed"],
        limit=given["limit"],
        on_error=given["on_error"],
        max_failures=given["max_failures"],
        retry_failed=given["retry_failed"],
        trust_remote_code=given["trust_remote_code"],
        compile=given["compiled"],
        wait=given["wait"],
        **more,
    )
