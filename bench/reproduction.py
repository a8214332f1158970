"""A box: a suite, the sets that it reads, the numbers that are expected, and their tolerances.

One TOML file is data alone. It may come from anywhere, so nothing in it names a command, a file to
write, a model to load or how many processes run: `headstock reproduce` knows how a suite is run. It
writes a certificate: every number beside the expected one, the revisions of the sets that were
read, versions, and a digest. docs/reproduce.md says how to write a box.
"""

from __future__ import annotations

import json
import platform
import re
import reprlib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import polars as pl

from bench.cells import only_series, whole_heads
from bench.errors import BoxError, NoResultsError
from bench.results import read_results, versions
from bench.runs import Run
from bench.suites.published import published_table
from bench.suites.registry import SUITES, suite_runs
from bench.tables import metric_columns, result_table
from featstore.address import parse_address
from featstore.errors import AddressError, FeatstoreError, listed
from featstore.identity import canonical_json, sha256_hex
from featstore.plugins import registry_of
from featstore.store.store import FeatureStore

#: Version of the file, and of the certificate.
FORMAT = 1

#: Bytes of a box, at most.
MOST_BYTES = 2**22

#: The boxes that come with the package.
BUILT_IN = ("demo", "paper", "birds")

#: Studies that read no store and run no suite -> modules. `LICENCE` is printed, `read` returns
#: what is studied, with ``names`` to encode, and `study` its shares after `fits` fits.
STUDIES = {"birds": "bench.birds"}

#: Columns that a row of expected numbers may have; all but the last two choose the cell.
COLUMNS = (
    "task", "eval", "direction", "method", "source", "n_pairs", "metric", "percent", "tolerance",
)  # fmt: skip

#: What a box may ask of its suite, as `headstock eval run` does -> the type of its value.
_ONE = {"limit": int, "penalty": float, "mix": float, "dataset": str, "label_set": str}
#: The same of what takes a list -> the type of its values.
_LISTS = {
    "methods": str, "sources": str, "variants": str, "templates": str, "head_variants": str,
    "head_templates": str, "shots": int, "learners": str,
}  # fmt: skip
#: Those of them that only some suites take, and those that set a field of every run.
_SPECIAL = ("dataset", "label_set", "shots", "learners")
_FIELDS = ("penalty", "mix", "variants", "templates", "head_variants", "head_templates")

#: Names that are Headstock's own, and not a plugin's -> the kind of their registry.
_KINDS = {"methods": "aligner", "learners": "learner"}

#: No number of a box is larger, and no list of a suite's option is longer.
_LARGEST, _MOST_VALUES = 1e9, 100

#: A name that is safe as a file's.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
_SET = re.compile(r"([^@\s]{1,400})(?:@([0-9a-f]{64}))?")


@dataclass(frozen=True)
class Box:
    """A study that can be repeated.

    Attributes
    ----------
    name, title : str
    digest : str
        sha256 of the file.
    store : str
        The address where the sets lie; "" where whoever repeats the study names it.
    sets : mapping
        Key of a set that is read, in any form that `open_store` takes -> its revision, which only
        a box with an address has to state; "" for any.
    suite : str
        One of Headstock's.
    options : mapping
        What is asked of it: options of `headstock eval run`.
    expected : tuple of dict
        Rows under `COLUMNS`; empty where the published numbers of the suite are what is expected.
    tolerance : float
        Percentage points.
    origin : str
        Where the expected numbers come from.
    """

    name: str
    title: str
    digest: str
    store: str
    sets: Mapping[str, str]
    suite: str
    options: Mapping[str, Any]
    expected: tuple[dict[str, Any], ...]
    tolerance: float
    origin: str

    def runs(self, store: FeatureStore) -> list[Run]:
        """Return the runs of the suite on a store.

        Raises
        ------
        FeatstoreError
            Whatever the suite raises of a store that lacks something.
        """
        lists = {name: (value,) for name, value in self.options.items() if name in _FIELDS}
        own = {name: value for name, value in self.options.items() if name not in _FIELDS}
        return suite_runs(self.suite, store, lists=lists, **own)


