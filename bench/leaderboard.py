"""A leaderboard: results in files that others can check, and which of their gaps are noise.

A *submission* is one JSON file: the result rows of one cell for one metric, the sums of that metric
by cluster of queries, and a digest of it all. Submissions that scored the same queries form a
*board*. Rows and sums become a cell as those of a results folder do, and every entry is compared
with the leader alone by a `bench.comparisons.Claim`; `bench.statistics.against_leader` corrects for
the leader having been chosen by the same numbers. Entries that are not shown to be behind form the
group that cannot be told from the leader.

The digest shows damage, not dishonesty: whoever doubts an entry runs its settings on its revisions.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import polars as pl
import polars.selectors as cs

from bench.cells import (
    CELL,
    Cell,
    cells_of,
    chance_and_gallery,
    method_title,
    read_cells,
    set_name,
    source_name,
)
from bench.comparisons import (
    LEVEL,
    MAIN_EVALS,
    PAIRED_METRICS,
    PRIMARY_METRICS,
    Claim,
    chosen_rows,
)
from bench.errors import SubmissionError
from bench.metrics.summary import METRICS, cutoff
from bench.results import RESULT_SCHEMA, RUN_COLUMNS, read_sessions, summed_as
from bench.runs import refuse
from bench.statistics import against_leader
from bench.tables import (
    Axis,
    Table,
    interval_text,
    p_text,
    pairs_text,
    signed_text,
    value_text,
)
from featstore.durable import read_json
from featstore.errors import FeatstoreError, listed
from featstore.identity import SHORT, canonical_json, sha256_hex

#: Version of the file.
FORMAT = 2

#: Bytes of a submission, at most.
MOST_BYTES = 2**24

#: Draws times clusters of a submission, and of all that are on one board, at most: an array of them
#: takes 32 MiB, though a file in which most draws have few clusters may be small.
MOST_SUMS = 2**22

#: Columns of a result row in which the entries of a board agree, beside the queries themselves.
ASKED = (
    "task", "eval", "options", "direction", "metric", "relevance", "locales", "limit",
    "train_splits", "train_fraction", "metric_version", "protocol_version", "clusters_of",
)  # fmt: skip


#: What a file says beside its rows and sums, and the most characters of each.
_TEXTS = {"name": 100, "versions": 2000}

#: The sums of the metric by run and cluster of queries.
_SUMS: dict[str, Any] = {
    "run_id": pl.String, "queries": pl.String, "cluster_id": pl.String, "n_queries": pl.Int64,
    "total": pl.Float64,
}  # fmt: skip

#: Columns of a row that are never empty.
_KNOWN = ("run_id", "seed", *ASKED[:6], "method", "source", "n_pairs", "value", "n_queries",
          "gallery", "image_set", "finished_at")  # fmt: skip

#: The largest number of a row.
_LARGEST = 2.0**53

_DATE = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, eq=False)
class Submission:
    """One entry of a leaderboard.

    Attributes
    ----------
    document : dict
        What the file holds; `check` says of what it is made.
    place : str
        Its file, for messages; empty if it is in none yet.
    """

    document: Mapping[str, Any]
    place: str = ""

    @property
    def name(self) -> str:
        """What the entry is called."""
        return str(self.document["name"])

    @property
    def digest(self) -> str:
        """Digits of what the file holds."""
        return str(self.document["digest"])

    @cached_property
    def rows(self) -> pl.DataFrame:
        """Its result rows, one a run, under `bench.results.RESULT_SCHEMA`."""
        return _frame(self.document, "rows", RESULT_SCHEMA)

    @cached_property
    def sums(self) -> pl.DataFrame:
        """The sums of its metric."""
        return _frame(self.document, "sums", _SUMS)

    @cached_property
    def first(self) -> dict[str, Any]:
        """Its first row."""
        return self.rows.row(0, named=True)

    @property
    def metric(self) -> str:
        """The metric that is ranked by; higher is better."""
        return str(self.first["metric"])

    @property
    def chance(self) -> float:
        """What a random order gives; 0 where nothing says."""
        return float(np.nan_to_num(chance_and_gallery(self.rows)[self.metric][0]))

    @cached_property
    def finished(self) -> str:
        """When its last run was finished, UTC, as ISO 8601."""
        last = self.rows.select(pl.col("finished_at").max()).item()
        return datetime.fromtimestamp(int(last), UTC).strftime(_DATE)

    @cached_property
    def cell(self) -> Cell:
        """The runs, as tables and comparisons have them."""
        (cell,) = cells_of(self.rows, self.sums.rename({"total": summed_as(self.metric)}), Path())
        return cell

    @property
    def parts(self) -> tuple[str, str, str, str]:
        """What a table tells entries by: encoders of images and texts, method, real pairs."""
        row = self.first
        keys = row["image_set"], row["name_set"] or row["caption_set"] or ""
        images, texts = (set_name("_set", key).split(" · ")[-1] for key in keys)
        pairs = pairs_text(row["n_pairs"], self.rows["n_images_fitted"].mean(), short=True)
        given = "" if row["source"] == "none" else f", {source_name(row['source'], '0')}"
        return images, texts, f"{method_title(row['method'])}{given}", pairs

    @cached_property
    def asked(self) -> dict[str, Any]:
        """What is asked: equal for entries of one board."""
        sets = {
            f"{role}s": self.first[f"{role}_set"] or "" for role in ("image", "name", "caption")
        }
        return {
            **{column: self.first[column] for column in ASKED},
            **{role: key.partition("/")[0] for role, key in sets.items()},
            "gallery": chance_and_gallery(self.rows)[self.metric][1],
            "queries": self.cell.queries[0],
        }

    @cached_property
    def board(self) -> str:
        """Digits that are equal for entries that answered the same question on the same queries."""
        return sha256_hex(canonical_json(self.asked))[:SHORT]

    def facts(self) -> list[tuple[str, str]]:
        """Return what the entry was, as (name, text): sets, settings, versions, digest."""
        own = {name: str(self.first[name]) for name in RUN_COLUMNS if self.first[name]}
        return [*own.items(), ("versions", self.document["versions"]), ("digest", self.digest)]


def pack(
    choice: str,
    *,
    name: str,
    direction: str | None = None,
    metric: str | None = None,
) -> Submission:
    """Return the submission of one cell of a results folder.

    Parameters
    ----------
    choice : str
        ``FOLDER:method/source/K[:field=value,…]``, as of `headstock eval compare`; it must leave
        one cell.
    name : str
        What the entry is called on the board; a later one of the same name replaces it there.
    direction, metric : str, optional
        What is ranked by. By default image→name by top-1, or where no names were scored
        image→caption by R@1.

    Returns
    -------
    Submission

    Raises
    ------
    NoResultsError
        If the folder holds no such rows.
    SubmissionError
        If the choice leaves several cells, or none has this direction and metric.

    Examples
    --------
    >>> from bench.suites.demo import create_smoke_store, smoke_runs
    >>> create_smoke_store("smoke")
    >>> done = run_all(smoke_runs(open_store("smoke")), "smoke", "results")
    >>> entry = pack("results:ridge/head/0", name="ridge")
    >>> entry.metric, len(entry.cell.draws)
    ('top-1', 2)
    """
    root, _, rows = chosen_rows(choice)
    rows = _asked(rows, choice, direction, metric)
    metric = str(rows["metric"][0])
    cells = [c for c in read_cells(root, rows) if summed_as(metric) in c.sums.columns]
    if len(cells) != 1:
        names = sorted({f"{cell.method}/{cell.source}/{cell.n_pairs}" for cell in cells})
        raise SubmissionError(
            f"A submission is one cell, and {choice} leaves {len(cells)}: "
            f"{listed(names, shown=6) or 'none with sums of ' + metric}. Name one as "
            "FOLDER:method/source/K, and what else differs as :field=value."
        )
    (cell,) = cells
    own = rows.filter(pl.col("run_id").is_in(cell.run_ids)).sort("seed", "control_draw")
    draw = cell.sums["draw"].to_numpy()
    sums = {
        "run_id": [cell.run_ids[i] for i in draw],
        "queries": [cell.queries[i] for i in draw],
        "cluster_id": [str(cell.clusters[i]) for i in cell.sums["cluster"]],
        "n_queries": cell.sums["n_queries"].to_list(),
        "total": cell.sums[summed_as(metric)].to_list(),
    }
    sessions = [one for one in read_sessions(root) if one.get("suite") == rows["suite"][0]]
    used = sessions[-1].get("versions", {}) if sessions else {}
    document = {
        "format": FORMAT,
        "name": name,
        "versions": ", ".join(f"{package} {version}" for package, version in sorted(used.items())),
        "rows": {column.name: column.to_list() for column in own if column.null_count() < len(own)},
        "sums": sums,
    }
    return Submission({**document, "digest": _digest(document)})


def _asked(
    rows: pl.DataFrame, choice: str, direction: str | None, metric: str | None
) -> pl.DataFrame:
    """Return the rows of one direction, metric and evaluation."""
    have = set(rows.select("direction", "metric").unique().iter_rows())
    first = next((asked for asked in PRIMARY_METRICS if asked in have), ("", ""))
    direction, metric = direction or first[0], metric or first[1]
    ways = [f"{d} by {m}" for d, m in sorted(have) if m in PAIRED_METRICS or m not in METRICS]
    if f"{direction} by {metric}" not in ways:
        raise SubmissionError(
            f"{choice} holds no {direction or 'direction'} by {metric or 'any metric'} that is a "
            f"mean over queries. Choose `direction=` and `metric=` from: {listed(ways, shown=30)}."
        )
    rows = rows.filter(direction=direction, metric=metric)
    main = next(one for one in (*MAIN_EVALS, rows["eval"][0]) if one in set(rows["eval"]))
    return rows.filter(eval=main)


def _digest(document: Mapping[str, Any]) -> str:
    return sha256_hex(canonical_json({k: v for k, v in document.items() if k != "digest"}))


def read_submission(path: Path) -> Submission:
    """Return the submission of a file.

    Raises
    ------
    SubmissionError
        If the file is not one: not JSON, not made as it should be, or its numbers contradict each
        other or its digest. The message names the file and the place in it.
    """
    try:
        document = read_json(path, limit=MOST_BYTES)
        check(document)
    except (FeatstoreError, OSError) as err:
        raise SubmissionError(f"{path} is no submission that can be ranked: {err}") from err
    return Submission(document, str(path))


def check(document: Any) -> None:
    """Compare a document with what a submission is made of, with itself and with its digest.

    Raises
    ------
    SubmissionError
        At the first thing that is wrong.
    """
    parts = {"format", *_TEXTS, "rows", "sums", "digest"}
    if not isinstance(document, dict) or {*document} != parts or document["format"] != FORMAT:
        raise SubmissionError(
            f"it must be an object of {', '.join(sorted(parts))}, and no more, of format {FORMAT}."
        )
    for name, most in _TEXTS.items():
        if not isinstance(document[name], str) or len(document[name]) > most:
            raise SubmissionError(f"its {name} must be a text of at most {most} characters.")
    sent = Submission(document)
    _check_rows(sent.rows)
    _check_sums(sent)
    if document["digest"] != _digest(document):
        raise SubmissionError(
            "its digest is not that of its content: it was changed after it was packed. Pack it "
            "again with `headstock eval submit`."
        )


def _frame(document: Mapping[str, Any], name: str, schema: Mapping[str, Any]) -> pl.DataFrame:
    """Return a table of a document under its schema; a column that is not there is empty."""
    given = document[name]
    if not isinstance(given, dict) or not given or not given.keys() <= schema.keys():
        raise SubmissionError(f"its {name} must be columns of {listed(schema, shown=4)}.")
    try:
        if not all(isinstance(values, list) for values in given.values()):
            raise TypeError("a column is no list")
        found = pl.DataFrame(given, {key: schema[key] for key in given}, strict=True)
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError) as err:
        raise SubmissionError(
            f"its {name} are no table: {str(err)[:200].splitlines()[0]}."
        ) from err
    empty = (pl.lit(None, dtype).alias(key) for key, dtype in schema.items() if key not in given)
    return found.with_columns(*empty).select(list(schema))


def _check_rows(rows: pl.DataFrame) -> None:
    """Raise unless rows are those of one cell and metric."""
    numbers = rows.select(cs.numeric().fill_null(0).is_between(0, _LARGEST))
    refuse(
        (
            rows.select(_KNOWN).null_count().sum_horizontal().item() or not all(map(all, numbers)),
            f"its rows must each have {', '.join(_KNOWN)}, and numbers from 0 to {_LARGEST:g}.",
        ),
        (
            rows.is_empty() or rows.select(*{*CELL, *ASKED}).n_unique() != 1,
            "its rows must be of one cell, direction and metric.",
        ),
        (
            rows.select("seed", "control_draw").is_duplicated().any()
            or rows["run_id"].is_duplicated().any(),
            "one of its draws is there twice.",
        ),
        error=SubmissionError,
    )
    metric = rows["metric"][0]
    refuse(
        (
            metric in METRICS and metric not in PAIRED_METRICS,
            f"its metric, {metric}, is no mean over queries.",
        ),
        (
            not rows["value"].is_between(0, 1).all()
            or not rows["chance"].fill_null(0).is_between(0, 1).all(),
            f"its {metric} must be a share, between 0 and 1.",
        ),
        (
            rows.select(pl.col("finished_at").max()).item() > time.time() + 86_400,
            "it was finished in the future.",
        ),
        error=SubmissionError,
    )


def _check_sums(sent: Submission) -> None:
    """Raise unless the sums are of the queries of the rows, and give their values."""
    rows, sums = sent.rows, sent.sums
    n = rows.height * sums["cluster_id"].n_unique()
    refuse(
        (n > MOST_SUMS, f"its {n:,} draws times clusters are more than {MOST_SUMS:,} sums."),
        (
            sums.null_count().sum_horizontal().item() or {*sums["run_id"]} != {*rows["run_id"]},
            "its sums must be of its runs, and whole.",
        ),
        (
            sums.select("run_id", "cluster_id").is_duplicated().any(),
            "a cluster of its sums is there twice in one run.",
        ),
        error=SubmissionError,
    )
    total, count = pl.col("total"), pl.col("n_queries")
    # Every metric that is ranked by lies between 0 and 1; sums of it are rounded.
    wrong = sums.filter(
        ~((count > 0) & (count <= _LARGEST) & (total >= 0) & (total <= count * (1 + 1e-9)))
    )
    if wrong.height:
        run_id, _, _, queries, sum_ = wrong.row(0)
        raise SubmissionError(
            f"run {run_id[:SHORT]}: a cluster of {queries} queries cannot have a total of {sum_} "
            f"{sent.metric}."
        )
    own = sums.group_by("run_id").agg(
        total.sum() / count.sum(), count.sum(), pl.col("queries").n_unique()
    )
    both = rows.select("run_id", "value", "n_queries").join(own, on="run_id")
    value = (pl.col("value") - total).abs() < 1e-9
    same = value & (count == pl.col("n_queries_right")) & (pl.col("queries") == 1)
    if lost := both.filter(~same)["run_id"].to_list():
        raise SubmissionError(f"run {lost[0][:SHORT]}: its value is not the mean of its sums.")


@dataclass(frozen=True)
class Line:
    """One entry on a board; values are shares, differences are those of the leader to it.

    Attributes
    ----------
    submission : Submission
        The latest of its name.
    value, low, high : float
        Mean over all queries of its draws, and its 95 % interval.
    standing : str
        ``"leader"``, ``"tied"`` (not shown to be behind), ``"behind"``, ``"open"`` (compared, but
        with too few draws for a claim, or of one pool of pairs), or ``"apart"`` (not on the draws
        of this board).
    behind, behind_low, behind_high : float or None
        How far the leader is above it, on the draws of both.
    p, p_adjusted : float or None
        Two-sided, and corrected; see `bench.statistics.against_leader`.
    """

    submission: Submission
    value: float
    low: float
    high: float
    standing: str
    behind: float | None = None
    behind_low: float | None = None
    behind_high: float | None = None
    p: float | None = None
    p_adjusted: float | None = None


@dataclass(frozen=True)
class Board:
    """Entries that answered one question on the same queries, best first.

    Attributes
    ----------
    name : str
        Digits of what is asked.
    asked : mapping
        What is asked; see `Submission.asked`.
    lines : tuple of Line
    question : str
        Of another tool's results: which question intervals and p answer, and what they leave open.
    """

    name: str
    asked: Mapping[str, Any]
    lines: tuple[Line, ...]
    question: str = ""

    @property
    def title(self) -> str:
        """What is asked, in words."""
        words = (self.asked[k] for k in ("images", "direction", "metric", "eval", "options"))
        return ", ".join(word.replace("→", " → ") for word in words if word)

    def facts(self) -> dict[str, Any]:
        """Return the board as plain JSON: shares, and differences as leader minus entry."""
        lines = []
        for line in self.lines:
            own = {k: v for k, v in vars(line).items() if k != "submission"}
            # JSON has no infinite number.
            own |= {k: None for k, v in own.items() if isinstance(v, float) and math.isinf(v)}
            lines.append({"name": line.submission.name, "digest": line.submission.digest, **own})
        own = {"board": self.name, "title": self.title, "question": self.question}
        return {**own, "asked": self.asked, "entries": lines}

    def table(self) -> Table:
        """Return the board as text, percent; differences are those of an entry to the leader."""
        metric = self.asked["metric"]
        lines = [
            [
                str(place),
                line.submission.name,
                value_text(metric, line.value),
                f"{value_text(metric, line.low)} to {value_text(metric, line.high)}",
                "" if line.behind is None else signed_text(-line.behind),
                "" if line.behind_low is None or line.behind_high is None
                else interval_text(-line.behind_high, -line.behind_low),
                p_text(line.p_adjusted),
                line.standing,
            ]
            for place, line in enumerate(self.lines, start=1)
        ]  # fmt: skip
        headings = ["#", "entry", f"{metric} %", "95 % interval", "to leader", "95 % interval", "p",
                    "standing"]  # fmt: skip
        return Table(headings, lines)

    @cached_property
    def axis(self) -> Axis:
        """What the intervals of the entries are drawn on, from one multiple of 5 % to another."""
        ends = [20 * end for line in self.lines for end in (line.low, line.value, line.high)]
        known = [end for end in ends if math.isfinite(end)]
        return Axis(math.floor(min(known)) / 20, math.ceil(max(known)) / 20)

    @property
    def sentence(self) -> str:
        """The result: how many entries cannot be told from the leader."""
        n, leader = Counter(line.standing for line in self.lines), self.lines[0]
        parts = {
            "tied": "it cannot be told from {:,}", "behind": "it is above {:,}",
            "open": "{:,} had too few draws for a claim", "apart": "{:,} had other draws",
        }  # fmt: skip
        said = [text.format(n[standing]) for standing, text in parts.items() if n[standing]]
        rest = "; ".join(said) or "it is the only entry"
        return f"{leader.submission.name} leads with {100 * leader.value:.1f} %: {rest}."


def boards(submissions: Sequence[Submission]) -> list[Board]:
    """Return the boards of these submissions: those with most entries first.

    Of submissions of one name on one board the latest counts.

    Examples
    --------
    >>> from bench.suites.demo import create_smoke_store, smoke_runs
    >>> create_smoke_store("smoke")
    >>> done = run_all(smoke_runs(open_store("smoke")), "smoke", "results")
    >>> sent = [pack(f"results:{m}/head/0", name=m) for m in ("ridge", "conse")]
    >>> [line.standing for line in boards(sent)[0].lines]
    ['leader', 'tied']
    """
    by_board: dict[str, dict[str, Submission]] = {}
    for one in sorted(submissions, key=lambda one: (one.finished, one.digest)):
        by_board.setdefault(one.board, {})[one.name] = one
    found = [_board([*own.values()]) for own in by_board.values()]
    return sorted(found, key=lambda board: (-len(board.lines), board.title, board.name))


def _board(sent: Sequence[Submission]) -> Board:
    _check_queries(sent)
    clusters = np.unique(np.concatenate([one.cell.clusters for one in sent]))
    most = max(sent, key=lambda one: len(one.cell.draws))
    if len(most.cell.draws) * len(clusters) > MOST_SUMS:
        raise SubmissionError(
            f"{most.place or repr(most.name)} makes a board too large: {len(most.cell.draws):,} "
            f"draws of the {len(clusters):,} clusters of all its entries are more than "
            f"{MOST_SUMS:,} sums. Leave it out."
        )
    cells = {one.digest: one.cell.on(clusters) for one in sent}
    usual, metric = _usual_draws([*cells.values()]), sent[0].metric

    def rank(one: Submission) -> tuple[bool, float, str]:
        cell = cells[one.digest]
        return not _has_draws(cell, usual), -cell.mean(metric), one.name

    def interval(one: Submission) -> tuple[float, float]:
        ends = Claim("over-chance", cells[one.digest], None, metric, one.chance).interval
        low, high = np.add(ends, one.chance).tolist()
        # A share lies between none and all: what is cut off takes no coverage.
        return (max(low, 0.0), min(high, 1.0)) if cutoff(metric) is not None else (low, high)

    order = sorted(sent, key=rank)
    entries = [(one, cells[one.digest].mean(metric), interval(one)) for one in order]
    leader = cells[order[0].digest]
    claims = {one.name: Claim("a-b", leader, cells[one.digest], metric) for one in order[1:]}
    gaps: dict[str, Gap] = {
        name: (claim.estimate.mean, claim.interval, None if claim.limit else claim.p)
        for name, claim in claims.items()
        if claim.seeds and _has_draws(claim.cells[1], usual)
    }
    return Board(sent[0].board, sent[-1].asked, ranked(entries, gaps))


def _check_queries(sent: Sequence[Submission]) -> None:
    """Raise if two submissions name the same queries and count them otherwise."""
    seen: dict[str, tuple[dict[str, int], str]] = {}
    for one in sent:
        for _, run in one.sums.group_by("run_id", maintain_order=True):
            counts = dict(run.select("cluster_id", "n_queries").iter_rows())
            own = counts, one.place or repr(one.name)
            known, other = seen.setdefault(run["queries"][0], own)
            if counts != known:
                raise SubmissionError(
                    f"{other} and {own[1]} name the same queries, {run['queries'][0]}, but have "
                    "other numbers of them in their clusters. One of the two was not packed from "
                    "results."
                )


_Draws: TypeAlias = set[tuple[int, str]]


def _usual_draws(cells: Sequence[Cell]) -> _Draws:
    """Return the draws, by seed and queries, that most entries have; at least half of them."""
    counts = Counter(draw for cell in cells for draw in cell.of_seed.items())
    most = min(max(counts.values()), -(-len(cells) // 2))
    return {draw for draw, n in counts.items() if n >= most}


def _has_draws(cell: Cell, usual: _Draws) -> bool:
    """Whether an entry is on the draws of its board, so that it may lead and be compared."""
    if not cell.fresh and not cell.is_drawn:
        return True  # the same answer to the same queries, whatever the seed
    return bool(cell.of_seed.items() & usual)


#: How far the leader is above an entry, its interval, and p if there are draws enough for one.
Gap: TypeAlias = tuple[float, tuple[float, float], float | None]


def ranked(
    entries: Sequence[tuple[Submission, float, tuple[float, float]]], gaps: Mapping[str, Gap]
) -> tuple[Line, ...]:
    """Return entries with their values and intervals as lines, best first.

    `gaps` compare them by name with the first; those without one are not on the draws of the board.
    """
    found = [gaps.get(one.name) for one, _, _ in entries]
    # The leader was chosen among all entries, also among those that no claim is made about.
    known = [1.0 if gap is None or gap[-1] is None else gap[-1] for gap in found[1:]]
    lines, corrected = list[Line](), [1.0, *against_leader(np.array(known)).tolist()]
    for (one, value, ends), gap, own in zip(entries, found, corrected, strict=True):
        rest: tuple[Any, ...] = ("apart" if lines else "leader",)
        if gap is not None:
            behind, between, p = gap
            # On the draws of both, whoever has the higher mean of all its own may come second.
            shown = "behind" if own < LEVEL and behind > 0 else "tied"
            rest = ("open" if p is None else shown, behind, *between, p, None if p is None else own)
        lines.append(Line(one, value, *ends, *rest))
    return tuple(lines)


def leaderboard_page(found: Sequence[Board], *, title: str = "Leaderboard") -> str:
    """Return boards as one HTML page that needs no network and no other file.

    Raises
    ------
    MissingPackageError
        If jinja2 is missing.
    """
    from bench.report.page import render

    return render(
        "leaderboard.html",
        {
            "title": f"{title}: {found[0].asked['images']} · Headstock", "heading": title,
            "image": "", "description": f"{found[0].title}. {found[0].sentence}",
            "boards": found, "level": f"{100 * LEVEL:g} %",
        },
    )  # fmt: skip
