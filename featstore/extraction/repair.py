"""Repair a set: from its own store, from another copy of it, and by extracting the rest again.

First the store is asked, then the other copy, if one is named (`featstore.store.repair`): whatever
they give has the hash that the commit states. What is left can be extracted again from the
manifest. Damaged blocks are pending then, the others stay, and a new revision is published. Where
the encoder gives the same bits as before, that is the same revision, byte for byte.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import polars as pl

from featstore.address import parse_address
from featstore.durable import local_folder
from featstore.encoders.base import Encoder
from featstore.errors import (
    EncoderError,
    FeatstoreError,
    ManifestError,
    StoreWriteError,
    TooManyFailuresError,
)
from featstore.extraction.golden_check import GOLDEN_FILE, Golden, require_same_encoder
from featstore.extraction.heads import open_head, write_head
from featstore.extraction.opening import open_encoders
from featstore.extraction.options import (
    MODEL_OPTIONS,
    Decode,
    EncoderSpec,
    ExtractConfig,
    HeadConfig,
    RepairConfig,
)
from featstore.extraction.progress import ExtractResult, JobLog
from featstore.extraction.run import encode_sets
from featstore.extraction.targets import Job
from featstore.extraction.views import view_items
from featstore.identity import space_id
from featstore.images import MAX_PIXELS, Resizer
from featstore.labels import head_items
from featstore.manifest.io import read_manifest
from featstore.manifest.manifest import Manifest
from featstore.options import take_options
from featstore.store.files import MAX_METADATA_BYTES, read_json
from featstore.store.layout import SetKey
from featstore.store.listing import Damage, find_damage, whole_commit
from featstore.store.lock import claim_folders
from featstore.store.log import resolve_set
from featstore.store.repair import Repair, rebuild_set, repair_log
from featstore.store.staging import read_journal, settings_of
from featstore.store.store import FeatureStore, open_store
from featstore.store.verify import verify_store

_VIEWS = re.compile(r"(.+)\.views(\d{1,9})-seed(\d{1,18})")


def repair_set(
    root: str | Path,
    key: str,
    *,
    copy: str | Path | None = None,
    manifest: str | Path | Manifest | None = None,
    config: RepairConfig | None = None,
    dry_run: bool = False,
    **options: Any,
) -> Repair:
    """Repair a damaged set.

    Parameters
    ----------
    root : path
        The store.
    key : str
        The set; a short name will do.
    copy : path or address, optional
        Another store that has the same revision of the set: what is damaged here is taken from
        there, block by block, if it has the hash that the commit states.
    manifest : path or Manifest, optional
        What the set was extracted from. What is still damaged then is extracted again, into a new
        revision; batch size, threads, pool, prompt and the like are those of the recorded run.
    config : RepairConfig, optional
    dry_run : bool
        Write nothing; encode nothing.
    **options
        Fields of `RepairConfig`; an encoder object is itself the ``encoder``.

    Raises
    ------
    UnknownSetError, AmbiguousSetError
        If no set, or several, have this name; or the other copy has none of it.
    EncoderError, ManifestError
        If the encoder is of another space than the set, or the manifest of another dataset.
    OptionError
        If there is no such option, or options of an extraction are given without a manifest.
    StoreWriteError
        If another process is writing the set, or the file system refuses.
    RemoteStoreError
        If the other copy cannot be reached.

    Examples
    --------
    >>> repair_set("store", "birds/image/resnet50", copy="s3://team/birds")  # doctest: +SKIP
    """
    (own,) = take_options(options, RepairConfig, of="repair_set")
    config = replace(config or RepairConfig(), **own)
    if manifest is None:
        config.require_none()
    root = local_folder(root)
    name = resolve_set(root, key)
    set_key = SetKey(*name.split("/"))
    source = read_manifest(Path(manifest)) if isinstance(manifest, str | Path) else manifest
    items = None if source is None else items_of(source, set_key)
    other = None if copy is None else open_copy(root, copy)
    done = rebuild_set(root, name, copy=other, items=items, dry_run=dry_run)
    tried = bool(done.left) and source is not None and not dry_run
    if not done.left:
        return done
    commit = whole_commit(root, set_key, log=repair_log(root, dry_run=True))
    known = commit is not None
    if tried and source is not None and commit is not None:
        request = _Request(root, set_key, source, config, commit.attributes)
        _extract_again(request, find_damage(root, set_key, commit), done)
        left = verify_store(root, [name]).problems
        wrong = {problem.path for problem in left}
        done.rebuilt += [p.path for p in done.left if p.path not in wrong]
        done.left = left
    if done.left and known:
        log = repair_log(root, dry_run=True)
        damage = find_damage(root, set_key, whole_commit(root, set_key, log=log))
        done.bad = [damage.describe(block) for block in damage.blocks]
    if done.left:
        done.commands = next_commands(
            root, set_key, manifest=manifest, weights=config.weights, anew=tried or not known
        )
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


def items_of(source: Manifest, key: SetKey) -> pl.DataFrame | None:
    """Return the items of a set's kind in its manifest: those of views are drawn from images.

    Raises
    ------
    ManifestError
        If the set is of another dataset.
    """
    if key.dataset == source.name:
        if key.kind == "head_weight":
            return None if source.classes is None else head_items(source.classes)
        return source.tables.get(key.kind)
    match = _VIEWS.fullmatch(key.dataset)
    if match is None or match[1] != source.name:
        raise ManifestError(
            f"{key} is not of manifest {source.name!r}. Give that of {key.dataset!r}."
        )
    images = source.tables.get("image")
    return None if images is None else view_items(images, views=int(match[2]), seed=int(match[3]))


@dataclass(frozen=True)
class _Request:
    """What a damaged set is extracted again from; see `repair_set`."""

    root: Path
    key: SetKey
    source: Manifest
    config: RepairConfig
    #: The attributes that the set states.
    stated: Mapping[str, Any]

    @property
    def directory(self) -> Path:
        """Folder of the set."""
        return self.key.directory(self.root)


def _extract_again(request: _Request, damage: Damage, done: Repair) -> None:
    """Extract the damaged blocks into a new revision, and report it."""
    if damage.items:
        done.reasons += [
            f"{one.path.rpartition('/')[2]}: the manifest's {request.key.kind} items are not those "
            "of the commit. Give the manifest's revision that was extracted."
            for one in damage.items
        ]
        return
    for folder in claim_folders(request.directory):
        if read_journal(folder)[1] and not settings_of(folder).get("repair"):
            raise StoreWriteError(
                f"An extraction of {request.key} is unfinished. Finish it, or remove what it has "
                f"staged with `headstock store gc {request.root}`, and repair the set then."
            )
    before = damage.commit
    try:
        extract = _extract_head if request.key.kind == "head_weight" else _extract_items
        result = extract(request, damage)
    except TooManyFailuresError as err:
        done.reasons.append(f"{err} Nothing was published.")
        return
    after, places = whole_commit(request.root, request.key), [*before.by_rows]
    assert after is not None
    done.revision, done.failed = result.revision_id, result.failed
    done.identical = after.revision_id == before.revision_id
    done.encoded = [
        {
            **damage.describe(block),
            "identical": after.by_rows.get(places[block]) == before.blocks[block],
        }
        for block in damage.blocks
    ]


def _extract_items(request: _Request, damage: Damage) -> ExtractResult:
    """Run the ordinary extraction for the damaged blocks of images or texts."""
    key, before = request.key, damage.commit
    views = _VIEWS.fullmatch(key.dataset)
    config = ExtractConfig(
        dtype=before.dtype,
        precision=before.attributes["precision"],
        jobs=request.config.jobs,
        views=int(views[2]) if views else 0,
        seed=int(views[3]) if views else 0,
        limit=before.n // (int(views[2]) if views else 1),
        # What was embedded must be again; only what failed before may fail.
        max_failures=_failed_pending(damage),
    )
    choice, opened, config = _open_encoder(request, before.space_id, config)
    job = Job(request.source, key.kind, [choice], request.root, config).open([opened])
    target = replace(job.targets[0], repair=True)
    if target.spec.key != key:
        raise EncoderError(
            f"This encoder writes {target.spec.key}, not {key}: it has another name or precision."
        )
    if GOLDEN_FILE not in damage.lost:  # before anything is staged
        golden = Golden(opened, config.threads)
        require_same_encoder(golden, str(key), request.directory, before)
    return encode_sets(job, [target], JobLog(None))[target.spec.set_id]


def _failed_pending(damage: Damage) -> int:
    """Return how many failed items are tried again: of damaged blocks, or all without reasons."""
    failed = damage.commit.failed_rows()
    if any(name.startswith("failures") for name in damage.lost):
        return int(failed.sum())
    return sum(
        int(failed[damage.commit.layout.block_slice(block)].sum()) for block in damage.blocks
    )


def _extract_head(request: _Request, damage: Damage) -> ExtractResult:
    """Read rows and bias of a head again."""
    name = _encoder_name(request)
    stated = request.stated["facts"].get("label_set")
    choice, _ = recorded_choices(request.directory, name)[0]
    label_set = stated if isinstance(stated, str) else None
    config = HeadConfig(label_set, device=request.config.device or "cpu")
    spec = EncoderSpec(name, request.config.weights or choice.weights)
    opened = open_head(request.source, spec, store=request.root, config=config)
    if space_id(opened.head.space) != damage.commit.space_id:
        raise _other_space(request, opened.head.space, damage.commit.space_id)
    return write_head(opened, request.root, device=config.device, repair=True)


def _open_encoder(
    request: _Request, wanted: str, config: ExtractConfig
) -> tuple[EncoderSpec, Encoder, ExtractConfig]:
    """Open the set's encoder as one of its runs asked for it.

    Raises
    ------
    EncoderError
        If none of them is of the space with the id `wanted`, or the encoder was an object and is
        not given.
    """
    given = request.config.encoder
    name = _encoder_name(request)
    found = recorded_choices(request.directory, name)
    if given is not None and not isinstance(given, str):
        stated = request.config.space or request.stated["space"]
        facts = {name: value for name, value in stated.items() if name != "family"}
        found = [(EncoderSpec(given, space=facts), found[0][1])]
    elif name.startswith("object:"):
        raise EncoderError(
            f"{request.key} was made by the object {name!r}, which no name stands for. Repair it "
            "from Python: featstore.extraction.repair.repair_set(store, key, manifest=…, "
            "encoder=…)."
        )
    first: Encoder | None = None
    for choice, run in found:
        requested = replace(
            choice,
            weights=request.config.weights or choice.weights,
            trust_remote_code=request.config.trust_remote_code,
        )
        device = request.config.device or run.get("device", "cpu")
        chosen = replace(config, **{**run, "device": device})
        opened = given if isinstance(given, Encoder) else open_encoders(
            [requested], request.key.kind, chosen
        )[0]  # fmt: skip
        if space_id(opened.space) == wanted:
            return requested, opened, chosen
        first = first or opened
    assert first is not None
    raise _other_space(request, first.space, wanted)


def _encoder_name(request: _Request) -> str:
    given = request.config.encoder if isinstance(request.config.encoder, str) else None
    return str(given or request.stated["encoder"])


def _other_space(request: _Request, space: Mapping[str, Any], wanted: str) -> EncoderError:
    stated = request.stated["space"]
    differ = sorted(n for n in {*stated, *space} if stated.get(n) != space.get(n))
    other = f": {', '.join(differ)} differ" if differ else ""
    msg = (
        f"This encoder is not that of {request.key}{other} (space_id {space_id(space)[:8]}, not "
        f"{wanted[:8]}). Nothing was overwritten. Give the weights that the set was extracted "
        "with (--weights)."
    )
    return EncoderError(msg)


def recorded_choices(directory: Path, encoder: str) -> list[tuple[EncoderSpec, dict[str, Any]]]:
    """Return how the runs of a set asked for its encoder, the newest first.

    Parameters
    ----------
    directory : Path
        Folder of the set.
    encoder : str
        Name of the encoder: a run may have had several.

    Returns
    -------
    list of (EncoderSpec, dict)
        With the fields of `featstore.extraction.options.ExtractConfig` on which the bits of a row
        depend. Defaults alone if no run can be read: it is recorded for people.
    """
    found: list[tuple[EncoderSpec, dict[str, Any]]] = []
    runs = []
    for path in sorted((directory / "runs").glob("*.json"), reverse=True):
        with contextlib.suppress(FeatstoreError, OSError):
            runs.append(_mapping(read_json(path, limit=MAX_METADATA_BYTES)))
    accepted = _accepted([_mapping(run.get("settings")) for run in runs])
    for run in runs:
        settings = _mapping(run.get("settings"))
        package = _mapping(_mapping(run.get("encoder")).get("weights")).get("package")
        options: dict[str, Any] = {
            "batch_size": _count(run.get("batch")),
            "threads": _count(run.get("threads")),
            "window": _count(run.get("window")) or 1,
            "device": str(run.get("device", "cpu")),
            "compile": settings.get("compile") is True,
            **accepted,
            **{
                name: settings[name] if settings.get(name) in get_args(kind) else usual
                for name, kind, usual in (("decode", Decode, "cpu"), ("resize", Resizer, "pillow"))
            },
        }
        requested = settings.get("encoders")
        ways = [_mapping(one) for one in requested] if isinstance(requested, list) else []
        for way in [way for way in ways if way.get("encoder") == encoder] or [{}]:
            weights = f"package:{package}" if isinstance(package, str) else None
            chosen = {name: way[name] for name in MODEL_OPTIONS if name in way}
            one = (EncoderSpec(encoder, weights=weights, **chosen), options)
            found += [] if one in found else [one]
    return found or [(EncoderSpec(encoder), {})]


def _accepted(settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return which images the runs of a set decoded between them: that changes no row."""
    largest = [_count(one.get("max_pixels")) or 0 for one in settings]
    tiff = any(one.get("tiff") is True for one in settings)
    return {"tiff": tiff, "max_pixels": max([MAX_PIXELS, *largest])}


