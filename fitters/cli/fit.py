"""`headstock fit`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from click.core import ParameterSource

from featstore.cli.options import (
    complete_keys,
    prompt_fields,
    prompts_option,
    say_taken,
    seeds_option,
    take,
    the_store,
)
from featstore.command_line import (
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
    check_needs,
    config_from,
    option,
    options_from,
    settings_from,
    settings_of,
)
from featstore.terminal import ProgressBar
from fitters.settings import MOST, FitRequest, TrainingOptions

if TYPE_CHECKING:
    from featstore.store.store import FeatureStore
    from fitters.methods import Method
    from fitters.settings import EpochDone


@dataclass(frozen=True)
class Place:
    """Where the moments of real pairs are accumulated."""

    engine: Literal["local", "ray"] = option(
        "local",
        help="Accumulate the moments of real pairs on this machine, or on the Ray cluster that "
        "RAY_ADDRESS names.",
        needs=("y",),
    )
    jobs: int | None = option(
        None,
        help="Run this many workers at once, each with one thread [default: this process; with "
        "ray all its cores].",
        at_least=1,
        below=10_000,
        needs=("y",),
    )


def _settings(named: Mapping[str, Any]) -> Owners:
    """Return what ``-s`` sets of the method that a command line names, and of its fit."""
    from fitters.methods import METHODS

    method = named.get("method")
    if not isinstance(method, str) or method not in METHODS:
        return {}
    return {method: METHODS[method].settings | {"moments": settings_of(FitRequest)["moments"]}}


@dataclass(frozen=True)
class Suggestion:
    """What is asked for in place of a fit."""

    suggest: int | None = option(
        None,
        help="Fit nothing; list the N images whose captions would help most.",
        at_least=1,
        below=MOST,
        metavar="N",
    )


@complete_keys
@click.command(
    "fit",
    cls=SectionedCommand,
    named=("Methods", "fitters.methods:METHODS"),
    settings=_settings,
    sections={
        "Options": "--store --images --head --captions --n-pairs --out --setting",
    },
    epilog="Example: headstock fit ridge --store build/demo/store "
    "--images stamps/image -o aligners/ridge-head",
)
@name_argument("method", "fitters.methods:METHODS")
@store_option("Read from this store, a folder or an address.", required=False)
@options_from(FitRequest, inferred=("x",))
@click.option(
    "--names",
    "captions_of",
    metavar="KEY",
    help="Fit on real pairs with these class names.",
)
@prompts_option(
    "--prompts",
    "Use these texts of class names: VARIANT[,…][:TEMPLATE[,…]]. --names are fitted on them, and "
    "the classes of a head are asked for in them [default: name:none,photo].",
)
@prompts_option(
    "--head-prompts",
    "Fit on these texts of the head's classes; auto chooses them on the head [default: --prompts, "
    "and the definition where there is one].",
)
@options_from(TrainingOptions)
@options_from(Place)
@seeds_option(
    "Draw with this random seed; with several, such as 0-4 or 0,2,5, fit once with each, and save "
    "OUT/METHOD-seedN."
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="Save the alignment as this folder [default: aligners/METHOD].",
)
@setting_option("Set an option of METHOD; `fit METHOD --help` lists them")
@options_from(Suggestion)
@click.option("--replace", "force", is_flag=True, help="Replace another alignment that is at OUT.")
@json_option
def fit_command(
    method: str,
    store: StorePlace | None,
    out: Path | None,
    suggest: int | None,
    force: bool,
    as_json: bool,
    seeds: tuple[int, ...],
    **given: Any,
) -> None:
    """Fit METHOD and save it as the folder OUT.

    METHOD is one of those below, or of another package: `headstock ls --available methods` lists
    both.
    --head fits on the rows of a head, --captions or --names on real pairs, both on both. A KEY is
    as much of a key (dataset, kind, encoder) as fits one set; what is left out is taken where the
    store leaves one answer. Penalty and mixing weight are chosen from these alone, never from a
    test image. A training (docs/ref/methods.md) that was interrupted begins anew.
    """
    from fitters.jobs import check_request, fit_from_store
    from fitters.methods import METHODS, methods_with
    from fitters.saved import check_free

    values = settings_from(given.pop("words"), _settings({"method": method}), having=methods_with)
    typed = typed_options() | {name: f"-s {name}" for name in values[method]}
    given |= values[method]
    asked = _asked(method, given)
    check_effects(METHODS[method], asked, given, typed)
    check_request(asked)
    store = the_store(store)
    with ProgressBar(method, doing="opening the store"):
        from featstore.parallel import Workers
        from featstore.store.store import open_store
        from fitters.from_store import OBJECT_STORE_BYTES

        opened, made = open_store(store), []
        request = replace(asked, **find_sets(opened, given))
        check_request(request)
    if suggest is not None:
        _print_suggested(opened, replace(request, seed=seeds[0]), suggest, as_json=as_json)
        return
    out = out or take("out", Path("aligners") / method)
    say_taken()
    many = len(seeds) > 1
    paths = {seed: out / f"{method}-seed{seed}" if many else out for seed in seeds}
    for seed, path in () if force else paths.items():
        check_free(path, replace(request, seed=seed).facts)
    workers = Workers(given["engine"], given["jobs"], object_store_bytes=OBJECT_STORE_BYTES)
    # One start of Ray for all seeds; a single fit starts it only if nothing is cached.
    with workers.connected() if many else nullcontext():
        for seed, path in paths.items():
            with ProgressBar(method, doing="reading pairs") as bar:
                alignment = fit_from_store(
                    opened,
                    replace(request, seed=seed),
                    on_epoch=partial(_show_epoch, bar),
                    on_stage=bar.stage,
                    workers=workers,
                )
            alignment.save(path, replace=force)
            made.append({"path": str(path), **alignment.facts})
            if not as_json:
                click.echo(_line(path, method, alignment.facts))
    if as_json:
        print_json(made if many else made[0])


def _print_suggested(store: FeatureStore, request: FitRequest, n: int, *, as_json: bool) -> None:
    """Print the images to caption first, and what is expected to be left of the error."""
    from featstore.terminal import TextTable
    from fitters.jobs import suggest

    say_taken()
    with ProgressBar(request.method, doing="looking at the images"):
        found = suggest(store, request, n)
    if as_json:
        print_json(found)
    else:
        TextTable(("#", "image", "error left", "cosine with the nearest known row"), [
            [str(place), one["item_id"], f"{100 * one['left']:.1f} %", f"{one['cosine']:.2f}"]
            for place, one in enumerate(found, start=1)
        ]).show()  # fmt: skip


def _line(path: Path, method: str, facts: dict[str, Any]) -> str:
    named = {"n_components": "components", "top_k": "top-k"}
    settings = ("penalty", "gamma", "mix", "n_components", "top_k", "power")
    found = [(name, facts["choice"].get(name)) for name in settings]
    chosen = ", ".join(
        f"{named.get(name, name)} {format(value, ',' if isinstance(value, int) else '.3g')}"
        for name, value in found if value is not None
    )  # fmt: skip
    data = ((facts["n_prototypes"], "prototype"), (facts["n_real"], "real pair"))
    fitted_on = " and ".join(count(n, what) for n, what in data if n)
    if "agreement" in facts:
        chosen = f"its starts agree to {facts['agreement']:.2f}"
    return f"{path}: {method}, fitted on {fitted_on}{f' ({chosen})' if chosen else ''}"


#: Stands for a set that is not looked up yet.
_OPEN = "…"


def _asked(method: str, given: Mapping[str, Any]) -> FitRequest:
    """Return what a command line asks for, with sets as they were typed.

    What is left out stands as `_OPEN`: the images, a head where there are no real pairs or its
    names are typed, those names, and captions where a number of pairs is given.
    """
    pairs = given["captions_of"] or given["y"]
    real = pairs or (_OPEN if given["n_pairs"] is not None else None)
    head = given["head"]
    if not head and (given["names"] or not real):
        head = _OPEN
    return config_from(
        FitRequest,
        given,
        method=method,
        x=given["x"] or _OPEN,
        y=real,
        head=head,
        names=given["names"] or (_OPEN if head else None),
        training=config_from(TrainingOptions, given),
        **prompt_fields(given["prompts"]),
        **prompt_fields(given["head_prompts"], "head_"),
    )


def find_sets(store: FeatureStore, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of the sets of a fit: those named, and what they leave one answer for.

    Raises
    ------
    SettingError, featstore.errors.UnknownSetError, featstore.errors.AmbiguousSetError
        As of `fitters.from_store.sets_of_fit`.
    """
    from fitters.from_store import sets_of_fit
    from fitters.jobs import ROLES

    named = {role: given[parameter] for role, parameter in _PARAMETERS.items()}
    keys = sets_of_fit(store, named, given["n_pairs"])
    for role, key in keys.items():
        if not named[role]:
            take(_PARAMETERS[role], key)
    return {ROLES[role]: key for role, key in keys.items()}


