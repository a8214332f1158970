"""What a path holds, and what has a name: ls, show, export; and the state of a folder.

A path is looked at, and the function of its kind prints it; none is imported before.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import click

from bench.options import AgainConfig
from featstore.cli.options import KEY, work_below
from featstore.command_line import (
    Choice,
    StorePlace,
    StoreType,
    count,
    json_option,
    print_json,
    print_listed,
    store_option,
    usage_error,
)
from featstore.errors import AddressError, FeatstoreError, unknown_name
from featstore.options import config_from, options_from
from featstore.terminal import TextTable

#: What is looked for by name -> where its registry is.
AVAILABLE = {
    "methods": "fitters.methods:METHODS",
    "learners": "fitters.few_shot:LEARNERS",
    "tasks": "bench.options:TASKS",
    "suites": "bench.suites:SUITES",
    "encoders": "featstore.encoders.registry:FAMILIES",
    "datasets": "featstore.datasets:DATASETS",
    "sources": "featstore.sources.making:SOURCES",
}

#: What a path is -> what prints its line or lines, and what shows it whole.
_LOOKS = {
    "stores": ("featstore.cli.store:list_sets", "featstore.cli.store:show_store"),
    "manifests": ("featstore.cli.manifests:show_manifest", "featstore.cli.manifests:show_manifest"),
    "datasets": ("featstore.cli.manifests:show_dataset", "featstore.cli.manifests:show_dataset"),
    "alignments": ("fitters.cli.apply:list_alignments", "fitters.cli.apply:show_alignment"),
    "results": ("bench.cli.results:list_series", "bench.cli.results:show_results"),
    "boards": ("bench.cli.results:show_boards", "bench.cli.results:show_boards"),
    "boxes": ("bench.cli.demo:show_box", "bench.cli.demo:show_box"),
    "vectors": ("bench.cli.vectors:show_vectors", "bench.cli.vectors:show_vectors"),
    "folders": ("bench.cli.look:list_folder", "bench.cli.look:list_folder"),
}


def look_at(path: str) -> tuple[str, StorePlace, str]:
    """Return what a path is, where it lies, and the KEY of a set that follows a store's path.

    Raises
    ------
    click.UsageError
        If it is there, and is nothing that Headstock writes.
    AddressError
        If it is not there, and no dataset or box has this name.
    """
    from featstore.store.store import split_tag

    place = StoreType().convert(path, None, None)
    base, _ = split_tag(place)
    if not isinstance(base, Path):
        return "stores", place, ""
    for folder in (base, *base.parents):
        kind = _kind_of(folder) if folder.is_dir() else ""
        if kind == "stores" or (kind and folder == base):
            key = base.relative_to(folder).as_posix()
            return kind, place if folder == base else folder, "" if key == "." else key
    if (base / "zarr.json").is_file():  # a store whose log is lost: opening it says so
        return "stores", place, ""
    if base.suffix == ".toml" and base.is_file():
        return "boxes", base, ""
    if _is_vectors(base):
        return "vectors", base, ""
    if base.is_dir() and (any(find_work(base).values()) or not any(base.iterdir())):
        return "folders", base, ""
    if base.exists():
        raise usage_error(_advice(base))
    return _named(path), path, ""


def _is_vectors(path: Path) -> bool:
    if not path.is_file() and (path.suffix != ".lance" or not path.is_dir()):
        return False
    from featstore.interop import SUFFIXES

    return path.suffix in SUFFIXES


def _chosen(path: str, key: str | None) -> tuple[str, StorePlace, str]:
    """Return what `look_at` does; with a KEY, the path is a store's, or has results."""
    folder, colon, cell = path.partition(":")
    if colon and key is None and Path(folder).is_dir():  # as `eval compare` takes a cell
        path, key = folder, cell
    kind, place, inside = look_at(path)
    if key is None or kind == "results":
        return kind, place, key or inside
    return "stores", StoreType().convert(path, None, None), key


def _kind_of(folder: Path) -> str:
    names = {entry.name for entry in folder.iterdir()}
    for kind, signs in _SIGNS.items():
        if kind != "reports" and signs(names):
            return kind
    if names and "zarr.json" not in names and all(name.endswith(".json") for name in names):
        return "boards"
    below = [entry for entry in folder.iterdir() if entry.is_dir()]
    are_saved = below and all((entry / "alignment.json").is_file() for entry in below)
    return "alignments" if are_saved else ""


