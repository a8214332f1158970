"""A leaderboard: results in files that others can check, and which of their gaps are noise.

A *submission* is one JSON file: the sums of one metric per draw and cluster of queries, what was
run, the revisions of the sets that were read, and a digest of it all. Submissions that scored the
same queries form a *board*. Every entry is compared with the leader alone, on the draws that both
have, by the paired estimate of `bench.comparisons`; `bench.statistics.against_leader` corrects for
the leader having been chosen by the same numbers. Entries that are not shown to be behind form the
group that cannot be told from the leader.

The digest shows damage, not dishonesty: whoever doubts an entry runs its settings on its revisions.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import polars as pl

from bench.cells import (
    ARENA,
    SETTINGS,
    Cell,
    chance_and_gallery,
    method_title,
    read_cells,
    set_name,
)
from bench.comparisons import (
    LEVEL,
    MAIN_EVALS,
    PAIRED_METRICS,
    PRIMARY_METRICS,
    Comparison,
    chosen_rows,
    interval_of,
)
from bench.errors import SubmissionError
from bench.metrics.summary import METRICS, cutoff
from bench.results import read_sessions, summed_as
from bench.statistics import ENOUGH_DRAWS, LARGEST_OVERLAP, against_leader
from bench.tables import interval_text, p_text, signed_text, value_text
from featstore.errors import FeatstoreError, listed, needs_extra
from featstore.identity import SHORT, canonical_json, sha256_hex
from featstore.store.files import read_json

#: Version of the file.
FORMAT = 1

#: Bytes of a submission, at most: 16 draws of 20,000 classes are a third of it.
MOST_BYTES = 2**24

#: Draws times clusters of a submission, and of all that are on one board, at most: an array of them
#: takes 32 MiB, though a file in which most draws have few clusters may be small.
MOST_SUMS = 2**22

#: Columns of a result row in which the entries of a board agree, beside the queries themselves.
ASKED = (
    "task", "eval", "options", "relevance", "locales", "limit", "train_splits", "train_fraction",
    "metric_version", "protocol_version", "clusters_of",
)  # fmt: skip

#: Columns that say what an entry is, beside those that tell cells apart.
_PROMPTS = (
    "variants", "templates", "head_variants", "head_templates", "pair_variants", "pair_templates",
)  # fmt: skip
_SETS = ("image", "name", "caption", "head", "head_name")


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
    def metric(self) -> str:
        """The metric that is ranked by; higher is better."""
        return str(self.document["board"]["metric"])

    @property
    def finished(self) -> str:
        """When its last run was finished, UTC, as ISO 8601."""
        return str(self.document["finished"])

    @cached_property
    def board(self) -> str:
        """Digits that are equal for entries that answered the same question on the same queries."""
        return sha256_hex(canonical_json(self.document["board"]))[:SHORT]

    @cached_property
    def cell(self) -> Cell:
        """The runs, as `bench.comparisons` compares them."""
        given, board = self.document, self.document["board"]
        draws = given["draws"]
        lengths = [len(draw["cluster"]) for draw in draws]
        columns = {
            name: np.concatenate([np.asarray(draw[name], dtype) for draw in draws])
            for name, dtype in (("cluster", np.int64), ("count", np.int64), ("total", np.float64))
        }
        arena = {"image_set": "", "name_set": "", "caption_set": "", **board}
        return Cell(
            arena=tuple(arena[name] for name in ARENA),
            method=given["entry"]["method"],
            source=given["entry"]["source"],
            n_pairs=given["entry"]["n_pairs"],
            settings={name: given["entry"]["settings"].get(name) for name in SETTINGS},
            draws=tuple((draw["seed"], draw["seed"]) for draw in draws),
            queries=tuple(draw["queries"] for draw in draws),
            run_ids=(given["digest"],),
            # Texts of one size would all take the room of the longest.
            clusters=np.array(given["clusters"], dtype=object),
            sums=pl.DataFrame(
                {
                    "draw": np.repeat(np.arange(len(draws)), lengths),
                    "cluster": columns["cluster"],
                    "n_queries": columns["count"],
                    summed_as(self.metric): columns["total"],
                }
            ),
            fitted=float(given["fitted"]),
            pool=math.nan if given["pool"] is None else float(given["pool"]),
            clusters_of=board["clusters_of"],
            root=Path(),
        )


def pack(
    choice: str,
    *,
    name: str,
    direction: str | None = None,
    metric: str | None = None,
    note: str = "",
    link: str = "",
) -> Submission:
    """Return the submission of one cell of a results folder.

    Parameters
    ----------
    choice : str
        ``FOLDER:method/source/K[:field=value,…]``, as of `bench compare`; it must leave one cell.
    name : str
        What the entry is called on the board; a later one of the same name replaces it there.
    direction, metric : str, optional
        What is ranked by. By default image→name by top-1, or where no names were scored
        image→caption by R@1.
    note, link : str
        A line of text, and where more stands.

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
    >>> entry.metric, len(entry.document["draws"])
    ('top-1', 2)
    """
    root, _, rows = chosen_rows(choice)
    rows = _asked(rows, choice, direction, metric)
    metric = str(rows["metric"][0])
    cells = [
        cell
        for _, block in rows.group_by(ARENA, maintain_order=True)
        for cell in read_cells(root, block)
        if summed_as(metric) in cell.sums.columns
    ]
    if len(cells) != 1:
        names = sorted({f"{cell.method}/{cell.source}/{cell.n_pairs}" for cell in cells})
        raise SubmissionError(
            f"A submission is one cell, and {choice} leaves {len(cells)}: "
            f"{listed(names, shown=6) or 'none with sums of ' + metric}. Name one as "
            "FOLDER:method/source/K, and what else differs as :field=value."
        )
    document = _document(cells[0], rows, {"name": name, "note": note, "link": link})
    document |= _history(root, rows)
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
            f"mean over queries. Choose --direction and --metric from: {listed(ways, shown=30)}."
        )
    rows = rows.filter((pl.col("direction") == direction) & (pl.col("metric") == metric))
    main = next(one for one in (*MAIN_EVALS, rows["eval"][0]) if one in set(rows["eval"]))
    return rows.filter(pl.col("eval") == main)


def _document(cell: Cell, rows: pl.DataFrame, words: Mapping[str, str]) -> dict[str, Any]:
    """Return what was asked and run, and the sums of every draw."""
    first = rows.filter(pl.col("run_id") == cell.run_ids[0]).row(0, named=True)
    metric = first["metric"]
    chance, gallery = chance_and_gallery(rows)[metric]
    draws = _draws(cell, metric)
    settings = {name: first[name] for name in (*SETTINGS, *_PROMPTS) if name != "head_set"}
    read = {role: first[f"{role}_set"] for role in _SETS if first[f"{role}_set"]}
    return {
        "format": FORMAT,
        **words,
        "board": {
            **{column: first[column] for column in ASKED},
            "direction": first["direction"],
            "metric": metric,
            **{f"{role}s": _dataset(first[f"{role}_set"]) for role in ("image", "name", "caption")},
            "gallery": gallery,
            "queries": draws[0]["queries"],
        },
        "entry": {
            "method": cell.method,
            "source": cell.source,
            "n_pairs": cell.n_pairs,
            **read,
            "settings": {k: v for k, v in settings.items() if v not in (None, "", 0, False)},
        },
        "revisions": {key: first[f"{role}_revision"] for role, key in read.items()},
        "chance": None if math.isnan(chance) else chance,
        "fitted": cell.fitted,
        "pool": None if math.isnan(cell.pool) else cell.pool,
        "clusters": cell.clusters.tolist(),
        "draws": draws,
        "code": first["code"],
        "origin": first["origin"] or "",
    }


def _draws(cell: Cell, metric: str) -> list[dict[str, Any]]:
    """Return the sums of every seed, of the clusters that it has queries of."""
    sums, draws = cell.by_seed(metric), []
    for seed, total, count in zip(cell.seeds, sums.total, sums.count, strict=True):
        place = np.flatnonzero(count)
        draws.append(
            {
                "seed": seed,
                "queries": cell.of_seed[seed],
                "cluster": place.tolist(),
                "count": [_plain(value) for value in count[place]],
                "total": [_plain(value) for value in total[place]],
            }
        )
    return draws


def _history(root: Path, rows: pl.DataFrame) -> dict[str, Any]:
    """Return by which versions it ran, and when it was finished."""
    sessions = [one for one in read_sessions(root) if one.get("suite") == rows["suite"][0]]
    finished = rows["finished_at"].max()
    return {
        "versions": sessions[-1].get("versions", {}) if sessions else {},
        "finished": _date(float(finished) if isinstance(finished, float) else 0.0),
    }


def _plain(value: float) -> float | int:
    """Return a whole number as one, which is shorter."""
    return int(value) if float(value).is_integer() else float(value)


def _dataset(key: str) -> str:
    return key.partition("/")[0]


def _date(stamp: float) -> str:
    return datetime.fromtimestamp(int(stamp), UTC).strftime(_DATE)


def _digest(document: Mapping[str, Any]) -> str:
    return sha256_hex(canonical_json({k: v for k, v in document.items() if k != "digest"}))


def read_submission(path: Path) -> Submission:
    """Return the submission of a file.

    Raises
    ------
    SubmissionError
        If the file is not one: not JSON, not as `SCHEMA_FILE` says, or its numbers contradict each
        other or its digest. The message names the file and the place in it.
    MissingPackageError
        If jsonschema is missing.
    """
    try:
        document = read_json(path, limit=MOST_BYTES)
    except (FeatstoreError, OSError) as err:
        raise SubmissionError(f"{path} is no submission: {err}") from err
    try:
        check(document)
    except SubmissionError as err:
        raise SubmissionError(f"{path} is no submission that can be ranked: {err}") from err
    return Submission(document, str(path))


#: The JSON Schema of a submission, in the folder of this module.
SCHEMA_FILE = "leaderboard.schema.json"

#: What a number of JSON is here: JSON Schema takes 0.0 for an integer, and 400 digits for a number.
_JSON_TYPES = {
    "integer": lambda _, value: type(value) is int and abs(value) <= 2**53,
    "number": lambda _, value: type(value) in (int, float) and abs(value) <= 2**53,
}


def check(document: Any) -> None:
    """Compare a document with the schema, with itself and with its digest.

    Raises
    ------
    SubmissionError
        At the first thing that is wrong.
    MissingPackageError
        If jsonschema is missing.
    """
    with needs_extra("Reading submissions"):
        from jsonschema import Draft202012Validator
        from jsonschema.validators import extend

    schema = json.loads(resources.files("bench").joinpath(SCHEMA_FILE).read_text("utf-8"))
    types = Draft202012Validator.TYPE_CHECKER.redefine_many(_JSON_TYPES)
    validator = extend(Draft202012Validator, type_checker=types)(schema)
    wrong = next(iter(validator.iter_errors(document)), None)
    if wrong is not None:
        place = ".".join(map(str, wrong.absolute_path)) or "the document"
        raise SubmissionError(f"at {place}: {wrong.message[:200]}.")
    _check_texts(document)
    clusters, draws = document["clusters"], document["draws"]
    if len(draws) * len(clusters) > MOST_SUMS:
        raise SubmissionError(
            f"its {len(draws):,} draws of {len(clusters):,} clusters are more than {MOST_SUMS:,} "
            "sums."
        )
    if clusters != sorted(set(clusters)):
        raise SubmissionError("its clusters are not sorted, or one is there twice.")
    seeds = [draw["seed"] for draw in draws]
    if seeds != sorted(set(seeds)):
        raise SubmissionError(f"its seeds are not sorted, or one is there twice: {seeds}.")
    metric = document["board"]["metric"]
    if metric in METRICS and metric not in PAIRED_METRICS:
        raise SubmissionError(f"its metric, {metric}, is no mean over queries.")
    for draw in draws:
        _check_draw(draw, len(clusters), metric)
    if document["digest"] != _digest(document):
        raise SubmissionError(
            "its digest is not that of its content: it was changed after it was packed. Pack it "
            "again with `bench submit`."
        )


def _check_draw(draw: Mapping[str, Any], n_clusters: int, metric: str) -> None:
    where, n = f"draw of seed {draw['seed']}", len(draw["cluster"])
    if not n == len(draw["count"]) == len(draw["total"]):
        raise SubmissionError(
            f"{where}: {n} clusters, {len(draw['count'])} counts and {len(draw['total'])} "
            "totals; one of each belongs to a cluster."
        )
    if draw["cluster"] != sorted(set(draw["cluster"])) or draw["cluster"][-1] >= n_clusters:
        raise SubmissionError(
            f"{where}: its places of clusters are not sorted, repeated, or beyond the "
            f"{n_clusters} clusters."
        )
    for queries, total in zip(draw["count"], draw["total"], strict=True):
        # Every metric that is ranked by lies between 0 and 1; sums of it are rounded.
        if not 0 <= total <= queries * (1 + 1e-9):
            raise SubmissionError(
                f"{where}: a cluster of {queries} queries cannot have a total of {total} {metric}."
            )


def _check_texts(document: Mapping[str, Any]) -> None:
    """Raise if a text holds a sign that acts on a terminal or turns a line, or a date is none.

    The ids of clusters are shown nowhere.
    """
    left: list[Any] = [value for name, value in document.items() if name != "clusters"]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left += [*value, *value.values()]
        elif isinstance(value, list):
            left += value
        elif isinstance(value, str) and (bad := _ACTING.search(value)):
            raise SubmissionError(f"{value[:60]!r} holds the character U+{ord(bad[0]):04X}.")
    try:
        finished = datetime.strptime(document["finished"], _DATE).replace(tzinfo=UTC)
    except ValueError as err:
        raise SubmissionError(f"finished is no date: {document['finished']!r}.") from err
    if finished > datetime.now(UTC) + timedelta(days=1):
        raise SubmissionError(f"it was finished in the future: {document['finished']}.")


#: Control characters, and those that change the direction of a text or cannot be seen.
_ACTING = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")

_DATE = "%Y-%m-%dT%H:%M:%SZ"


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
    earlier : tuple of (date, value, digest)
        Submissions of the same name before it, the latest first.
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
    earlier: tuple[tuple[str, float, str], ...] = ()


def _finite(value: Any) -> Any:
    """Return None for a number that JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class Board:
    """Entries that answered one question on the same queries, best first.

    Attributes
    ----------
    name : str
        Digits of what is asked.
    asked : mapping
        What is asked: the part ``board`` of its submissions.
    lines : tuple of Line
    first_places : tuple of (date, name, value)
        Who came first, from when on, the latest first.
    """

    name: str
    asked: Mapping[str, Any]
    lines: tuple[Line, ...]
    first_places: tuple[tuple[str, str, float], ...] = field(default=())

    @property
    def title(self) -> str:
        """What is asked, in words."""
        asked = self.asked
        words = [f"{asked['images']}, {asked['direction'].replace('→', ' → ')}"]
        words.append(f"{asked['metric']}, {asked['eval']}")
        if asked["options"]:
            words.append(str(asked["options"]))
        return ", ".join(words)

    def facts(self) -> dict[str, Any]:
        """Return the board as plain JSON: shares, and differences as leader minus entry."""
        shown = (
            "value", "low", "high", "standing", "behind", "behind_low", "behind_high", "p",
            "p_adjusted",
        )  # fmt: skip
        lines = [
            {
                "name": line.submission.name,
                "digest": line.submission.document["digest"],
                **{name: _finite(getattr(line, name)) for name in shown},
            }
            for line in self.lines
        ]
        return {
            "board": self.name,
            "title": self.title,
            "asked": dict(self.asked),
            "entries": lines,
            "first_places": [list(place) for place in self.first_places],
        }

    @property
    def sentence(self) -> str:
        """The result: how many entries cannot be told from the leader."""
        n = Counter(line.standing for line in self.lines)
        leader = self.lines[0]
        said = [f"{leader.submission.name} leads with {100 * leader.value:.1f} %."]
        if others := n["tied"] + n["behind"]:
            rest = "the other entry" if others == 1 else f"the {others} others"
            if not n["tied"]:
                said.append(f"It is above {rest}.")
            elif not n["behind"]:
                said.append(f"It cannot be told from {rest}.")
            else:
                said.append(f"It cannot be told from {n['tied']} of {rest}, and is above the rest.")
        if n["open"]:
            said.append(f"{n['open']:,} had too few draws for a claim.")
        if n["apart"]:
            said.append(f"{n['apart']:,} had other draws.")
        return " ".join(said) if len(self.lines) > 1 else f"{said[0]} It is the only entry."


