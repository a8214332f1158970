"""Results of other tools as boards: which of their gaps are noise, and for which question.

A *reader* is a class that turns the files of one tool into rows of `SCHEMA`: a score of an entry on
a task, or on one item of a task. Rows with items make a board a task, whose units are the items.
Two tasks or more make a board whose units are the tasks. The two answer different questions, and a
board says which (`Board.question`). Every entry is compared with the leader by
`bench.statistics.two_term` on the same units, and p is corrected by `against_leader`, as for the
project's own submissions (`bench.leaderboard`).
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from bench.comparisons import LEVEL
from bench.errors import SubmissionError
from bench.leaderboard import MOST_BYTES, Board, Gap, Submission, ranked
from bench.statistics import (
    ENOUGH_DRAWS,
    DrawSums,
    Estimate,
    proportion_interval,
    two_term,
)
from featstore.durable import parse_json, read_json, read_regular
from featstore.errors import FeatstoreError, listed, lookup
from featstore.identity import SHORT, canonical_json, sha256_hex

#: One score. `item` is empty where the score is of the whole task, `cluster` where units share
#: nothing; `draw` is the same where nothing was drawn.
SCHEMA: dict[str, Any] = {
    "entry": pl.String, "task": pl.String, "item": pl.String, "cluster": pl.String,
    "draw": pl.String, "value": pl.Float64,
}  # fmt: skip

#: What a file of scores by item may hold: 16 times as much as a submission.
MOST_TEXT = 16 * MOST_BYTES

Scores = Iterator[dict[str, Any]]


class Reader(ABC):
    """Reads the results of one tool.

    Attributes
    ----------
    metric : str
        What is ranked by, unless another is asked for.
    """

    metric: ClassVar[str]

    @abstractmethod
    def scores(self, place: Path, metric: str) -> Scores:
        """Yield rows of `SCHEMA`; a column that a row lacks is empty.

        Raises
        ------
        SubmissionError
            If a file is not one of the tool's.
        """


class Mteb(Reader):
    """A results folder of MTEB: ``MODEL/REVISION/TASK.json``, as mteb 1.11 and later write it.

    A task's score is the mean over its splits and language subsets. Both, and the revision of its
    data, are part of what the task is, so that only like is compared with like.
    """

    metric = "main_score"

    def scores(self, place: Path, metric: str) -> Scores:
        """Yield one row a task of each model, by ``name@revision`` where it has several."""
        paths = [path for path in _files(place, "*.json") if path.name != "model_meta.json"]
        names = {path.parent: path.parent.parent.name.replace("__", "/") for path in paths}
        several = {name for name, n in Counter(names.values()).items() if n > 1}
        for path in paths:
            with _reading(path, "result of mteb 1.11 or later"):
                document = read_json(path, limit=MOST_BYTES)
                subsets = {
                    f"{split}/{one['hf_subset']}": float(one[metric])
                    for split, parts in document["scores"].items()
                    for one in parts
                    if metric in one
                }
                data = f"{document['dataset_revision']} {' '.join(sorted(subsets))}"
                task = f"{document['task_name']} ({sha256_hex(data.encode())[:6]})"
            name = names[path.parent]
            entry = f"{name}@{path.parent.name[:SHORT]}" if name in several else name
            if subsets:
                yield {"entry": entry, "task": task, "value": sum(subsets.values()) / len(subsets)}


class LmEval(Reader):
    """Output of lm-evaluation-harness: ``MODEL/results_*.json``, ``MODEL/samples_*.jsonl``.

    Of one model and task the latest file counts. A score of a group stands for its tasks. Where
    ``higher_is_better`` is false a metric is not read. Items pair by ``doc_id`` and ``doc_hash``.
    """

    metric = "acc_norm or first"

    def scores(self, place: Path, metric: str) -> Scores:
        """Yield one row a task of each model, and one an item of those with samples."""
        latest: dict[tuple[Path, str], tuple[str, float]] = {}
        for path in _files(place, "results*.json"):
            with _reading(path, "results of lm-evaluation-harness 0.4 or later"):
                own = self._of(read_json(path, limit=MOST_BYTES), metric)
                latest |= {(path.parent, task): score for task, score in own.items()}
        samples: dict[tuple[Path, str], Path] = {}
        for path in sorted(place.rglob("samples_*.jsonl")):
            task = re.sub(r"_\d{4}-\d\d-\d\dT[\d.:-]+$", "", path.stem.removeprefix("samples_"))
            samples[path.parent, task] = path
        for (folder, task), (key, value) in latest.items():
            row = {"entry": folder.name.replace("__", "/"), "task": task}
            yield {**row, "value": value}
            if (folder, task) in samples:
                yield from self._items(samples[folder, task], row, *key.partition(",")[::2])

    def _of(self, document: Mapping[str, Any], metric: str) -> dict[str, tuple[str, float]]:
        """Return metric and value of every task that no group stands for."""
        better, found = document.get("higher_is_better", {}), dict[str, tuple[str, float]]()
        for task, own in document["results"].items():
            scores = {
                name.removesuffix(",none"): float(value)
                for name, value in own.items()
                if "," in name and "_stderr" not in name and not isinstance(value, str)
                and better.get(task, {}).get(name.partition(",")[0], True)
            }  # fmt: skip
            wanted = ["acc_norm", *scores] if metric == self.metric else [metric]
            found |= [(task, (name, scores[name])) for name in wanted if name in scores][:1]
        groups = document.get("group_subtasks", {})
        inside = {task for group, tasks in groups.items() if group in found for task in tasks}
        return {task: score for task, score in found.items() if task not in inside}

    @staticmethod
    def _items(path: Path, row: Mapping[str, Any], metric: str, of_filter: str) -> Scores:
        with _reading(path, "samples of lm-evaluation-harness 0.4 or later"):
            for line in read_regular(path, limit=MOST_TEXT).splitlines():
                one = parse_json(line, where=str(path))
                if one.get("filter", "none") == (of_filter or "none"):
                    item = f"{one['doc_id']} {str(one.get('doc_hash', ''))[:SHORT]}"
                    yield {**row, "item": item, "value": float(one[metric])}


class Csv(Reader):
    """A CSV file of columns entry, task or item or both, and value; draw and cluster if there are.

    Another column than ``value`` is named as the metric.
    """

    metric = "value"

    def scores(self, place: Path, metric: str) -> Scores:
        """Yield the lines of the file."""
        with _reading(place, f"CSV table with a number {metric!r} in every line"):
            table = pl.read_csv(read_regular(place, limit=MOST_TEXT), infer_schema=False)
            if not {"entry", metric} <= {*table.columns} or not {"task", "item"} & {*table.columns}:
                raise SubmissionError(
                    f"{place} needs the columns 'entry', 'task' or 'item', and {metric!r}; it has "
                    f"{listed(table.columns)}. Bring a table of one column a task into that form "
                    "first (polars: DataFrame.unpivot)."
                )
            own = [name for name in SCHEMA if name in table.columns and name != "value"]
            values = table[metric].cast(pl.Float64)
        for row in table.select(*own, value=values).iter_rows(named=True):
            yield {"task": "all items", **row}


#: Tool -> class that reads its results.
READERS: dict[str, type[Reader]] = {"mteb": Mteb, "lm-eval": LmEval, "csv": Csv}


#: What the intervals of a board answer, by its units, and what they do not.
_ANSWERS = {
    "tasks": (
        "Question: would the order be the same on other tasks of this kind, each counting alike?",
        "Not decided: which entry is better on any one task, as scores of items are not used here;",
    ),
    "items": (
        "Question: would the order be the same on other items of this task?",
        "Not decided: whether it is the same on another task;",
    ),
}


def other_boards(place: Path, tool: str, metric: str | None = None) -> list[Board]:
    r"""Return the boards of another tool's results: over its tasks first, then over items.

    Parameters
    ----------
    place : Path
        Folder or file, as the tool writes it.
    tool : str
        Key of `READERS`.
    metric : str, optional
        What is ranked by; higher is better, from -1 to 1.

    Raises
    ------
    SubmissionError
        If nothing can be read or compared. The message names the file.

    Examples
    --------
    >>> from pathlib import Path
    >>> lines = [f"{e},t{t},{0.5 + t / 90 + (e == 'b') / 9}" for e in "ab" for t in range(9)]
    >>> _ = Path("scores.csv").write_text("\n".join(["entry,task,value", *lines]))
    >>> (board,) = other_boards(Path("scores.csv"), "csv")
    >>> [(line.submission.name, line.standing) for line in board.lines]
    [('b', 'leader'), ('a', 'behind')]
    """
    reader = lookup(READERS, tool, what="tool", error=SubmissionError)()
    if not place.exists():
        raise SubmissionError(f"{place} does not exist. Name a folder or file of {tool}'s results.")
    metric = metric or reader.metric
    rows = pl.DataFrame(reader.scores(place, metric), SCHEMA)
    rows = rows.with_columns(pl.col("draw").fill_null(""))
    _check(rows, place, metric)
    whole = pl.col("item").is_null()
    # A task's own score counts, and where there is none the mean over its items.
    tasks = rows.group_by("entry", "task", "draw", maintain_order=True).agg(
        pl.col("cluster").filter(whole).first(),
        value=pl.when(whole.any())
        .then(pl.col("value").filter(whole).mean())
        .otherwise(pl.col("value").mean()),
    )
    found = []
    if tasks["task"].n_unique() > 1:
        found.append(_board(tasks.rename({"task": "unit"}), "tasks", "tasks", metric))
    for (task,), own in rows.filter(~whole).group_by("task", maintain_order=True):
        found.append(_board(own.rename({"item": "unit"}), "items", f"items of {task}", metric))
    if not found:
        raise SubmissionError(
            f"{place} holds one score an entry, of task {rows['task'][0]!r}. How certain a "
            "difference is cannot be known from it: give the scores of its items, or more tasks."
        )
    return found


def _check(rows: pl.DataFrame, place: Path, metric: str) -> None:
    """Raise unless every row has a score from -1 to 1, once."""
    if rows.is_empty():
        raise SubmissionError(f"{place} holds no score {metric!r}. Name another by `metric=`.")
    lost = pl.any_horizontal(pl.col("entry", "value").is_null())
    odd = rows.filter(~pl.col("value").is_between(-1, 1) | lost)
    twice = rows.filter(rows.select("entry", "task", "item", "draw").is_duplicated())
    for entry, task, item, _, _, value in (*odd.iter_rows(), *twice.iter_rows()):
        where = f"{place}: {metric} of {entry!r} on {task!r}{f', item {item!r}' if item else ''}"
        raise SubmissionError(
            f"{where}, is {value}. Scores are shares from -1 to 1, of a named entry: divide "
            "percent by 100, or name another by `metric=`."
            if odd.height else f"{where}, is there twice in one draw. Leave one of them out."
        )  # fmt: skip


def _board(rows: pl.DataFrame, kind: str, units: str, metric: str) -> Board:
    """Return the board of rows of entry, unit, cluster, draw and value."""
    rows = rows.with_columns(pl.col("cluster").fill_null(pl.col("unit")))
    of_entry = {
        str(name): set(own.select("draw", "cluster", "unit").iter_rows())
        for (name,), own in rows.group_by("entry", maintain_order=True)
    }
    kept = _comparable(of_entry)
    common = set.intersection(*(of_entry[name] for name in kept))
    known = pl.DataFrame(sorted(common), ["draw", "cluster", "unit"], orient="row")
    sums = {}
    for name in of_entry:
        own = rows.filter(entry=name)
        own = own.join(known, on=known.columns, how="semi") if name in kept else own
        sums[name] = DrawSums.of(*(own[what].to_numpy() for what in ("value", "draw", "cluster")))
    order = sorted(of_entry, key=lambda name: (name not in kept, -sums[name].mean, name))
    lead = {name: two_term(sums[order[0]] - sums[name]) for name in order[1:] if name in kept}
    are_hits = rows["value"].is_in([0.0, 1.0]).all()
    # No mean of scores lies where no score does: what is cut off takes no coverage.
    bounds = (0.0 if (rows["value"] >= 0).all() else -1.0, 1.0)
    entries = []
    for name in order:
        one = sums[name]
        low, high = proportion_interval(one) if are_hits else two_term(one).interval()
        digest = sha256_hex(one.total.tobytes())
        ends = max(low, bounds[0]), min(high, bounds[1])
        entries.append((Submission({"name": name, "digest": digest}), one.mean, ends))
    n = {what: len({one[i] for one in common}) for i, what in enumerate(("draw", "cluster", kind))}
    asked = {"images": f"{n[kind]:,} {units}", "metric": metric, "draws": n["draw"]}
    asked |= dict.fromkeys(("direction", "eval", "options"), "")
    few = 1 < n["draw"] < ENOUGH_DRAWS
    gaps: dict[str, Gap] = {
        name: (found.mean, found.interval(), None if few else found.p_value())
        for name, found in lead.items()
    }
    question = _question(
        kind, n, lead, left_out=len(set.union(*of_entry.values()) - common),
        is_cut=not are_hits and any(end in bounds for _, _, ends in entries for end in ends),
    )  # fmt: skip
    return Board(sha256_hex(canonical_json(asked))[:SHORT], asked, ranked(entries, gaps), question)


def _comparable(of_entry: Mapping[str, set[Any]]) -> list[str]:
    """Return the entries that share at least half of the units of the one that has most."""
    kept = sorted(of_entry, key=lambda name: (-len(of_entry[name]), name))
    while 2 * len(set.intersection(*map(of_entry.__getitem__, kept))) < len(of_entry[kept[0]]):
        kept.pop()
    return kept


def _question(
    kind: str, n: Mapping[str, int], lead: Mapping[str, Estimate], *, left_out: int, is_cut: bool
) -> str:
    """Return which question a board answers, and what it cannot decide."""
    asked, undecided = _ANSWERS[kind]
    pairs = len(lead) * (len(lead) + 1) / 2
    ends = [found.interval(1.0 - LEVEL / pairs) for found in lead.values()]
    least = min(((high - low) / 2 for low, high in ends), default=math.inf)
    words = {
        asked: True,
        f"Left out: {left_out:,} {kind} that not all compared entries have.": left_out,
        f"The {n['draw']} draws count as a sample too.": n["draw"] > 1,
        f"The {kind} lie in {n['cluster']:,} clusters, the sample.": n["cluster"] < n[kind],
        f"{undecided} nor whether another training or seed would change an entry.": True,
        f"No lead below {100 * least:.1f} points could be shown here.": math.isfinite(least),
        "Intervals end where no score can lie, at 0 (or -100) and 100 %.": is_cut,
    }
    return " ".join(text for text, holds in words.items() if holds)


def _files(place: Path, pattern: str) -> list[Path]:
    found = sorted(place.rglob(pattern), key=lambda path: (path.name, str(path)))
    if not found:
        raise SubmissionError(f"{place} holds no file {pattern}, or is no folder.")
    return found


@contextmanager
def _reading(path: Path, what: str) -> Iterator[None]:
    """Turn what a document lacks into an error that names its file."""
    try:
        yield
    except SubmissionError:
        raise
    except (FeatstoreError, OSError, LookupError, TypeError, ValueError, ArithmeticError,
            AttributeError, pl.exceptions.PolarsError) as err:  # fmt: skip
        reason = f"{type(err).__name__}, {' '.join(str(err).split())[:200]}"
        raise SubmissionError(f"{path} holds no {what}: {reason}.") from err