def next_commands(
    root: Path, key: SetKey, *, manifest: Any, weights: str | None, anew: bool
) -> list[str]:
    """Return what to type to make a damaged set whole: any one of them, the best first.

    Parameters
    ----------
    manifest, weights
        As the caller gave them, if at all.
    anew : bool
        Extracting the damaged blocks was tried, or nothing says what they are: the set must be
        removed and made again.
    """
    current = whole_commit(root, key, log=repair_log(root, dry_run=True))
    attributes = {} if current is None else current.attributes
    encoder = str(attributes.get("encoder") or key.encoder.rsplit("-", 1)[0].replace(".", ":", 1))
    choice, options = recorded_choices(key.directory(root), encoder)[0]
    chosen = weights or choice.weights
    where = f" --weights {_quote(chosen)}" if chosen else ""
    repair = f"headstock store repair {_quote(root)} {key}"
    found = [f"{repair} --copy ADDRESS"]
    imported = _mapping(attributes.get("space")).get("provenance") == "imported"
    is_object = encoder.startswith("object:")
    if not anew and not imported:
        call = "featstore.extraction.repair.repair_set"
        if is_object:
            call = f"python: {call}({str(root)!r}, {str(key)!r}, manifest=..., encoder=...)"
            return [*found, call]
        folder = manifest if isinstance(manifest, str | Path) else "MANIFEST"
        return [*found, f"{repair} --manifest {_quote(folder)}{where}"]
    remove = f"headstock store rm {_quote(root)} {key} --yes"
    place = f"--kind {key.kind} --encoder {_quote(encoder)} --store {_quote(root)}"
    if imported:
        source = _mapping(attributes.get("facts")).get("source", "FILE")
        again = f"headstock import {_quote(source)} --dataset {key.dataset} {place}"
        return [*found, f"{remove} && {again}"]
    if is_object:
        return [*found, f"{remove}; then in python: featstore.extract(..., encoder=...)"]
    given = {name: getattr(choice, name) for name in MODEL_OPTIONS}
    requested = {name: value for name, value in given.items() if value is not None}
    typed = "".join(f" -s {_quote(f'{name}={value}')}" for name, value in requested.items())
    tiff, most = " -s tiff" if options.get("tiff") else "", options.get("max_pixels", MAX_PIXELS)
    tiff += f" -s max_pixels={most}" if most > MAX_PIXELS else ""
    return [*found, f"{remove} && headstock extract MANIFEST {place}{typed}{tiff}{where}"]


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _quote(value: Any) -> str:
    return shlex.quote(str(value))
