"""Options that commands share: sets and what is taken for them, seeds, prompts, encoders."""

from __future__ import annotations

import os
import re
import reprlib
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from featstore.command_line import StorePlace, setting_option, store_option, usage_error
from featstore.errors import FeatstoreError, UnknownSetError, listed
from featstore.options import Option, option, options_from, settings_of, typed

if TYPE_CHECKING:
    from featstore.extraction.options import EncoderSpec, ExtractResult
    from featstore.extraction.targets import Job
    from featstore.store.store import FeatureStore, SetInfo

_T = TypeVar("_T")
_Function = TypeVar("_Function", bound=Callable[..., Any])


#: Stands for the default of one encoder where another is given a value.
DEFAULT = "-"


def encoder_settings(names: Iterable[str]) -> dict[str, dict[str, Option]]:
    """Return what ``-s`` sets of encoders by name: what their families take.

    Raises
    ------
    featstore.errors.UnknownEncoderError
    """
    from featstore.encoders.registry import FAMILIES, family_of
    from featstore.extraction.options import EncoderSpec

    found: dict[str, dict[str, Option]] = {}
    for number, name in enumerate(names, 1):
        takes = FAMILIES[family_of(name)].takes
        own = {n: o for n, o in settings_of(EncoderSpec).items() if n in takes}
        if "pool" in takes and name.startswith("timm:"):
            own["layers"] = settings_of(EncoderSpec)["layers"]
        found[name if name not in found else f"{name}#{number}"] = own
    return found


def encoder_specs(
    given: Mapping[str, Any], values: Mapping[str, Mapping[str, Any]]
) -> list[EncoderSpec]:
    """Return the encoders of a command line, one for each layer that is named.

    Parameters
    ----------
    given : mapping
        The parameters of the command.
    values : mapping
        The settings of each, in their order.

    Raises
    ------
    click.UsageError
        If there are weights, but not one for each.
    EncoderError
        If an encoder has layers and a pool.
    """
    from featstore.extraction.options import EncoderSpec

    names, weights = given["encoder"], given["weights"]
    if weights and len(weights) != len(names):
        raise usage_error(
            f"{len(weights)} --weights for {len(names)} --encoder: give one for each, in their "
            f"order ({DEFAULT!r} is what the model does by itself)."
        )
    both = zip(names, weights or [DEFAULT] * len(names), values.values(), strict=True)
    return [
        spec
        for name, place, own in both
        for spec in EncoderSpec(
            name,
            weights=None if place == DEFAULT else place,
            trust_remote_code=given["trust_remote_code"],
            **own,
        ).each_layer()
    ]