def boards(submissions: Sequence[Submission]) -> list[Board]:
    """Return the boards of these submissions: those with most entries first.

    Of submissions of one name on one board the latest counts; the others are its history.

    Examples
    --------
    >>> from bench.suites.demo import create_smoke_store, smoke_runs
    >>> create_smoke_store("smoke")
    >>> done = run_all(smoke_runs(open_store("smoke")), "smoke", "results")
    >>> sent = [pack(f"results:{m}/head/0", name=m) for m in ("ridge", "conse")]
    >>> [line.standing for line in boards(sent)[0].lines]
    ['leader', 'tied']
    """
    by_board: dict[str, list[Submission]] = {}
    for one in submissions:
        by_board.setdefault(one.board, []).append(one)
    found = [_board(name, own) for name, own in by_board.items()]
    return sorted(found, key=lambda board: (-len(board.lines), board.title, board.name))


def _board(name: str, sent: Sequence[Submission]) -> Board:
    in_time = sorted(sent, key=lambda one: (one.finished, one.document["digest"]))
    _check_queries(in_time)
    clusters = np.unique(np.concatenate([one.cell.clusters for one in in_time]))
    most = max(in_time, key=lambda one: len(one.document["draws"]))
    if len(most.document["draws"]) * len(clusters) > MOST_SUMS:
        widest = max(in_time, key=lambda one: len(one.document["clusters"]))
        named = dict.fromkeys(one.place or repr(one.name) for one in (most, widest))
        raise SubmissionError(
            f"{' and '.join(named)} makes a board too large: {len(most.document['draws']):,} draws "
            f"of the {len(clusters):,} clusters of all its entries are more than {MOST_SUMS:,} "
            "sums. Leave it out."
        )
    cells = {one.document["digest"]: one.cell.on(clusters) for one in in_time}
    usual = _usual_draws([*cells.values()])
    metric = in_time[0].metric
    values = {digest: cell.mean(metric) for digest, cell in cells.items()}

    def rank(one: Submission) -> tuple[bool, float, str]:
        digest = one.document["digest"]
        return not _has_draws(cells[digest], usual), -values[digest], one.name

    latest: dict[str, list[Submission]] = {}
    places: list[tuple[str, str, float]] = []
    for one in in_time:
        latest.setdefault(one.name, []).insert(0, one)
        best = min((own[0] for own in latest.values()), key=rank)
        first = (best.name, values[best.document["digest"]])
        if not places or places[0][1:] != first:
            places.insert(0, (one.finished, *first))
    ordered = sorted(latest.values(), key=lambda own: rank(own[0]))
    lines = _lines([own[0] for own in ordered], cells, usual)
    history = {
        own[0].name: tuple(
            (one.finished, values[one.document["digest"]], one.document["digest"])
            for one in own[1:]
        )
        for own in ordered
    }
    return Board(
        name,
        in_time[-1].document["board"],
        tuple(Line(**line, earlier=history[line["submission"].name]) for line in lines),
        tuple(places),
    )