def _named(name: str) -> str:
    """Return whether a name is that of a dataset or of a box."""
    from bench.reproduction import BUILT_IN
    from featstore.datasets import DATASETS

    if name in BUILT_IN or name in DATASETS:
        return "boxes" if name in BUILT_IN else "datasets"
    known = unknown_name("dataset", name, DATASETS, listed_by="headstock ls --available datasets")
    raise AddressError(f"{name} does not exist. {known}")


def _advice(place: Path) -> str:
    """Say what a path is that is nothing of ours, and what to type."""
    from featstore.sources.tables import IMAGE_SUFFIXES

    typed = shlex.quote(str(place))
    if place.is_file():
        return f"{place} is a " + (
            "report: open it in a browser." if _is_report(place) else "file of another program."
        )
    n = sum(path.suffix.lower() in IMAGE_SUFFIXES for path in place.rglob("*"))
    what = f"{place} holds {count(n, 'picture')}" if n else f"{place} holds nothing of Headstock's"
    return f"{what}: `headstock data make {typed}` makes a manifest of it."


@click.command(
    "ls",
    epilog="\b\nExample:\n  headstock ls build/demo/store\n  headstock ls --available methods",
)
@click.argument("path", required=False)
@click.argument("key", required=False, type=KEY)
@click.option(
    "--available", type=Choice([*AVAILABLE]), metavar="KIND",
    help=f"List what has a name: {', '.join(AVAILABLE)}.",
)  # fmt: skip
@json_option
def ls_command(path: str | None, key: str | None, available: str | None, as_json: bool) -> int:
    """List what a path holds, or what has a name.

    PATH is a store or its address, a set (STORE/KEY or STORE KEY), a manifest, a saved alignment, a
    folder of results, submissions or alignments, a box, or a file of vectors. Without one, the
    state of this folder is printed. The exit code is 4 if something of it is damaged.
    """
    if available is not None and path is not None:
        raise usage_error("Give a PATH, or --available.")
    if available is not None:
        rows = resolve_name(AVAILABLE[available]).listed()
        if available == "learners":
            from fitters.few_shot import PROMPT_LEARNERS

            rows += [
                {
                    "name": name, "kind": "learner", "package": "fitters",
                    "text": "Learns prompts through the text tower of the images' own model.",
                }
                for name in PROMPT_LEARNERS
            ]  # fmt: skip
        print_listed(rows, as_json=as_json)
        return 0
    if path is None:
        return list_folder(Path(), as_json=as_json)
    kind, place, inside = _chosen(path, key)
    more = {"key": inside} if inside else {}
    # A cell of results is no list: it is shown.
    look = _LOOKS[kind][kind == "results" and inside != ""]
    return resolve_name(look)(place, as_json=as_json, **more) or 0


def list_folder(folder: Path, *, as_json: bool) -> int:
    """Print what lies in a folder and below, and the next command."""
    found = find_work(folder)
    if as_json:
        print_json({**found, "next": next_command(found)})
    else:
        _print_state(found)
    return 0


@click.command(
    "show",
    epilog="\b\nExample:"
    "\n  headstock show build/demo/store stamps/image/tf_efficientnet_lite0"
    "\n  headstock show build/demo/aligners/ridge-head",
)
@click.argument("path")
@click.argument("key", required=False, type=KEY)
@click.option("--quick", is_flag=True, help="Read sizes and metadata, not every row of a set.")
@click.option(
    "--array", metavar="NAME",
    help="Read this column, tensor or dataset of a file [default: embedding, or the only matrix].",
)  # fmt: skip
@options_from(AgainConfig)
@json_option
def show_command(
    path: str, key: str | None, quick: bool, as_json: bool, array: str | None, **again: Any
) -> int:
    """Show one store, set, manifest, alignment, result or box, or a file of vectors.

    PATH is what `headstock ls` takes. A set of a store is STORE KEY or STORE/KEY; KEY is any part
    of a key that fits one set, and KEY@REVISION one revision of it. RESULTS METHOD/SOURCE/K is a
    cell: what was run, and its numbers. The name of a dataset shows what is known of it. Of a file
    of vectors (.npy, .safetensors, .parquet, .h5, .lance, .faiss), and of a set with --encoder, the
    rows themselves are described: broken and equal ones, hubs, signs of rounding, and rows that lie
    apart.
    """
    kind, place, inside = _chosen(path, key)
    if quick and not (inside and kind == "stores"):
        raise usage_error("--quick is for a set of a store: STORE KEY.")
    config = config_from(AgainConfig, again)
    if config.encoder is not None and inside and kind == "stores":
        kind = "vectors"
    elif config != AgainConfig() and (kind != "vectors" or config.encoder is None):
        raise usage_error("--encoder is for a file of vectors or a set: FILE, or STORE KEY.")
    more: dict[str, Any] = {"key": inside} if inside else {}
    more |= {"quick": quick} if kind == "stores" and inside else {}
    more |= {"array": array, "again": config} if kind == "vectors" else {}
    return resolve_name(_LOOKS[kind][1])(place, as_json=as_json, **more) or 0


