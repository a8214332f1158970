"""A box: a suite, its sets, the expected numbers and their tolerances; and the paper's numbers.

One TOML file is data alone. It may come from anywhere, so nothing in it names a command, a file to
write, a model to load or how many processes run: `headstock reproduce` knows how a suite is run. It
writes a certificate: every number beside the expected one, the revisions of the sets that were
read, versions, and a digest. docs/reproduce.md says how to write a box.
"""

from __future__ import annotations

import io
import json
import math
import platform
import reprlib
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any

import polars as pl
from msgspec import Meta, MsgspecError, convert, defstruct
from msgspec.structs import asdict

from bench.cells import method_title, only_series, whole_heads
from bench.errors import BoxError, NoResultsError
from bench.results import read_results, versions
from bench.runs import Run
from bench.suites import SUITES, suite_runs
from bench.tables import (
    MINUS,
    Column,
    Row,
    Table,
    metric_columns,
    number_text,
    result_table,
    signed_text,
    value_text,
)
from featstore.address import parse_address
from featstore.durable import read_regular
from featstore.errors import AddressError, FeatstoreError, UnknownName, did_you_mean, listed
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

#: What only some suites take, and what sets a field of every run.
_SPECIAL = ("dataset", "label_set", "shots", "learners")
_FIELDS = ("penalty", "mix", "variants", "templates", "head_variants", "head_templates")

#: Names that are Headstock's own, and not a plugin's -> the kind of their registry.
_KINDS = {"methods": "aligner", "learners": "learner"}

#: A name that is safe as a file's; a text that is not empty; a number that is not too large.
Name = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._+-]{0,127}\Z")]
Text = Annotated[str, Meta(min_length=1)]
_Whole = Annotated[int, Meta(ge=-(10**9), le=10**9)]
_Number = Annotated[float, Meta(ge=-1e9, le=1e9)]
_Names = Annotated[tuple[Name, ...], Meta(min_length=1, max_length=100)]
_Set = Annotated[str, Meta(pattern=r"\A[^@\s]{1,400}(@[0-9a-f]{64})?\Z")]


def record(name: str, *fields: tuple[Any, ...]) -> Any:
    """Return the type of a table of a TOML file, which has no other keys.

    Parameters
    ----------
    name : str
    *fields : tuple of (str, type) or (str, type, default)
    """
    return defstruct(name, fields, frozen=True, forbid_unknown_fields=True)


_STORE = record("Store", ("address", str, ""), ("sets", tuple[_Set, ...], ()))

#: What a box may ask of its suite, as `headstock eval run` does.
_SUITE = record(
    "Suite",
    ("name", Name),
    ("limit", _Whole | None, None),
    *((name, _Number | None, None) for name in ("penalty", "mix")),
    *((name, Name | None, None) for name in ("dataset", "label_set")),
    *((name, _Names | None, None) for name in (
        "methods", "sources", "variants", "templates", "head_variants", "head_templates",
        "learners",
    )),
    ("shots", Annotated[tuple[_Whole, ...], Meta(min_length=1, max_length=100)] | None, None),
)  # fmt: skip
_EXPECTED = record(
    "Expected",
    ("tolerance", Annotated[float, Meta(ge=0, le=1e9)], 0.0),
    ("origin", str, ""),
    ("columns", tuple[str, ...], ()),
    ("rows", tuple[tuple[str | _Number, ...], ...], ()),
)
_DOCUMENT = record(
    "Box", ("format", int), ("name", Name), ("title", Text), ("store", _STORE), ("suite", _SUITE),
    ("expected", _EXPECTED),
)  # fmt: skip


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
        from featstore.sources import locate

        root, names = locate(place, ".toml")
        return root.read(names[0], limit=MOST_BYTES)
    try:
        return read_regular(Path(place), limit=MOST_BYTES)
    except FileNotFoundError as err:
        raise BoxError(UnknownName(
            f"There is no box {place!r}. Name one of {', '.join(BUILT_IN)}, a TOML file, or the "
            f"address of one.{did_you_mean(place, BUILT_IN)}"
        )) from err  # fmt: skip
    except (OSError, FeatstoreError) as err:
        raise BoxError(f"The box {place!r} cannot be read: {err}.") from err


