"""What ``extract`` and ``plan`` are asked for: kinds, encoders, and what a head is read with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from featstore.cli.encoder_options import encoder_choices
from featstore.cli.extract_options import options_of
from featstore.extraction.options import EncoderChoice
from featstore.manifest import Manifest, read_manifest


@dataclass(frozen=True)
class Asked:
    """The request of a command line, checked as far as that needs no weights.

    Attributes
    ----------
    source : Manifest or None
        None if only heads are asked for, by a label file.
    heads : list of dict
        Arguments of `extract_head`, but for the store, for each encoder.
    """

    kinds: tuple[str, ...]
    source: Manifest | None
    choices: list[EncoderChoice]
    heads: list[dict[str, Any]]


def asked_for(manifest: Path | None, kinds: tuple[str, ...], given: dict[str, Any]) -> Asked:
    """Return what is asked for.

    Raises
    ------
    click.UsageError
        If there is no manifest, or a label file too many.
    ManifestError
        If the manifest cannot be read, or lacks what is asked for.
    UnknownEncoderError, EncoderError
        If there is no such encoder, or its family does not take an option or a kind.
    """
    from featstore.encoders.registry import check_kind, check_options
    from featstore.extraction.heads import label_set_of
    from featstore.extraction.opening import job_items

    choices = encoder_choices(given)
    others = [kind for kind in kinds if kind != "head_weight"]
    label_file = given["label_file"]
    if manifest is None and (others or label_file is None):
        what = " and ".join(dict.fromkeys(others)) or "head_weight without --label-file"
        msg = f"Missing argument 'MANIFEST': {what} items come from one."
        raise click.UsageError(msg)
    if label_file is not None and not (manifest is None or others):
        msg = f"The classes of the head are given twice: by {manifest} and by --label-file. Once."
        raise click.UsageError(msg)
    if label_file is not None and len(others) == len(kinds):
        msg = "--label-file lists the classes of a head: add --kind head_weight, or leave it out."
        raise click.UsageError(msg)
    source = None if manifest is None else read_manifest(manifest)
    for choice in choices:
        check_options(
            choice.encoder, **choice.model_options(), trust_remote_code=given["trust_remote_code"]
        )
    # Of several kinds the last must not be found wanting when the first are done.
    for kind in others:
        assert source is not None
        job_items(source, kind, options_of(given))
        for choice in choices:
            check_kind(choice.encoder, kind)
    if len(others) < len(kinds) and source is not None and label_file is None:
        label_set_of(source)
    heads = [
        {
            "manifest": source if label_file is None else None,
            "encoder": choice.encoder,
            "weights": choice.weights,
            "pool": choice.pool,
            "label_set": given["label_set"],
            "label_file": label_file,
            "check_names": given["check_names"],
            "check_weights": given["check_weights"],
            "device": given["device"],
        }
        for choice in choices
    ]
    return Asked(tuple(dict.fromkeys(kinds)), source, choices, heads)
