"""Repair a set: from its own store, from another copy of it, and by extracting the rest again.

First the store is asked, then the other copy, if one is named (`featstore.store.verify`): whatever
they give has the hash that the commit states. What is left the extraction itself makes again, with
``repair``: damaged blocks are pending then, the others stay, and a new revision is published.
Where the encoder gives the same bits as before, that is the same revision, byte for byte.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from featstore.address import parse_address
from featstore.durable import local_folder
from featstore.errors import StoreWriteError
from featstore.extraction.options import MODEL_OPTIONS, EncoderSpec, ExtractConfig
from featstore.images import MAX_PIXELS
from featstore.options import options_of
from featstore.store.layout import SetKey
from featstore.store.listing import find_damage, whole_commit
from featstore.store.lock import claim_folders
from featstore.store.log import resolve_set
from featstore.store.records import runs
from featstore.store.staging import settings_of
from featstore.store.store import FeatureStore, open_store
from featstore.store.verify import Repair, rebuild_set, repair_log
from featstore.store.writer import refuse_unfinished


def repair_set(
    root: str | Path, key: str, *, copy: str | Path | None = None, dry_run: bool = False
) -> Repair:
    """Repair a damaged set, as far as that needs no encoder.

    Parameters
    ----------
    root : path
        The store.
    key : str
        The set; a short name will do.
    copy : path or address, optional
        Another store that has the same revision of the set: what is damaged here is taken from
        there, block by block, if it has the hash that the commit states.
    dry_run : bool
        Write nothing.

    Raises
    ------
    UnknownSetError, AmbiguousSetError
        If no set, or several, have this name; or the other copy has none of it.
    StoreWriteError
        If another process is writing the set, or the file system refuses.
    RemoteStoreError
        If the other copy cannot be reached.

    Examples
    --------
    >>> repair_set("store", "birds/image/resnet50", copy="s3://team/birds")  # doctest: +SKIP
    """
    root = local_folder(root)
    name = resolve_set(root, key)
    other = None if copy is None else open_copy(root, copy)
    done = rebuild_set(root, name, copy=other, dry_run=dry_run)
    if done.left:
        set_key = SetKey(*name.split("/"))
        commit = whole_commit(root, set_key, log=repair_log(root, dry_run=True))
        if commit is not None:
            damage = find_damage(root, set_key, commit)
            done.bad = [damage.describe(block) for block in damage.blocks]
        attributes: Mapping[str, Any] = {} if commit is None else commit.attributes
        done.commands = next_commands(root, set_key, attributes)
    return done


def open_copy(root: Path, copy: str | Path) -> FeatureStore:
    """Open the store to repair from.

    Raises
    ------
    StoreWriteError
        If it is the store that is to be repaired.
    UnknownSetError, RemoteStoreError
        If it is no store, or cannot be reached.
    """
    place = parse_address(copy)
    if isinstance(place, Path) and place.exists() and place.samefile(root):
        raise StoreWriteError(
            f"{copy} is the store that is to be repaired. Name another copy of it."
        )
    return open_store(copy)


def must_encode(root: Path, key: SetKey, items: pl.DataFrame) -> bool:
    """Make anew what of a set needs no encoder, and return whether something is left.

    Parameters
    ----------
    items : DataFrame
        Of the manifest: what the item table may be, or the beginning of it.

    Raises
    ------
    UnknownSetError
        If there is no such set.
    StoreWriteError
        If an extraction of it is unfinished, whose rows would be dropped.
    """
    done = rebuild_set(root, str(key), items=items)
    folders = claim_folders(key.directory(root))
    if done.left and not any(settings_of(folder).get("repair") for folder in folders):
        refuse_unfinished(root, key, "repair the set")
    return bool(done.left)


def run_settings(directory: Path) -> list[dict[str, Any]]:
    """Return batch size, threads and device type of the runs of a set."""
    return [
        {
            "device": str(run.get("device", "cpu")).partition(":")[0],
            **{name: _count(run.get(name)) for name in ("batch", "threads")},
        }
        for run in runs(directory)
    ]


def recorded_choice(directory: Path, encoder: str, *, local: str = "") -> EncoderSpec:
    """Return how the newest run of a set asked for its encoder.

    Parameters
    ----------
    directory : Path
        Folder of the set.
    encoder : str
        Name of the encoder: a run may have had several.
    local : str
        What stands for the folder of weights of one's own, of which their name alone is recorded;
        by default they are left out.
    """
    for run in runs(directory):
        package = _mapping(_mapping(run.get("encoder")).get("weights")).get("package")
        weights = f"package:{package}" if isinstance(package, str) else None
        requested = _mapping(run.get("settings")).get("encoders")
        ways = [_mapping(one) for one in requested] if isinstance(requested, list) else []
        way = next((way for way in ways if way.get("encoder") == encoder), {})
        chosen = {name: way[name] for name in MODEL_OPTIONS if name in way}
        if weights is None and local and way.get("weights", "hub") != "hub":
            weights = f"{local}/{way['weights']}"
        return EncoderSpec(encoder, weights=weights, **chosen)
    return EncoderSpec(encoder)


#: The options of an extraction that decide which set it makes, or which images it decodes.
_DECISIVE = (
    "dtype", "precision", "views", "seed", "decode", "resize", "compile", "tiff", "max_pixels",
)  # fmt: skip


def _typed_options(directory: Path) -> str:
    """Return the options of the runs of a set, as they are typed."""
    every = [_mapping(run.get("settings")) for run in runs(directory)] or [{}]
    # What one of them decoded is decoded again.
    largest = max(_count(one.get("max_pixels")) or MAX_PIXELS for one in every)
    tiff = any(one.get("tiff") is True for one in every)
    chosen, typed = {**every[0], "tiff": tiff, "max_pixels": largest}, ""
    for one in options_of(ExtractConfig):
        value = chosen.get(one.name, one.default)
        if one.name in _DECISIVE and value != one.default and one.takes(value):
            value = "yes" if value is True else _quote(value)
            typed += f" {one.shown_flag}{'=' if one.setting else ' '}{value}"
    return typed


def next_commands(root: Path, key: SetKey, attributes: Mapping[str, Any]) -> list[str]:
    """Return what to type to make a damaged set whole: any one of them, the best first.

    Parameters
    ----------
    attributes : mapping
        What its commit says; empty if nothing says what its blocks are: then the set must be
        removed and made again.
    """
    encoder = str(attributes.get("encoder") or key.encoder.rsplit("-", 1)[0].replace(".", ":", 1))
    choice = recorded_choice(key.directory(root), encoder, local="FOLDER")
    found = [f"headstock store repair {_quote(root)} {key} --copy ADDRESS"]
    remove = f"headstock store rm {_quote(root)} {key} --yes"
    place = f"--kind {key.kind} --encoder {_quote(encoder)} --store {_quote(root)}"
    provenance = _mapping(attributes.get("space")).get("provenance")
    if provenance == "derived":
        made = _mapping(_mapping(attributes.get("facts")).get("derived"))
        source, how = (_quote(made.get(name, name.upper())) for name in ("key", "by"))
        again = f"headstock store derive {_quote(root)} {source} --by {how}"
        return [*found, f"{remove} && {again} --name {_quote(encoder)}"]
    if provenance == "imported":
        source = _mapping(attributes.get("facts")).get("source", "FILE")
        again = f"headstock import {_quote(source)} --dataset {key.dataset} {place}"
        return [*found, f"{remove} && {again}"]
    if encoder.startswith("object:"):
        how = "featstore.extract(..., encoder=...%s)" % (", repair=True" if attributes else "")
        return [*found, f"python: {how}" if attributes else f"{remove}; then in python: {how}"]
    given = {name: getattr(choice, name) for name in MODEL_OPTIONS}
    requested = {name: value for name, value in given.items() if value is not None}
    typed = "".join(f" -s {_quote(f'{name}={value}')}" for name, value in requested.items())
    typed += f" --weights {_quote(choice.weights)}" if choice.weights else ""
    typed += "" if key.kind == "head_weight" else _typed_options(key.directory(root))
    again = f"headstock extract MANIFEST {place}{typed}"
    return [*found, f"{again} --repair" if attributes else f"{remove} && {again}"]


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _quote(value: Any) -> str:
    return shlex.quote(str(value))