@click.command(
    "export",
    epilog="\b\nExample:"
    "\n  headstock export build/demo/store stamps/image/tf_efficientnet_lite0 -o out.safetensors"
    "\n  headstock export build/demo/aligners/ridge-head --store build/demo/store \\"
    "\n      --names stamps/class_name/all-MiniLM-L6-v2 -o head.safetensors",
)
@click.argument("path")
@click.argument("key", required=False, type=KEY)
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path),
    help="Write to this file or folder.",
)  # fmt: skip
@click.option(
    "--format", "form", metavar="NAME",
    type=Choice(["npy", "npz", "safetensors", "parquet", "h5"]),
    help="Write in this format [default: that of the name of --out].",
)  # fmt: skip
@click.option(
    "--names", metavar="KEY", type=KEY,
    help="Add one row for each class of this set of names: a head made from names.",
)  # fmt: skip
@store_option("Read --names from this store.", required=False)
@json_option
def export_command(
    path: str, key: str | None, out: Path, form: str | None, names: str | None,
    store: StorePlace | None, as_json: bool,
) -> None:  # fmt: skip
    """Write a set or a saved alignment for other programs.

    Of a set every bit is kept. Items that failed have no row and are left out. npy and parquet have
    no bfloat16: they get the same values as float32. An existing output must have identical
    bytes. Of an alignment the arrays are written, never pickle. With --names the file also holds
    `class_rows`: one row per class in the shared space. For `ridge`, whose shared space is the
    image space, that is a classification head made from text alone; the file says how to use it.
    """
    kind, place, inside = _chosen(path, key)
    form = form or out.suffix.removeprefix(".")
    if form == out.suffix.removeprefix(".") == "npy":
        raise usage_error(
            f"npy is a folder of arrays, and {out} names a file: give -o "
            f"{out.with_suffix('')} --format npy, or a file .safetensors, .parquet or .h5."
        )
    if kind == "alignments":
        options: dict[str, Any] = {"store": store, "names": names}
        resolve_name("fitters.cli.apply:export_alignment")(
            place, out, form, as_json=as_json, **options
        )
    elif inside:
        if names is not None:
            raise usage_error("--names is for a saved alignment.")
        resolve_name("featstore.cli.share:export_rows")(place, inside, out, form, as_json=as_json)
    else:
        raise usage_error("An export is of a set (STORE KEY) or of a saved alignment.")


#: How many lines of a sort are printed.
_SHOWN = 8