#: The parameter of `fit` that names the set of a role.
_PARAMETERS = {
    "images": "x",
    "captions": "y",
    "names": "captions_of",
    "head": "head",
    "head_names": "names",
}


def typed_options() -> dict[str, str]:
    """Return the flags of the parameters that were typed, or that a file sets, by name."""
    context = click.get_current_context()
    sources = (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP)
    return {
        str(parameter.name): max(parameter.opts, key=len)
        for parameter in context.command.params
        if context.get_parameter_source(str(parameter.name)) in sources
    }


def check_effects(
    method: Method, request: FitRequest, given: dict[str, Any], typed: dict[str, str]
) -> None:
    """Raise a usage error for an option that was typed and has no effect.

    Parameters
    ----------
    typed : dict of str to str
        The typed options by name, with their flags.
    """
    from fitters.methods import needs_rows

    if given["engine"] == "local":
        typed.pop("engine", None)
    for name, flag in typed.items():
        if not method.takes(name):
            raise usage_error(f"{flag} has no effect with {request.method}; remove it.")
    sets = {"y": request.y, "head": request.head}
    check_needs({**given, **sets}, FitRequest, TrainingOptions, Place)
    real, mixed = request.y is not None, request.y is not None and bool(request.head)
    rows = needs_rows(request, mixed=bool(request.head))
    by_error = request.criterion == "error"
    # Kernel ridge chooses its width and penalty on the prototypes, beside real pairs too.
    by_names = mixed and "gamma" in method.options and "auto" in (request.gamma, request.penalty)
    of_names = bool(request.head) or bool(given["captions_of"])
    rules: tuple[tuple[Collection[str], bool, str], ...] = (
        (("y", "captions_of"), method.fitted_on == "head",
         f"{request.method} reads a head and its names, and uses no real pair"),
        (("moments", "engine", "jobs"), rows,
         ("this fit looks at the rows, in float64. It is for fits from moments alone: give every "
          "setting, or -s criterion=error")),
        (("validation",), by_error, "-s criterion=error goes by the held-out squared error"),
        (("criterion",), not method.by_error, f"it is for ridges, not for {request.method}"),
        (("validation", "criterion"), not request.open_settings(method.options, mixed=mixed),
         "nothing is left to choose"),
        (("prompts",), not of_names,
         "there are no class names. They are those of --head, or of --names"),
        (("criterion",), real and not by_error and not by_names,
         "real pairs are chosen by the rank of held-out texts, or by -s criterion=error"),
    )  # fmt: skip
    for names, applies, why in rules:
        for name in names if applies else ():
            if name in typed:
                raise usage_error(f"{typed[name]} has no effect: {why}. Remove it.")


def _show_epoch(bar: ProgressBar, done: EpochDone) -> None:
    """Show loss, held-out metric and time left."""
    before = (done.stage - 1) * done.n_epochs
    bar.update(before + done.epoch, done.n_epochs * done.n_stages, note=str(done))