def read_box(place: str) -> Box:
    """Return the box of a built-in name, a TOML file, or the address of one.

    Raises
    ------
    BoxError
        If there is none, or it is not made as it should be. The message names what is wrong.
    featstore.errors.RemoteStoreError
        If an address cannot be read.
    """
    if place in BUILT_IN:
        data = resources.files("bench").joinpath(f"boxes/{place}.toml").read_bytes()
    else:
        data = _read(place)
    try:
        return parse_box(data)
    except BoxError as err:
        raise BoxError(f"{place} is no box: {err}") from err


def _read(place: str) -> bytes:
    if "://" in place:
        from featstore.sources.roots import locate

        root, names = locate(place, ".toml")
        return root.read(names[0], limit=MOST_BYTES)
    path = Path(place)
    if not path.is_file():
        raise BoxError(
            f"There is no box {place!r}. Name one of {', '.join(BUILT_IN)}, a TOML file, or the "
            "address of one."
        )
    if path.stat().st_size > MOST_BYTES:
        raise BoxError(f"{place} is no box: it has more than {MOST_BYTES / 2**20:.0f} MiB.")
    return path.read_bytes()


def parse_box(data: bytes) -> Box:
    """Return the box of a TOML document.

    Raises
    ------
    BoxError
        If it is not TOML, lacks something, or holds what is unknown or out of its range.
    """
    try:
        found = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as err:
        raise BoxError(f"it is not TOML: {err}.") from err
    if found.get("format") != FORMAT:
        raise BoxError(f"its format is {_shown(found.get('format'))}; this version reads {FORMAT}.")
    parts = "store", "suite", "expected"
    store, suite, expected = (value_of(found, part, dict) for part in parts)
    known_keys(found, "format", "name", "title", *parts, where="")
    known_keys(store, "address", "sets", where="store.")
    known_keys(expected, "tolerance", "origin", "columns", "rows", where="expected.")
    columns = texts_of(expected, "expected.columns")
    if unknown := set(columns) - {*COLUMNS}:
        raise BoxError(
            f"expected.columns has {listed(sorted(unknown), shown=5)}; known are "
            f"{', '.join(COLUMNS)}."
        )
    rows = value_of(expected, "expected.rows", list, [])
    name, address, options = value_of(found, "name", str), _address(store), _options(suite)
    if not NAME.fullmatch(name):
        raise BoxError(f"name must be of letters, digits and '._+-', got {_shown(name)}.")
    return Box(
        name=name,
        title=value_of(found, "title", str),
        digest=sha256_hex(data),
        store=address,
        sets=_sets(store, address),
        suite=suite["name"],
        options=options,
        expected=tuple(_expected(number, columns, row) for number, row in enumerate(rows, 1)),
        tolerance=_number(expected.get("tolerance", 0.0), "expected.tolerance", least=0.0),
        origin=value_of(expected, "expected.origin", str, ""),
    )


#: What a message shows of a value, which may be long or deep.
_shown = reprlib.repr


_CALLED: dict[type, str] = {
    dict: "a table", str: "a text", list: "a list", int: "a whole number",
}  # fmt: skip


def value_of(table: Mapping[str, Any], where: str, kind: type, default: Any = None) -> Any:
    """Return the value of a table under the last part of a dotted name, which is of a kind."""
    value = table.get(where.rpartition(".")[2], default)
    if not isinstance(value, kind) or (value == "" and default is None):
        raise BoxError(f"{where} must be {_CALLED[kind]}, got {_shown(value)}.")
    return value


def known_keys(table: Mapping[str, Any], *names: str, where: str) -> None:
    """Raise if a table has another key than these."""
    if unknown := sorted({*table} - {*names}):
        raise BoxError(f"{where}{unknown[0][:60]} is unknown; known are {', '.join(names)}.")


def texts_of(table: Mapping[str, Any], where: str) -> list[str]:
    """Return the list of texts of a table under the last part of a dotted name."""
    values: list[str] = value_of(table, where, list, [])
    if not all(isinstance(value, str) for value in values):
        raise BoxError(f"{where} must be a list of texts, got {_shown(values)}.")
    return values