def _check_queries(sent: Sequence[Submission]) -> None:
    """Raise if two submissions name the same queries and count them otherwise."""
    seen: dict[str, tuple[list[tuple[str, int]], Submission]] = {}
    for one in sent:
        names = one.document["clusters"]
        for draw in one.document["draws"]:
            counts = [(names[c], n) for c, n in zip(draw["cluster"], draw["count"], strict=True)]
            known, other = seen.setdefault(draw["queries"], (counts, one))
            if counts != known:
                files = " and ".join(each.place or repr(each.name) for each in (other, one))
                raise SubmissionError(
                    f"{files} name the same queries, {draw['queries']}, but have other numbers of "
                    "them in their clusters. One of the two was not packed from results."
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


def _lines(
    entries: Sequence[Submission], cells: Mapping[str, Cell], usual: _Draws
) -> list[dict[str, Any]]:
    metric, leader = entries[0].metric, cells[entries[0].document["digest"]]
    least = 0.0 if cutoff(metric) is not None else -math.inf
    lines: list[dict[str, Any]] = []
    for place, one in enumerate(entries):
        cell, chance = cells[one.document["digest"]], one.document["chance"] or 0.0
        alone = Comparison("over-chance", cell, None)
        low, high = interval_of(alone, metric, chance, alone.estimate(metric, chance))
        line: dict[str, Any] = {
            "submission": one, "value": cell.mean(metric),
            "low": max(low + chance, least), "high": high + chance, "standing": "apart",
        }  # fmt: skip
        pair = Comparison("a-b", leader, cell)
        if place == 0:
            line["standing"] = "leader"
        elif pair.seeds and _has_draws(cell, usual):
            found = pair.estimate(metric, chance)
            ends = found.interval()
            line |= {"standing": "open", "behind": found.mean}
            line |= {"behind_low": ends[0], "behind_high": ends[1]}
            if _may_be_claimed(pair):
                line |= {"standing": "tied", "p": found.p_value()}
        lines.append(line)
    # The leader was chosen among all entries, also among those that no claim is made about.
    corrected = against_leader(np.array([line.get("p", 1.0) for line in lines[1:]]))
    for line, p in zip(lines[1:], corrected, strict=True):
        if "p" in line:
            line["p_adjusted"] = float(p)
            # On the draws of both, whoever has the higher mean of all its own may come second.
            if p < LEVEL and line["behind"] > 0:
                line["standing"] = "behind"
    return lines


def _may_be_claimed(pair: Comparison) -> bool:
    """Whether there are draws enough on both sides, as for a bold number of `bench.comparisons`."""
    assert pair.b is not None
    if pair.is_about_this_pool or pair.overlap > LARGEST_OVERLAP:
        return False
    common = set(pair.seeds or ())
    return all(
        not cell.is_drawn or len(common.intersection(cell.seeds)) >= ENOUGH_DRAWS
        for cell in (pair.a, pair.b)
    )


#: A page with more is refused: 200 entries take a quarter of it.
MAX_PAGE_BYTES = 3 * 2**20


def leaderboard_page(found: Sequence[Board], *, title: str = "Leaderboard") -> str:
    """Return boards as one HTML page that needs no network and no other file.

    Raises
    ------
    SubmissionError
        If it would have more than `MAX_PAGE_BYTES`.
    MissingPackageError
        If jinja2 is missing.
    """
    with needs_extra("The page of a leaderboard"):
        import jinja2  # noqa: F401
    from bench.report.page import render

    html = render(
        "leaderboard.html",
        {
            "title": title,
            "boards": [{"board": board, "rows": _page_rows(board)} for board in found],
            "level": f"{100 * LEVEL:g} %",
        },
    )
    size = len(html.encode("utf-8"))
    if size > MAX_PAGE_BYTES:
        n = sum(len(board.lines) for board in found)
        raise SubmissionError(
            f"The page of {n:,} entries would have {size / 2**20:.1f} MiB; at most "
            f"{MAX_PAGE_BYTES / 2**20:.0f} are written. Put fewer submissions into the folder."
        )
    return html


def _page_rows(board: Board) -> list[dict[str, Any]]:
    """Return the cells of a board's table, and where its intervals are drawn, in percent."""
    top = max(line.high for line in board.lines) or 1.0
    low = min(0.0, *(line.low for line in board.lines))
    rows = []
    for place, line in enumerate(board.lines, start=1):
        one, metric = line.submission, board.asked["metric"]
        at = [100 * (x - low) / (top - low) for x in (line.low, line.value, line.high)]
        known = line.behind is not None
        rows.append(
            {
                "line": line,
                "place": place,
                "value": value_text(metric, line.value),
                "interval": f"{value_text(metric, line.low)} to {value_text(metric, line.high)}",
                "bar": {"low": f"{at[0]:.2f}", "mean": f"{at[1]:.2f}",
                        "width": f"{at[2] - at[0]:.2f}"},
                "behind": signed_text(-line.behind) if line.behind is not None else "",
                "behind_interval": (
                    interval_text(-(line.behind_high or 0.0), -(line.behind_low or 0.0))
                    if known else ""
                ),
                "p": p_text(line.p_adjusted) if line.p_adjusted is not None else "",
                "draws": len(one.document["draws"]),
                "date": one.finished[:10],
                "facts": entry_facts(one),
                "revisions": sorted(one.document["revisions"].items()),
                "earlier": [
                    (date[:10], value_text(metric, value), digest[:12])
                    for date, value, digest in line.earlier
                ],
            }
        )  # fmt: skip
    return rows


def entry_facts(one: Submission) -> list[tuple[str, str]]:
    """Return what an entry was, as (name, text): encoders, settings, versions, digest."""
    entry = one.document["entry"]
    sets = [(role, set_name(f"{role}_set", entry[role])) for role in _SETS if role in entry]
    return [
        ("method", method_title(entry["method"])),
        ("fitted on", f"{entry['source']}, {entry['n_pairs']} real pairs"),
        *((role.replace("_", " "), name) for role, name in sets),
        *((name, str(value)) for name, value in sorted(entry["settings"].items())),
        ("code", one.document["origin"] or f"headstock {one.document['code']}"),
        ("versions", ", ".join(f"{k} {v}" for k, v in sorted(one.document["versions"].items()))),
        ("digest", str(one.document["digest"])),
    ]