class KeyType(click.types.StringParamType):
    """The key of a set: the shell completes it from the log of the store that was typed."""

    def shell_complete(
        self, ctx: click.Context, _: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the keys that begin so, without the digits at their ends."""
        from featstore.store.log import read_log

        store = ctx.params.get("store") or ctx.params.get("path") or ""
        with suppress(FeatstoreError, OSError):
            names = {key.rpartition("-")[0] for key in read_log(Path(store)).sets}
            return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]
        return []


KEY = KeyType()


def prompts_option(flag: str, text: str) -> Callable[[_Function], _Function]:
    """Return an option whose value chooses texts of classes; `prompt_fields` reads it."""
    return click.option(flag, metavar="PROMPTS", callback=_prompts, help=text)


def _prompts(ctx: Any, parameter: Any, given: str | None) -> Any:
    from featstore.prompts import parse_prompts

    try:
        return None if given is None else parse_prompts(given)
    except ValueError as err:
        raise click.BadParameter(f"{err}.", ctx, parameter) from err


def prompt_fields(
    chosen: tuple[tuple[str, ...], tuple[str, ...]] | None, prefix: str = ""
) -> dict[str, tuple[str, ...]]:
    """Return the fields ``variants`` and ``templates``, behind a prefix, that were chosen."""
    both = zip(("variants", "templates"), chosen or (), strict=False)
    return {f"{prefix}{name}": words for name, words in both if words}


def _seeds(ctx: Any, parameter: Any, given: str) -> tuple[int, ...]:
    """Return the seeds of ``0-4,9``, each once, in order."""
    seeds: list[int] = []
    for part in given.split(","):
        match = re.fullmatch(r"\s*(\d{1,18})(?:-(\d{1,18}))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first or last - first > 9999:
            what = f"expected seeds such as 0-4 or 0,2,5; got {reprlib.repr(given)}."
            raise click.BadParameter(what, ctx, parameter)
        seeds += range(first, last + 1)
    return tuple(dict.fromkeys(seeds))


def seeds_option(text: str, default: str = "0") -> Callable[[_Function], _Function]:
    """Return the option ``--seeds``, also spelled ``--seed``."""
    return click.option(
        "--seeds", "--seed", "seeds", callback=_seeds, metavar="SEEDS", default=default,
        show_default=True, help=text,
    )  # fmt: skip


def set_named(store: FeatureStore, key: str) -> SetInfo:
    """Return the set that KEY means, and of ``KEY@REVISION`` that revision of it."""
    base, at, revision = key.rpartition("@")
    try:
        return store.info(key)
    except UnknownSetError:
        if not at:
            raise
        return store.info(base, revision=revision)


def complete_keys(command: click.Command) -> click.Command:
    """Let the shell complete the options of a command whose value is a KEY or a set of a head."""
    for parameter in command.params:
        if str(parameter.metavar).startswith("KEY"):
            parameter.type = KEY
    return command


#: How far below a folder stores are looked for, and in how many folders at most.
DEPTH, FOLDERS = 4, 2_000

#: What lies in a store, a manifest, an alignment and results; nothing else is looked for in them.
_SIGNS = frozenset({"zarr.json", "dataset.toml", "alignment.json", "runs"})

#: Folders that hold no work of the user: fixtures of a checkout, installed packages, build caches.
_NO_WORK = frozenset(
    {"tests", "test", "site-packages", "node_modules", "venv", "wheels", "fresh", "offline"}
)


def the_store(store: StorePlace | None, *, beside: Path = Path()) -> StorePlace:
    """Return the store that was named, else the only one beside or below, else in this folder.

    Raises
    ------
    click.UsageError
        If there is none, or several.
    """
    if store is not None:
        return store
    for place in dict.fromkeys((beside, Path())):
        found = [path for path, names in work_below(place) if names >= {"log.json", "zarr.json"}]
        if len(found) == 1:
            return take("store", found[0])
    several = f"are several stores ({listed(map(str, found), shown=8)})"
    raise usage_error(
        f"Missing option '--store': there {several if found else 'is no store'} in this folder and "
        f"in {DEPTH} levels of folders below it. Name one."
    )


def work_below(root: Path) -> Iterator[tuple[Path, set[str]]]:
    """Yield the folders in `root` and below, with the names in them, but nothing inside work.

    No hidden folder is looked into, and none that holds no work of the user.
    """
    for n_folders, (folder, inside, files) in enumerate(os.walk(root)):
        path, names = Path(folder), {*inside, *files}
        yield path, names
        if names & _SIGNS or n_folders >= FOLDERS or len(path.relative_to(root).parts) >= DEPTH:
            inside.clear()
        inside[:] = sorted({one for one in inside if one[0] != "." and one[:2] != "__"} - _NO_WORK)


def take(name: str, value: _T) -> _T:
    """Take a value for a parameter that was left out: `say_taken` prints it, a record has it."""
    context = click.get_current_context()
    context.params[name] = value
    context.set_parameter_source(name, ParameterSource.COMMANDLINE)
    context.meta["taken"] = True
    return value


def say_taken() -> None:
    """Print on stderr, as a line that can be pasted, the command with what it took by itself."""
    if click.get_current_context().meta.get("taken"):
        line = shlex.join(command_words(lambda _, value: value))
        click.echo(f"Taken for what was left out:\n  {line}", err=True)


def command_words(shown: Callable[[click.Parameter, str], str]) -> list[str]:
    """Return the words of the command that runs, with what was typed, or taken by itself.

    Parameters
    ----------
    shown : callable
        A parameter and a value of it -> what is written of it.
    """
    context = click.get_current_context()
    words = context.command_path.split()
    given = ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT
    for parameter in context.command.params:
        name = parameter.name or ""
        value = context.params.get(name, context.meta.get(name))
        if context.get_parameter_source(name) not in given or value in (None, ()):
            continue
        if name in ("as_json", "dry_run"):
            continue
        flag = [] if isinstance(parameter, click.Argument) else [max(parameter.opts, key=len)]
        if name == "words":
            flag = ["-s"]
        elif name.endswith("prompts"):
            value = ":".join(map(",".join, value))
        elif isinstance(value, tuple) and name not in _REPEATED:
            value = ",".join("all" if one is None else str(one) for one in value)
        if value is False:
            words += parameter.secondary_opts[:1]
            continue
        for one in value if isinstance(value, tuple) else (value,):
            words += flag if one is True else [*flag, shown(parameter, str(one))]
    return words


#: Options whose values have commas of their own, or are one a thing: they are given again.
_REPEATED = ("words", "text", "plugins", "encoder", "weights", "keys")


@dataclass(frozen=True)
class Place:
    """Where an extraction runs."""

    device: str = option(
        "auto",
        help="Run on this device, named as in torch: cpu, cuda:0, auto (a GPU if torch can use "
        "one); a list or all runs a process each, with its share of the blocks.",
        metavar="NAMES",
    )
    engine: Literal["local", "ray"] = option(
        "local",
        help="Run the processes on this machine, or on Ray with an actor for each of --device "
        "(all by default), on the cluster that RAY_ADDRESS names.",
    )
    shard: str | None = option(
        None,
        help="Do share I of N, from 0; auto asks torchrun or Slurm. You start the others, and the "
        "last to finish publishes the set.",
        metavar="I/N|auto",
    )

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\d{1,9}/\d{1,9}|auto", self.shard or "auto"):
            raise usage_error(f"--shard is I/N with I from 0 below N, or auto; got {self.shard!r}.")
        if self.shard is not None and (self.devices is not None or self.engine != "local"):
            raise usage_error(
                "A shard is one process: leave --engine and several of --device out, or --shard."
            )

    @property
    def devices(self) -> str | None:
        """Several devices, as they were typed; None of one."""
        return self.device if self.device == "all" or "," in self.device else None


def run_extraction(job: Job, place: Place) -> list[ExtractResult]:
    """Extract where the command line says.

    Raises
    ------
    FeatstoreError
        As for `featstore.extract`.
    """
    from featstore.extraction.engines import (
        extract_on_devices,
        extract_on_ray,
        extract_rank,
        rank_of,
    )
    from featstore.extraction.job import run_job

    if place.engine == "ray":
        return extract_on_ray(job, "all" if place.device == "auto" else place.device)
    if place.devices is not None:
        return extract_on_devices(job, place.devices)
    if place.shard is None:
        return run_job(job.open())
    which = rank_of(place.shard)
    found = extract_rank(job, which)
    for result in found:
        if result.blocks_left:
            click.echo(
                f"rank {which.rank} of {which.world_size} is done; {result.blocks_left:,} blocks "
                f"of {result.key} are left to others, the last of whom publishes it",
                err=True,
            )
    return found


KINDS = ("image", "caption", "class_name", "head_weight")


def job_options(function: _Function) -> _Function:
    """Give a command the options of an extraction."""
    from featstore.extraction.options import EncoderSpec, ExtractConfig

    options: list[Callable[[Any], Any]] = [
        click.argument("manifest", required=False, type=click.Path(path_type=Path)),
        click.option(
            "--encoder",
            multiple=True,
            metavar="FAMILY:NAME",
            help="Encode with this encoder, such as timm:resnet50; repeat it to decode each image "
            "once for several [default: those of the store].",
        ),
        click.option(
            "--weights",
            multiple=True,
            metavar="PLACE",
            help="Load the weights from package:NAME, a file, a folder or hub; once an encoder, "
            "in their order, - for its default [default: hub].",
        ),
        click.option(
            "--kind",
            "kinds",
            multiple=True,
            metavar="NAMES",
            callback=typed(Option("kinds", (), words=KINDS), several=True),
            help="Take items of these kinds: image, caption, class_name, head_weight [default: "
            "what MANIFEST has and an encoder takes].",
        ),
        store_option(
            "Write to this store, a folder or a bucket such as s3://team/features. It is made if "
            "it is missing [default: ./store].",
            required=False,
        ),
        options_from(EncoderSpec),
        options_from(ExtractConfig),
        options_from(Place),
        setting_option(
            "Set an option of the encoders, of the decoder or of a head; ENCODER.NAME=VALUE is "
            "for one encoder, and `extract --encoder FAMILY: --help` lists them"
        ),
        seeds_option("Draw the views of --augment with this seed."),
    ]
    for add in reversed(options):
        function = add(function)
    return function