def _is(kind: type, value: Any) -> bool:
    """Whether a value is a name, or a number that is not too large, of a type."""
    if kind is str:
        return isinstance(value, str) and NAME.fullmatch(value) is not None
    # Not isinstance: true is an int. No comparison of a NaN holds.
    return type(value) in (int, kind) and -_LARGEST <= value <= _LARGEST


def _number(value: Any, where: str, *, least: float = -_LARGEST) -> float:
    if not _is(float, value) or value < least:
        raise BoxError(
            f"{where} must be a number from {least:g} to {_LARGEST:g}, got {_shown(value)}."
        )
    return float(value)


def _address(store: Mapping[str, Any]) -> str:
    """Return the address of a box's store; "" where it has none."""
    text = value_of(store, "store.address", str, "")
    try:
        address = parse_address(text)
    except AddressError as err:
        raise BoxError(f"store.address cannot be used: {err}") from err
    if text and (isinstance(address, Path) or address.scheme not in ("https", "hf")):
        raise BoxError(
            f"store.address must begin with https:// or hf://, got {_shown(text)}. Another place "
            "is named by whoever repeats the study: --store."
        )
    return str(address) if text else ""


def _sets(store: Mapping[str, Any], address: str) -> dict[str, str]:
    """Return key -> revision of the sets that a box reads; "" is any revision."""
    texts = texts_of(store, "store.sets")
    found = {text: _SET.fullmatch(text) for text in texts}
    if wrong := [text for text, match in found.items() if match is None]:
        raise BoxError(f"store.sets has {_shown(wrong[0])}, which is no KEY or KEY@REVISION.")
    sets = {match[1]: match[2] or "" for match in found.values() if match is not None}
    if address and not (sets and all(sets.values())):
        raise BoxError(
            f"store.sets must name every set at {address} as KEY@REVISION, with the 64 digits of "
            "its revision: what lies at an address may change."
        )
    return sets