def parse_box(data: bytes) -> Box:
    """Return the box of a TOML document.

    Raises
    ------
    BoxError
        If it is not TOML, lacks something, or holds what is unknown or out of its range.
    """
    found = parse(data, _DOCUMENT)
    columns = found.expected.columns
    if found.format != FORMAT:
        raise BoxError(f"its format is {found.format}; this version reads {FORMAT}.")
    if unknown := set(columns) - {*COLUMNS}:
        raise BoxError(
            f"expected.columns has {listed(sorted(unknown), shown=5)}; known are "
            f"{', '.join(COLUMNS)}."
        )
    address = _address(found.store.address)
    return Box(
        name=found.name,
        title=found.title,
        digest=sha256_hex(data),
        store=address,
        sets=_sets(found.store.sets, address),
        suite=found.suite.name,
        options=_options(found.suite),
        expected=tuple(
            _expected(number, columns, row) for number, row in enumerate(found.expected.rows, 1)
        ),
        tolerance=found.expected.tolerance,
        origin=found.expected.origin,
    )


def parse(data: bytes, kind: Any) -> Any:
    """Return a TOML document as a kind of `record`.

    Raises
    ------
    BoxError
        If it is not TOML, lacks something, or holds what is unknown or out of its range.
    """
    try:
        return convert(tomllib.loads(data.decode("utf-8"), parse_float=_finite), kind)
    except (ValueError, RecursionError, OverflowError, MsgspecError) as err:
        raise BoxError(ascii(" ".join(str(err).split())[:300])) from err


