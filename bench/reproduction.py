"""A box: the commands of a study, the numbers that they must give, and how far off is too far.

One TOML file says where the sets lie, what makes those that are missing, what is run, and which
numbers are expected with which tolerance. `headstock reproduce` runs it and writes a certificate:
every number beside the expected one, the revisions of the sets that were read, versions, and a
digest. docs/reproduce.md says how to write a box.
"""

from __future__ import annotations

import platform
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import polars as pl

from bench.cells import only_series, whole_heads
from bench.errors import BoxError, NoResultsError
from bench.results import read_results, versions
from bench.suites.published import published_table
from bench.tables import metric_columns, result_table
from featstore.errors import FeatstoreError, listed
from featstore.identity import canonical_json, sha256_hex

#: Version of the file, and of the certificate.
FORMAT = 1

#: Bytes of a box, at most.
MOST_BYTES = 2**22

#: The boxes that come with the package.
BUILT_IN = ("demo", "paper")

#: Columns that a row of expected numbers may have; all but the last two choose the cell.
COLUMNS = (
    "task", "eval", "direction", "method", "source", "n_pairs", "metric", "percent", "tolerance",
)  # fmt: skip

#: What a box may run. A box may come from anywhere: it runs no plugin, no shell and no command
#: that removes or sends anything, and writes below its own folder alone.
MAY_RUN = ("data build", "extract", "store pull", "fit", "eval run", "eval task", "eval sweep")
_MAY_NOT = ("--plugin", "--ray-address", "--encoder-module")
_WRITTEN = ("-o", "--out", "--store")
_WITHIN = ("OUT", "STORE")


