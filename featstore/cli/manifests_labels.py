"""``featstore manifests overlap`` and ``shots``: what is asked of classes and their images."""

from __future__ import annotations

from pathlib import Path

import click

from featstore.command_line import print_json
from featstore.errors import ManifestError


@click.command(
    "overlap",
    epilog="Example: featstore manifests overlap manifests/stamps manifests/imagenet1k",
)
@click.argument("dataset", type=click.Path(path_type=Path))
@click.argument("label_set", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def overlap_command(dataset: Path, label_set: Path, as_json: bool) -> None:
    """Say which classes of DATASET are in LABEL_SET; both are folders of manifests.

    By exact lemma: a name of the class equals a lemma there, in lower case, with spaces for _
    and -; nothing is stemmed. By synset too where both have them.
    """
    from featstore.label_overlap import overlap
    from featstore.manifest import read_manifest

    manifests = [read_manifest(folder) for folder in (dataset, label_set)]
    tables = []
    for manifest, folder in zip(manifests, (dataset, label_set), strict=True):
        if manifest.classes is None:
            msg = f"The manifest {folder} has no classes."
            raise ManifestError(msg)
        tables.append(manifest.classes)
    found = overlap(*tables)
    if as_json:
        print_json(found.to_dicts())
        return
    for row in found.iter_rows(named=True):
        click.echo(f"{row['class_id']}  {row['other_id']}  {row['lemma'] or row['rule']}")
    seen = found["class_id"].n_unique()
    click.echo(f"{seen:,} of {tables[0].height:,} classes are in {manifests[1].name}")


@click.command(
    "shots", epilog="Example: featstore manifests shots build/food101 --seed 1,2,3 -o build/shots"
)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Their folder.")
@click.option("--seed", "seeds", default="1,2,3", show_default=True, help="Seeds.")
@click.option("--shots", default="1,2,4,8,16", show_default=True, help="Images a class.")
@click.option("--val", type=int, help="Validation images a class; default min(shots, 4).")
@click.option("--split", default="train", show_default=True, help="Split to draw from.")
@click.option("--json", "as_json", is_flag=True, help="Print the files as JSON.")
def shots_command(
    folder: Path, out: Path, seeds: str, shots: str, val: int | None, split: str, as_json: bool
) -> None:
    """Draw few-shot splits of the manifest in DIR, as small Parquet files.

    The draw depends on the seed and the item ids alone; a larger one holds the smaller ones.
    """
    from featstore.few_shot import write_shots
    from featstore.manifest import read_manifest

    files = write_shots(
        read_manifest(folder).items("image"),
        out,
        seeds=_numbers(seeds, "--seed"),
        shots=_numbers(shots, "--shots"),
        val=val,
        split=split,
    )
    if as_json:
        print_json([str(file) for file in files])
        return
    for file in files:
        click.echo(str(file))


def _numbers(text: str, flag: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as err:
        msg = f"{flag} is {text!r}; give numbers, e.g. 1,2,4."
        raise click.UsageError(msg) from err