def _options(suite: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a box asks of its suite, beside its name."""
    name = value_of(suite, "suite.name", str)
    if name in STUDIES:
        known_keys(suite, "name", where=f"study {name}: suite.")
        return {}
    if name not in SUITES.built_in:
        raise BoxError(f"suite.name must be one of {', '.join(SUITES.built_in)}, got {name!r}.")
    types = _ONE | _LISTS
    takes = [one for one in types if one not in _SPECIAL or one in SUITES.built_in[name].takes]
    known_keys(suite, "name", *takes, where=f"suite {name}: suite.")
    return {option: _asked(option, types[option], suite[option]) for option in takes
            if option in suite}  # fmt: skip


def _asked(option: str, kind: type, value: Any) -> Any:
    """Return the value of an option of a suite."""
    several = option in _LISTS
    values = value if several else [value]
    if (
        not isinstance(values, list)
        or not 0 < len(values) <= _MOST_VALUES
        or not all(_is(kind, one) for one in values)
    ):
        what = {str: "name", int: "whole number", float: "number"}[kind]
        many = f"a list of 1 to {_MOST_VALUES} values, each " if several else ""
        raise BoxError(f"suite.{option} must be {many}a {what}, got {_shown(value)}.")
    ours = registry_of(_KINDS[option]).built_in if option in _KINDS else values
    if foreign := [one for one in values if one not in ours]:
        raise BoxError(
            f"suite.{option} has {foreign[0]!r}; a box names those of Headstock: {', '.join(ours)}."
        )
    return tuple(values) if several else value


def _expected(number: int, columns: Sequence[str], row: Any) -> dict[str, Any]:
    where = f"row {number} of expected.rows"
    if not isinstance(row, list) or len(row) != len(columns):
        raise BoxError(f"{where} must have {len(columns)} values, one a column, got {_shown(row)}.")
    found = dict(zip(columns, row, strict=True))
    if "percent" not in found or "metric" not in found:
        raise BoxError(f"{where} needs a metric and a percent: {_shown(row)}.")
    for name, value in found.items():
        if name in ("percent", "tolerance"):
            least = 0.0 if name == "tolerance" else -_LARGEST
            found[name] = _number(value, f"the {name} of {where}", least=least)
        elif not isinstance(value, str):
            raise BoxError(f"{where} must have a text as {name}, got {_shown(value)}.")
    return found


def missing_sets(box: Box, store: FeatureStore) -> list[str]:
    """Return the sets of a box that a store lacks."""
    return [key for key in box.sets if not _holds(store, key)]


def _holds(store: FeatureStore, key: str) -> bool:
    try:
        store.info(key)
    except FeatstoreError:
        return False
    return True


def sets_of(runs: Iterable[Run]) -> dict[str, str]:
    """Return key -> revision of all sets that runs read, sorted."""
    found: dict[str, str] = {}
    for data in {run.data for run in runs}:
        found |= {
            getattr(data, f"{role}_set"): getattr(data, f"{role}_revision")
            for role in ("image", "name", "caption", "head", "head_name", "view")
        }
        of_data = (*data.more_heads, *data.more_images, *data.pairs_from)
        found |= zip(data.layer_sets, data.layer_revisions, strict=True)
        found |= dict(one.split("@") for one in of_data)
    return {key: revision for key, revision in sorted(found.items()) if key}


def check_revisions(box: Box, runs: Iterable[Run]) -> None:
    """Raise unless what runs read at a box's address are the revisions that the box names.

    Raises
    ------
    BoxError
        With the sets that it does not name, or names in another revision.
    """
    others = [f"{k}@{own}" for k, own in sets_of(runs).items() if box.sets.get(k) != own]
    if others:
        raise BoxError(
            f"Suite {box.suite} reads {listed(others, shown=3)} at {box.store}, and box {box.name} "
            "does not name this. Ask its author for the revisions that its numbers are of."
        )


@dataclass(frozen=True)
class Number:
    """One expected number and ours.

    Attributes
    ----------
    cell : str
        What it is of, in words.
    expected, tolerance : float
        Percent, and percentage points.
    ours : float or None
        Percent; None where nothing of ours is there.
    """

    cell: str
    expected: float
    tolerance: float
    ours: float | None

    @property
    def holds(self) -> bool:
        """Whether ours is there and within the tolerance."""
        # Decimal numbers of a file are not exact in binary.
        return self.ours is not None and abs(self.ours - self.expected) <= self.tolerance + 1e-9


@dataclass(frozen=True)
class Outcome:
    """What a box gave.

    Attributes
    ----------
    box : Box
    numbers : tuple of Number
    facts : dict
        Revisions, code, versions, and the digest of all result rows.
    """

    box: Box
    numbers: tuple[Number, ...]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether every number is within its tolerance."""
        return bool(self.numbers) and all(number.holds for number in self.numbers)

    @property
    def sentence(self) -> str:
        """The verdict."""
        good = sum(number.holds for number in self.numbers)
        absent = sum(number.ours is None for number in self.numbers)
        said = f"{good:,} of {len(self.numbers):,} numbers are within their tolerance"
        if self.holds:
            return f"Reproduced: all {len(self.numbers):,} numbers are within their tolerance."
        more = f"; {absent:,} have no result of ours" if absent else ""
        return f"Not reproduced: {said}{more}."

    def certificate(self) -> dict[str, Any]:
        """Return the outcome as plain JSON, with the sha256 of its canonical form."""
        document = {
            "format": FORMAT,
            "box": {"name": self.box.name, "title": self.box.title, "sha256": self.box.digest},
            "verdict": "reproduced" if self.holds else "not reproduced",
            "sentence": self.sentence,
            "numbers": [
                {
                    "cell": number.cell,
                    "expected": number.expected,
                    "ours": number.ours,
                    "tolerance": number.tolerance,
                    "holds": number.holds,
                }
                for number in self.numbers
            ],
            **self.facts,
        }
        return {**document, "digest": sha256_hex(canonical_json(document))}


def compare_box(box: Box, results: Path, runs: Sequence[Run]) -> Outcome:
    """Return the expected numbers beside those that runs gave, of a results folder.

    Raises
    ------
    NoResultsError
        If the folder holds none of the runs.
    BoxError
        If a row of the box means several cells.
    """
    rows = read_results(results).filter(pl.col("run_id").is_in({run.run_id for run in runs}))
    if rows.is_empty():
        raise NoResultsError(f"{results} holds no result of box {box.name}.")
    if box.expected:
        table = whole_heads(result_table(rows))
        numbers = tuple(_compared(box, row, table) for row in box.expected)
    else:
        numbers = tuple(_published(box, published_table(rows)))
    return Outcome(box, numbers, _facts(rows, runs))


def compare_study(box: Box, table: pl.DataFrame) -> Outcome:
    """Return the expected numbers of a box beside those of a study, a row a metric."""
    wide = table.pivot("metric", index=["eval", "method", "source"], values="value")
    spreads = (pl.lit(0.0).alias(f"{name}_sd") for name in set(table["metric"]))
    wide = wide.with_columns(spreads)
    numbers = tuple(_compared(box, row, wide) for row in box.expected)
    made = _made_with([list(row) for row in table.iter_rows()])
    return Outcome(box, numbers, made | {"shares": table.to_dicts()})


def _compared(box: Box, row: Mapping[str, Any], table: pl.DataFrame) -> Number:
    where = {k: v for k, v in row.items() if k not in ("metric", "percent", "tolerance")}
    metric = str(row["metric"])
    cell = ", ".join([*map(str, where.values()), metric])
    known = metric in metric_columns(table) and where.keys() <= set(table.columns)
    found = table.filter(pl.lit(value=True), **where) if known else table.clear()
    values = found[metric].drop_nulls() if metric in found.columns else pl.Series([])
    if len(values) > 1:
        raise BoxError(
            f"Box {box.name}: {len(values)} cells are {cell}. Add columns to expected.columns that "
            "tell them apart."
        )
    tolerance = float(row.get("tolerance", box.tolerance))
    ours = 100.0 * float(values[0]) if len(values) else None
    return Number(cell, float(row["percent"]), tolerance, ours)


def _published(box: Box, table: pl.DataFrame) -> list[Number]:
    names = ("experiment", "dataset", "direction", "metric", "head", "method", "source", "n_pairs")
    return [
        Number(
            ", ".join(str(row[name]) for name in names if row.get(name)),
            100.0 * row["theirs"],
            box.tolerance,
            None if row["ours"] is None else 100.0 * row["ours"],
        )
        for row in table.iter_rows(named=True)
    ]


def _facts(rows: pl.DataFrame, runs: Sequence[Run]) -> dict[str, Any]:
    values = rows.select("run_id", "direction", "metric", "value").sort(pl.all())
    facts = {"revisions": sets_of(runs), "code": sorted(set(rows["code"]))}
    return facts | _made_with([list(row) for row in values.iter_rows()])


def _made_with(values: list[list[Any]]) -> dict[str, Any]:
    packages = ("headstock", "numpy", "scipy", "scikit-learn", "polars", "zarr", "torch")
    return {
        "results": sha256_hex(canonical_json(values)),
        "versions": {"python": platform.python_version(), **versions(packages)},
        "platform": platform.platform(),
    }


def expected_table(results: Path, *, suite: str, metrics: Sequence[str]) -> str:
    """Return the numbers of a results folder as the TOML of a box: `columns` and `rows`.

    Raises
    ------
    NoResultsError
        If the folder holds no result of the suite.
    """
    table = whole_heads(result_table(only_series(results, read_results(results), suite=suite)))
    index = [name for name in COLUMNS if name in table.columns]
    wanted = [name for name in metric_columns(table) if name in metrics]
    rows = [
        [*(row[name] for name in index), metric, round(100.0 * row[metric], 2)]
        for row in table.filter(pl.col("method") != "chance").iter_rows(named=True)
        for metric in wanted
        if row[metric] is not None
    ]
    columns = ", ".join(f'"{name}"' for name in (*index, "metric", "percent"))
    # A text of JSON is one of TOML.
    texts = [[f"{v:g}" if isinstance(v, float) else json.dumps(v) for v in row] for row in rows]
    lines = [f"  [{', '.join(row)}]," for row in texts]
    return "\n".join([f"columns = [{columns}]", "rows = [", *lines, "]"]) + "\n"