@dataclass(frozen=True)
class Box:
    """A study that can be repeated.

    Attributes
    ----------
    name, title : str
    digest : str
        sha256 of the file.
    duration : str
        How long it takes, in words.
    store : str
        Where the sets lie: a folder, in which OUT is the folder of the box, or an address.
    sets : tuple of str
        Keys of the sets that are read, in any form that `open_store` takes.
    lacking : str
        What somebody does who lacks them.
    make, run : tuple of (title, command)
        What makes the sets, and what is scored. OUT and STORE stand for the two places.
    suite : str
        Of the results that are compared.
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
    duration: str
    store: str
    sets: tuple[str, ...]
    lacking: str
    make: tuple[tuple[str, str], ...]
    run: tuple[tuple[str, str], ...]
    suite: str
    expected: tuple[dict[str, Any], ...]
    tolerance: float
    origin: str

    def place(self, out: str) -> str:
        """Return the store's folder or address for a folder of the box."""
        return f"{out}{self.store[3:]}" if self.store.split("/")[0] == "OUT" else self.store


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
        If it is not TOML, lacks something, holds what is unknown, or runs what it may not.
    """
    try:
        found = tomllib.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as err:
        raise BoxError(f"it is not TOML: {err}.") from err
    if found.get("format") != FORMAT:
        raise BoxError(f"its format is {found.get('format')!r}; this version reads {FORMAT}.")
    store = _table(found, "store")
    expected = _table(found, "expected")
    _known(found, "format", "name", "title", "duration", "store", "run", "expected", where="")
    _known(store, "address", "sets", "lacking", "make", where="store.")
    _known(expected, "suite", "tolerance", "origin", "columns", "rows", where="expected.")
    columns = expected.get("columns", [])
    if unknown := set(columns) - {*COLUMNS}:
        raise BoxError(
            f"expected.columns has {listed(sorted(unknown), shown=5)}; known are "
            f"{', '.join(COLUMNS)}."
        )
    rows = tuple(
        _expected(number, columns, row) for number, row in enumerate(expected.get("rows", []), 1)
    )
    return Box(
        name=_text(found, "name"),
        title=_text(found, "title"),
        digest=sha256_hex(data),
        duration=found.get("duration", "of unknown duration"),
        store=_text(store, "address", where="store."),
        sets=tuple(store.get("sets", ())),
        lacking=store.get("lacking", ""),
        make=_commands(store, "make", where="store."),
        run=_commands(found, "run"),
        suite=_text(expected, "suite", where="expected."),
        expected=rows,
        tolerance=float(expected.get("tolerance", 0.0)),
        origin=expected.get("origin", ""),
    )


def _table(found: Mapping[str, Any], name: str) -> dict[str, Any]:
    table = found.get(name)
    if not isinstance(table, dict):
        raise BoxError(f"it has no table [{name}].")
    return table


def _known(table: Mapping[str, Any], *names: str, where: str) -> None:
    if unknown := sorted({*table} - {*names}):
        raise BoxError(f"{where}{unknown[0]} is unknown; known are {', '.join(names)}.")


def _text(table: Mapping[str, Any], name: str, *, where: str = "") -> str:
    value = table.get(name)
    if not isinstance(value, str) or not value:
        raise BoxError(f"{where}{name} must be a text, got {value!r}.")
    return value


def _expected(number: int, columns: Sequence[str], row: Sequence[Any]) -> dict[str, Any]:
    if len(row) != len(columns):
        raise BoxError(
            f"row {number} of expected.rows has {len(row)} values for {len(columns)} columns."
        )
    found = dict(zip(columns, row, strict=True))
    if not isinstance(found.get("percent"), int | float) or "metric" not in found:
        raise BoxError(f"row {number} of expected.rows needs a metric and a percent: {row!r}.")
    return found


def _commands(
    table: Mapping[str, Any], name: str, *, where: str = ""
) -> tuple[tuple[str, str], ...]:
    steps = []
    for number, step in enumerate(table.get(name, []), start=1):
        title = _text(step, "title", where=f"{where}{name} {number}: ")
        command = _text(step, "command", where=f"{where}{name} {number}: ")
        _check_command(command, f"{where}{name} {number}")
        steps.append((title, command))
    return tuple(steps)


def _check_command(command: str, where: str) -> None:
    """Raise unless a command is one that a box may run, and writes where it may."""
    words = shlex.split(command)
    if words[:1] != ["headstock"] or not any(
        words[1:].__getitem__(slice(len(known.split()))) == known.split() for known in MAY_RUN
    ):
        raise BoxError(
            f"{where} runs {command!r}. A box may run `headstock` with {', '.join(MAY_RUN)}."
        )
    for word, value in zip(words, [*words[1:], ""], strict=True):
        flag, _, given = word.partition("=")
        if flag in _MAY_NOT:
            raise BoxError(f"{where} uses {flag}, which a box may not: {command!r}.")
        if flag in _WRITTEN or (word[:2] == "-o" and not word.startswith("--")):
            target = given or (value if flag in _WRITTEN else word[2:])
            parts = Path(target).parts
            if not parts or parts[0] not in _WITHIN or ".." in parts:
                raise BoxError(
                    f"{where} gives {flag} {target!r}. A box reads and writes below OUT, its own "
                    f"folder, and STORE: {command!r}."
                )


def missing_sets(box: Box, place: str) -> list[str]:
    """Return the sets of a box that a store lacks; all of them where there is no store."""
    from featstore.store.store import open_store

    try:
        store = open_store(place)
    except FeatstoreError:
        return list(box.sets)
    missing = []
    for key in box.sets:
        try:
            store.info(key)
        except FeatstoreError:
            missing.append(key)
    return missing


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


def compare_box(box: Box, results: Path) -> Outcome:
    """Return the expected numbers beside those of a results folder.

    Raises
    ------
    NoResultsError
        If the folder holds no result of the box's suite.
    BoxError
        If a row of the box means several cells.
    """
    try:
        series = only_series(results, read_results(results), suite=box.suite)
    except NoResultsError as err:
        err.add_note(f"Box {box.name} compares results of suite {box.suite}.")
        raise
    if box.expected:
        table = whole_heads(result_table(series))
        numbers = tuple(_number(box, row, table) for row in box.expected)
    else:
        numbers = tuple(_published(box, published_table(series)))
    return Outcome(box, numbers, _facts(series))


def _number(box: Box, row: Mapping[str, Any], table: pl.DataFrame) -> Number:
    where = {k: v for k, v in row.items() if k not in ("metric", "percent", "tolerance")}
    metric = str(row["metric"])
    cell = ", ".join([*map(str, where.values()), metric])
    found = table.filter(pl.lit(value=True), **where) if metric in table.columns else table.clear()
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


def _facts(series: pl.DataFrame) -> dict[str, Any]:
    revisions: dict[str, str] = {}
    for role in ("image", "name", "caption", "head", "head_name"):
        pairs = series.select(f"{role}_set", f"{role}_revision").unique()
        revisions |= {key: revision for key, revision in pairs.iter_rows() if key}
    values = series.select("run_id", "direction", "metric", "value").sort(pl.all())
    packages = ("headstock", "numpy", "scipy", "scikit-learn", "polars", "zarr", "torch")
    return {
        "revisions": dict(sorted(revisions.items())),
        "results": sha256_hex(canonical_json([list(row) for row in values.iter_rows()])),
        "code": sorted(set(series["code"])),
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
    lines = [f"  [{', '.join(_toml(value) for value in row)}]," for row in rows]
    return "\n".join([f"columns = [{columns}]", "rows = [", *lines, "]"]) + "\n"


def _toml(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else '"' + str(value).replace('"', '\\"') + '"'