def _finite(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(f"{text} is no number that another is compared with")
    return float(text)


def _address(text: str) -> str:
    """Return the address of a box's store; "" where it has none."""
    try:
        address = parse_address(text)
    except AddressError as err:
        raise BoxError(f"store.address cannot be used: {err}") from err
    if text and (isinstance(address, Path) or address.scheme not in ("https", "hf")):
        raise BoxError(
            f"store.address must begin with https:// or hf://, got {text[:60]!r}. Another "
            "place is named by whoever repeats the study: --store."
        )
    return str(address) if text else ""


def _sets(texts: Sequence[str], address: str) -> dict[str, str]:
    """Return key -> revision of the sets that a box reads; "" is any revision."""
    sets = {key: revision for key, _, revision in (text.partition("@") for text in texts)}
    if address and not (sets and all(sets.values())):
        raise BoxError(
            f"store.sets must name every set at {address} as KEY@REVISION, with the 64 digits of "
            "its revision: what lies at an address may change."
        )
    return sets


def _options(suite: Any) -> dict[str, Any]:
    """Return what a box asks of its suite, beside its name."""
    name, given = suite.name, {k: v for k, v in asdict(suite).items() if v is not None}
    del given["name"]
    if name not in (*SUITES.built_in, *STUDIES):
        raise BoxError(f"suite.name must be one of {', '.join(SUITES.built_in)}, got {name!r}.")
    takes = () if name in STUDIES else SUITES.built_in[name].takes
    refused = [one for one in given if name in STUDIES or (one in _SPECIAL and one not in takes)]
    if refused:
        raise BoxError(f"suite.{refused[0]} is unknown to {name}.")
    for option, kind in _KINDS.items():
        ours = registry_of(kind).built_in
        if foreign := [one for one in given.get(option, ()) if one not in ours]:
            raise BoxError(
                f"suite.{option} has {foreign[0]!r}; a box names those of Headstock: "
                f"{', '.join(ours)}."
            )
    return given


def _expected(number: int, columns: Sequence[str], row: Sequence[Any]) -> dict[str, Any]:
    where = f"row {number} of expected.rows"
    if len(row) != len(columns):
        raise BoxError(f"{where} must have {len(columns)} values, one a column, got {len(row)}.")
    found = dict(zip(columns, row, strict=True))
    if not {"percent", "metric"} <= found.keys() or found.get("tolerance", 0) < 0:
        raise BoxError(f"{where} needs a metric and a percent, and a tolerance of 0 or more.")
    for name, value in found.items():
        if isinstance(value, str) == (name in ("percent", "tolerance")):
            raise BoxError(f"{where} has {reprlib.repr(value)} as {name}.")
    return found


def missing_sets(box: Box, store: FeatureStore) -> list[str]:
    """Return the sets of a box that a store lacks."""
    return [key for key in box.sets if key not in store]


def sets_of(runs: Iterable[Run]) -> dict[str, str]:
    """Return key -> revision of all sets that runs read, sorted."""
    found: dict[str, str] = {}
    for data in {run.data for run in runs}:
        found |= {
            getattr(data, f"{role}_set"): getattr(data, f"{role}_revision")
            for role in ("image", "name", "caption", "head", "head_name", "view")
        }
        found |= zip(data.layer_sets, data.layer_revisions, strict=True)
        found |= dict(one.split("@") for one in data.pairs_from)
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


TABLE: dict[str, Any] = {
    **dict.fromkeys(
        ("experiment", "dataset", "image_encoder", "text_encoder", "head", "direction", "metric",
         "kind", "n_pairs", "method", "as_run"),
        pl.String,
    ),
    "ours": pl.Float64, "ours_sd": pl.Float64, "n_seeds": pl.Int64, "gallery": pl.Float64,
    "theirs": pl.Float64, "how": pl.String, "difference": pl.Float64, "where": pl.String,
}  # fmt: skip


def published_numbers() -> pl.DataFrame:
    """Return the paper's numbers as shares, ``theirs``; an empty text means any.

    The other columns say which cell a number is of, and ``kind``: ``value``; ``gain-over-real``, of
    real pairs with weights over these pairs alone; ``gain-over-head``, over the weights alone.
    ``how``: ``exact``, as printed; ``figure``, read off a figure, to about 0.2 points, or to 0.05
    where the page draws it by coordinates (mutual k-NN).
    """
    data = resources.files("bench.suites").joinpath("published.csv").read_bytes()
    numbers = pl.read_csv(io.BytesIO(data), infer_schema=False).fill_null("")
    return numbers.with_columns(pl.col("theirs").cast(pl.Float64))


def published_table(results: pl.DataFrame) -> pl.DataFrame:
    """Return every published number with ours, one row a number, method and encoders.

    Parameters
    ----------
    results : DataFrame
        Rows of `bench.results.read_results`, of the paper suite.

    Returns
    -------
    DataFrame
        Schema `TABLE`. ``ours`` is the mean over seeds, of a gain the mean over the seeds that
        both sides have, ``difference`` is ours − theirs; all three are null where nothing of ours
        is there yet. The paper's own methods (``paper-mlp``, ``paper-text2concepts``,
        ``paper-cca``) are listed with ours; ``as_run`` says where a run differs from theirs or is
        one of several modes: "two stages", and "names for captions" where no caption of a class
        was in the store. Encoders may be others: a difference does not say which is right.
    """
    # None of the published numbers is of moved rows, or of pairs of another dataset.
    cells = _with_names(results.filter(pairs_from="", head_rows="weights"))
    rows: list[dict[str, Any]] = []
    for number in published_numbers().iter_rows(named=True):
        found = _matching(cells, number)
        base = {name: number[name] for name in TABLE if name in number}
        for ours in found:
            difference = None if ours["ours"] is None else ours["ours"] - number["theirs"]
            rows.append(base | ours | {"difference": difference})
        if not found:
            # A pattern is not a name: `where` says what it matches.
            rows.append(base | {"image_encoder": "", "head": number["label_set"]})
    return pl.DataFrame(rows, schema=TABLE, infer_schema_length=None)


def _with_names(results: pl.DataFrame) -> pl.DataFrame:
    """Add the columns that identify a published number: dataset, encoders, label set."""
    text = pl.when(pl.col("name_set") != "").then(pl.col("name_set")).otherwise(
        pl.col("caption_set")
    )  # fmt: skip

    def part(column: pl.Expr, place: int) -> pl.Expr:
        return column.str.split("/").list.get(place, null_on_oob=True).fill_null("")

    def encoder(column: pl.Expr) -> pl.Expr:
        # timm.beit_base…-1a2b3c4d: without the family and the digits of the set.
        return part(column, 2).str.replace(r"^[^.]*\.", "").str.replace(r"-[0-9a-f]{8}$", "")

    return results.with_columns(
        _dataset=part(pl.col("image_set"), 0),
        _image=encoder(pl.col("image_set")),
        _text=encoder(text),
        _labels=part(pl.col("head_set"), 0),
        _head=encoder(pl.col("head_set")),
    )


def _matching(cells: pl.DataFrame, number: dict[str, Any]) -> list[dict[str, Any]]:
    """Return ours for one published number: one row a method, encoders and head."""
    own = cells.filter(task=number["task"], direction=number["direction"], metric=number["metric"])
    for column, name in (("_dataset", "dataset"), ("source", "source"), ("n_pairs", "n_pairs")):
        if number[name]:
            own = own.filter(pl.col(column) == number[name])
    if number["label_set"]:
        own = own.filter(_labels=number["label_set"])
    elif number["source"] == "none":
        own = own.filter(method="identity")
    if number["image_encoder"]:
        own = own.filter(pl.col("_image").str.contains(number["image_encoder"]))
    if number["options"]:
        own = own.filter(pl.col("options").str.contains(number["options"], literal=True))
    keys = [
        "_image", "_text", "_labels", "_head", "method", "image_set", "name_set", "caption_set",
        "sequential", "pair_variants",
    ]  # fmt: skip
    out = []
    for key, part in own.group_by(keys, maintain_order=True):
        facts = dict(zip(keys, key, strict=True))
        values = _gain(cells, part, number["kind"])
        if values.is_empty():
            continue
        out.append(
            {
                "dataset": part["_dataset"][0],
                "image_encoder": facts["_image"],
                "text_encoder": facts["_text"],
                "head": f"{facts['_labels']} · {facts['_head']}" if facts["_head"] else "",
                "method": facts["method"],
                "as_run": _as_run(facts, part["n_pairs"][0]),
                "ours": values.mean(),
                "ours_sd": values.std(ddof=1) if len(values) > 1 else None,
                "n_seeds": len(values),
                "gallery": part["gallery"].mean(),
            }
        )
    return out


def _as_run(facts: dict[str, Any], n_pairs: str) -> str:
    """Return what a reader has to know of how a cell was run, beside its method."""
    notes = ["two stages"] if facts["sequential"] else []
    captions = "description" in str(facts["pair_variants"] or "").split(",")
    if n_pairs.endswith("/class") and not captions:
        notes.append("names for captions")
    return ", ".join(notes)


def _gain(cells: pl.DataFrame, part: pl.DataFrame, kind: str) -> pl.Series:
    """Return the value of every seed, of a gain the difference to the side it is over."""
    own = part.select("seed", "value").sort("seed")
    if kind == "value":
        return own["value"]
    first = part.row(0, named=True)
    same = ["task", "direction", "metric", "options", "eval", "method", "image_set", "name_set"]
    base = cells.filter(
        *(pl.col(name) == first[name] for name in [*same, "caption_set"]),
        pl.col("epochs").eq_missing(first["epochs"]),
    )
    if kind == "gain-over-real":
        base = base.filter(source="none", n_pairs=first["n_pairs"])
        joined = own.join(base.select("seed", "value"), on="seed", suffix="_base")
        return (joined["value"] - joined["value_base"]).alias("gain")
    # The weights alone are the same whatever the seed.
    base = base.filter(source="head", n_pairs="0", head_set=first["head_set"])
    if base.is_empty():
        return pl.Series("gain", [], dtype=pl.Float64)
    return (own["value"] - base["value"].mean()).alias("gain")


_GAINS = {"value": "", "gain-over-real": "gain of weights", "gain-over-head": "gain of pairs"}


def published_lines(table: pl.DataFrame) -> Table:
    """Return the rows of `published_table` as text, percent."""

    def metric(row: Row) -> str:
        kind = _GAINS[row["kind"]]
        return f"{row['metric']}, {kind}" if kind else row["metric"]

    def if_known(text: Callable[[Row], str]) -> Callable[[Row], str]:
        return lambda row: "" if row["ours"] is None else text(row)

    def method(row: Row) -> str:
        return ", ".join(part for part in (method_title(row["method"]), row["as_run"]) if part)

    columns: list[Column] = [
        ("experiment", itemgetter("experiment")),
        ("data", lambda row: row["dataset"] or ""),
        ("images", lambda row: row["image_encoder"] or ""),
        ("texts", lambda row: row["text_encoder"] or ""),
        ("head", lambda row: row["head"] or ""),
        ("task", itemgetter("direction")),
        ("metric", metric),
        ("K", lambda row: row["n_pairs"] or ""),
        ("method", if_known(method)),
        ("ours", lambda row: value_text(row["metric"], row["ours"], row["ours_sd"])),
        ("theirs", lambda row: value_text(row["metric"], row["theirs"])),
        ("known", itemgetter("how")),
        (f"ours {MINUS} theirs", if_known(lambda row: signed_text(row["difference"]))),
        ("seeds", if_known(lambda row: str(row["n_seeds"]))),
        ("gallery", lambda row: number_text(row["gallery"], 0)),
        # Last: it is the widest. Numbers of one metric differ by it alone.
        ("where", itemgetter("where")),
    ]
    return Table.of(table, columns)