def find_work(root: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the manifests, stores, alignments, results and reports in `root` and below.

    Four levels are looked at, but no hidden folder, no folder of tests and no environment. Small
    JSON files alone are read: no store is opened, and no row.

    Returns
    -------
    dict
        ``{"manifests": …, "stores": …, "alignments": …, "results": …, "reports": …}``: of each a
        list of dictionaries, the last changed first, with the ``path`` below `root` and the time
        ``changed`` (UTC); for a manifest also its ``name`` and its ``kinds`` of items, for a store
        its ``sets`` (their keys), for results their ``suites``. ``problem`` says what is wrong with
        one that cannot be read.
    """
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in _SIGNS}
    for path, names in work_below(root):
        for kind, signs in _SIGNS.items():
            own = (sign for sign in signs(names) if kind != "reports" or _is_report(path / sign))
            found[kind] += [_described(kind, path, sign) for sign in own]
    for entries in found.values():
        entries.sort(key=lambda entry: entry["changed"], reverse=True)
    return found


def _described(kind: str, folder: Path, sign: str) -> dict[str, Any]:
    """Return what there is to say of a thing whose `sign`, a file or a folder, lies in `folder`."""
    path = folder / sign if kind == "reports" else folder
    try:
        moment = (folder / sign).stat().st_mtime  # of a folder, when its last entry was made
    except OSError:  # it went away meanwhile, or a link leads nowhere
        moment = 0.0
    # Always with microseconds: it is sorted as text.
    changed = datetime.fromtimestamp(moment, UTC).isoformat(timespec="microseconds")
    facts: dict[str, Any] = {"path": str(path), "changed": changed}
    try:
        facts |= _FACTS[kind](path) if kind in _FACTS else {}
    except (FeatstoreError, OSError, AttributeError, TypeError) as err:
        facts["problem"] = str(err)
    return facts


def _store_sign(names: set[str]) -> list[str]:
    from featstore.store.log import NAME

    return [NAME] if names >= {NAME, "zarr.json"} else []


def _is_report(path: Path) -> bool:
    """Whether the head of a page says that it is one of a report."""
    with suppress(OSError), path.open("rb") as file:
        return b'content="Headstock report"' in file.read(2**11)
    return False


#: What is looked for -> of the names in a folder, those whose time is that of one.
_SIGNS: dict[str, Callable[[set[str]], list[str]]] = {
    "manifests": lambda names: (
        sorted(names & {"dataset.toml"}) if any(name.endswith(".parquet") for name in names) else []
    ),
    "stores": _store_sign,
    "alignments": lambda names: sorted(names & {"alignment.json"}),
    "results": lambda names: ["runs"] if "runs" in names and names & {"ranks", "sums"} else [],
    "reports": lambda names: sorted(name for name in names if name.endswith(".html")),
}


def _store_facts(path: Path) -> dict[str, Any]:
    from featstore.store.log import read_log

    return {"sets": sorted(read_log(path).sets)}


def _results_facts(path: Path) -> dict[str, Any]:
    from featstore.durable import read_json

    sessions = [read_json(file) for file in sorted((path / "sessions").glob("*.json"))[-100:]]
    return {"suites": list(dict.fromkeys(str(session.get("suite")) for session in sessions))}


def _manifest_facts(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        facts = tomllib.loads((path / "dataset.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        return {"kinds": [], "problem": f"dataset.toml cannot be read: {err}"}
    kinds = sorted({file.stem for file in path.glob("*.parquet")} - {"classes"})
    return {"name": str(facts.get("name")), "kinds": kinds}


_FACTS = {"manifests": _manifest_facts, "stores": _store_facts, "results": _results_facts}


def next_command(found: dict[str, list[dict[str, Any]]]) -> str:
    """Return the command that goes on from what `find_work` found, from what is furthest on."""
    manifests = found["manifests"]
    if not found["stores"]:
        return _first_extraction(manifests) if manifests else "headstock try"
    store = found["stores"][0]
    place = shlex.quote(store["path"])
    if found["results"]:
        report = f"headstock report {shlex.quote(found['results'][0]['path'])} --store {place}"
        return "headstock ls --available sources" if found["reports"] else report
    if found["alignments"]:
        return f"headstock show {shlex.quote(found['alignments'][0]['path'])}"
    keys = [key.split("/") for key in store.get("sets", [])]
    captioned = {dataset for dataset, kind, *_ in keys if kind == "caption"}
    both = [one[0] for one in keys if one[1] == "image" and one[0] in captioned]
    fit = f"headstock fit ridge --store {place} --captions {both[0]}" if both else ""
    return fit or f"headstock ls {place}"


#: Encoders that a first extraction names, by the kind of items.
_ENCODERS = {"image": "timm:resnet18", "class_name": "st:all-MiniLM-L6-v2"}


def _first_extraction(manifests: list[dict[str, Any]]) -> str:
    """Return the command that extracts images, or else class names, of a manifest."""
    for kind, encoder in _ENCODERS.items():
        for one in manifests:
            if kind in one["kinds"]:
                options = f"--kind {kind} --encoder {encoder} --store store"
                return f"headstock extract {shlex.quote(one['path'])} {options}"
    return f"headstock show {shlex.quote(manifests[0]['path'])}"


def _print_state(found: dict[str, list[dict[str, Any]]]) -> None:
    rows = []
    for kind, entries in found.items():
        rows += [[kind.upper(), "", ""]] if entries else []
        for entry in entries[:_SHOWN]:
            changed = f"{entry['changed'][:10]} {entry['changed'][11:16]}"
            sets = [count(len(entry["sets"]), "set")] if "sets" in entry else []
            held = ", ".join([*sets, *entry.get("suites", []), *entry.get("kinds", [])])
            rows.append([f"  {entry['path']}", changed, entry.get("problem") or held])
        if len(entries) > _SHOWN:
            rows.append([f"  and {len(entries) - _SHOWN:,} more (--json lists all)", "", ""])
    if rows:
        TextTable(["", "CHANGED (UTC)", "CONTENT"], rows).show()
    else:
        click.echo("There is no work in this folder or in four levels of folders below it.")
    click.echo(f"\nNext:  {next_command(found)}\nHelp:  headstock --help")
