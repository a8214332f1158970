"""``featstore export`` and ``import``: sets as the files of other tools, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from featstore.cli.options import KEY
from featstore.cli.progress import ProgressBar, show_failures
from featstore.command_line import (
    EXIT_SKIPPED,
    StorePlace,
    StoreType,
    count,
    json_option,
    print_json,
    store_option,
)
from featstore.interop import FORMATS, ImportConfig
from featstore.options import options_from


@click.command(
    "export",
    epilog="Example: featstore export build/demo/store stamps/image/tf_efficientnet_lite0 "
    "-o out.safetensors --format safetensors",
)
@click.argument("store", type=StoreType())
@click.argument("key", metavar="KEY", type=KEY)
@click.option(
    "-o",
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="Write to this file or folder.",
)
@click.option(
    "--format", "form", required=True, type=click.Choice(FORMATS), help="Write in this format."
)
@click.option(
    "--revision",
    help="Take the revision with this revision_id, or the beginning of one [default: the current "
    "one].",
)
@json_option
def export_command(
    store: StorePlace, key: str, out: Path, form: str, revision: str | None, as_json: bool
) -> None:
    """Export a set as npy, Parquet, safetensors or HDF5.

    Every bit is kept. Items that failed have no row and are left out. npy and parquet have no
    bfloat16: they get the same values as float32. An output that is there must have the same bytes.
    """
    from featstore.interop.writing import WIDENING, export_set
    from featstore.store.store import open_store

    opened = open_store(store)
    info = opened.info(key, revision=revision)
    with ProgressBar(f"export {info.key}"):
        export_set(opened, str(info.key), out, form=form, revision=info.commit.revision_id)
    rows = info.commit.n - info.n_failed
    widened = form in WIDENING and info.commit.dtype == "bfloat16"
    dtype = "float32" if widened else info.commit.dtype
    if as_json:
        print_json(
            {
                "key": str(info.key),
                "revision_id": info.commit.revision_id,
                "out": str(out),
                "format": form,
                "rows": rows,
                "failed": info.n_failed,
                "dtype": dtype,
            }
        )
        return
    failed = f" ({info.n_failed:,} failed items left out)" if info.n_failed else ""
    click.echo(f"Wrote {count(rows, 'row')} of {info.key} to {out}{failed}")
    if widened:
        click.echo(
            f"{form} has no bfloat16: the same values, as float32. Import them with --save-dtype "
            "bfloat16."
        )


@click.command(
    "import",
    epilog="Example: featstore import feats.npy --items items.csv --store store --dataset birds "
    "--kind image --encoder their:vit",
)
@click.argument("source", type=click.Path(path_type=Path))
@store_option("Write to the store in this folder, which is made if it is missing.", writes=True)
@options_from(ImportConfig)
@json_option
def import_command(source: Path, store: Path, as_json: bool, **given: Any) -> int:
    """Import rows that another tool computed.

    They become a set whose provenance is `imported`. SOURCE is what `featstore export` writes,
    clip-retrieval's folder, or a plain .npy or .h5 file or Zarr array with --items. Items whose
    row is all zeros are skipped and listed; the exit code is then 3.
    """
    from featstore.interop.reading import import_rows
    from featstore.store.store import open_store

    with ProgressBar(f"import {source}"):
        key = import_rows(source, store=store, **given)
    failures = dict(open_store(store).failures(key).iter_rows())
    show_failures(failures)
    if as_json:
        print_json({"key": key, "failed": len(failures)})
    else:
        click.echo(f"Imported {key}")
    return EXIT_SKIPPED if failures else 0
