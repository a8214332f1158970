"""Submissions and boards: by hand, against comparisons, and with all that can be wrong."""

import copy
import json
import re
from datetime import UTC, datetime

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench import comparisons, leaderboard
from bench.cli.results import leaderboard_command, submit_command
from bench.comparisons import compare_choices
from bench.errors import SubmissionError
from bench.leaderboard import Submission, boards, check, leaderboard_page, pack, read_submission
from bench.statistics import against_leader
from featstore.durable import json_bytes


@pytest.fixture(scope="module")
def sent(smoke_results):
    """Four entries of one board."""
    cells = ("ridge/head/0", "conse/head/0", "ridge/random/0", "ridge/shuffled/0")
    return [pack(f"{smoke_results}:{cell}", name=cell) for cell in cells]


def resealed(document):
    """A changed document with the digest of what it now holds."""
    return {**document, "digest": leaderboard._digest(document)}


def entry(name, totals, *, finished="2026-01-02T03:04:05Z", like, seeds=None, counts=None):
    """A submission with these sums: a list of a draw's clusters."""
    counts = counts or [10] * len(totals[0])
    done = datetime.strptime(finished, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
    fixed = like.first | {"n_images_fitted": 0, "chance": 0.01, "finished_at": done}
    rows, sums = [], []
    for seed, total in zip(seeds or range(len(totals)), totals, strict=True):
        run_id = f"{seed:064x}"
        n = sum(counts)
        rows.append(
            fixed | {"run_id": run_id, "seed": seed, "value": sum(total) / n, "n_queries": n}
        )
        sums += [
            (run_id, "0" * 16, f"c{i:03}", count, float(hits))
            for i, (count, hits) in enumerate(zip(counts, total, strict=True))
        ]
    return sealed(like, name=name, rows=rows, sums=sums)


def sealed(like, *, rows=None, sums=None, **words):
    """A submission with other rows, sums (as tuples) and words, and the digest of them."""
    document = copy.deepcopy(dict(like.document)) | words
    if rows is not None:
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        document["rows"] = {k: v for k, v in columns.items() if any(x is not None for x in v)}
    if sums is not None:
        document["sums"] = dict(
            zip(leaderboard._SUMS, map(list, zip(*sums, strict=True)), strict=True)
        )
    return Submission(resealed(document))


def changed(document, part, name, change):
    """A document in which one column of its rows or sums is changed."""
    columns = {**document[part], name: change(list(document[part][name]))}
    return resealed({**document, part: columns})


def test_a_submission_survives_its_file_and_agrees_with_compare(
    smoke_results, sent, tmp_path, monkeypatch
):
    monkeypatch.setattr(comparisons, "ENOUGH_DRAWS", 2)
    path = tmp_path / "one.json"
    path.write_bytes(json_bytes(sent[0].document))
    read = read_submission(path)
    assert read.document == sent[0].document
    sides = [f"{smoke_results}:{cell}/head/0" for cell in ("ridge", "conse")]
    asked = {name: read.asked[name] for name in ("eval", "direction", "metric")}
    (theirs,) = compare_choices(*sides, metrics=["top-1"]).filter(**asked).to_dicts()
    leader, other = boards([read, sent[1]])[0].lines
    sign = 1 if leader.submission.name == "ridge/head/0" else -1
    assert other.behind == pytest.approx(sign * theirs["difference"], abs=1e-12)
    low, high = sorted(sign * theirs[end] for end in ("low", "high"))
    assert (other.behind_low, other.behind_high) == pytest.approx((low, high), abs=1e-12)
    assert other.p == pytest.approx(theirs["p"], abs=1e-12)
    assert sorted([other.value, leader.value]) == pytest.approx(sorted([theirs["a"], theirs["b"]]))


def test_a_board_by_hand(sent):
    """Twelve clusters of ten queries, ten draws: one entry level, one clearly behind."""
    like = sent[0]
    best = entry("best", [[9, 8] * 6, [8, 9] * 6] * 5, like=like)
    level = entry("level", [[8, 9] * 6, [9, 8] * 6] * 5, like=like)
    (board,) = boards([entry("worse", [[2, 1] * 6, [1, 2] * 6] * 5, like=like), level, best])
    assert [line.submission.name for line in board.lines] == ["best", "level", "worse"]
    assert [line.value for line in board.lines] == pytest.approx([0.85, 0.85, 0.15])
    assert [line.standing for line in board.lines] == ["leader", "tied", "behind"]
    assert board.lines[1].behind == pytest.approx(0.0)
    assert board.lines[2].behind == pytest.approx(0.7)
    p = [line.p for line in board.lines[1:]]
    assert [line.p_adjusted for line in board.lines[1:]] == against_leader(np.array(p)).tolist()
    said = "it cannot be told from 1; it is above 1"
    assert board.sentence == f"best leads with 85.0 %: {said}."


def test_a_later_submission_of_a_name_replaces_the_earlier_one(sent):
    like = sent[0]
    old = entry("mine", [[9] * 5], finished="2026-01-01T00:00:00Z", like=like)
    other = entry("other", [[7] * 5], finished="2026-02-01T00:00:00Z", like=like)
    new = entry("mine", [[5] * 5], finished="2026-03-01T00:00:00Z", like=like)
    (board,) = boards([new, old, other])
    assert [line.submission.name for line in board.lines] == ["other", "mine"]
    assert board.lines[1].value == pytest.approx(0.5)


def test_entries_on_other_draws_are_not_compared_and_cannot_lead(sent):
    two = [entry(name, [[hits] * 8] * 10, like=sent[0]) for name, hits in (("a", 7), ("b", 2))]
    (board,) = boards([entry("far", [[9] * 8] * 2, like=sent[0], seeds=[998, 999]), *two])
    assert [line.submission.name for line in board.lines] == ["a", "b", "far"]
    assert [line.standing for line in board.lines] == ["leader", "behind", "apart"]
    assert (board.lines[2].p, board.lines[2].behind) == (None, None)
    assert board.sentence == "a leads with 70.0 %: it is above 1; 1 had other draws."


@pytest.mark.parametrize("draws", [1, 3, 9])
def test_too_few_draws_are_no_claim(sent, draws):
    """One lucky draw of a held-out split says nothing about another."""
    entries = [
        entry(name, [[hits, hits - 1] * 20] * n, like=sent[0])
        for name, hits, n in (("a", 9, 16), ("b", 3, draws), ("c", 2, 16))
    ]
    (board,) = boards(entries)
    assert [line.standing for line in board.lines] == ["leader", "open", "behind"]
    assert board.lines[1].p_adjusted is None
    assert board.lines[1].behind == pytest.approx(0.6)
    # The leader was chosen among three.
    assert board.lines[2].p_adjusted == against_leader(np.array([1.0, board.lines[2].p]))[1]
    (of_few,) = boards([entry("lucky", [[9, 8] * 20] * draws, like=sent[0]), *entries[1:]])
    assert [line.standing for line in of_few.lines[1:]] == ["open", "open"]


def test_the_same_queries_have_the_same_counts(sent):
    one = entry("one", [[9] * 5], like=sent[0])
    two = entry("two", [[9] * 5], like=sent[0], counts=[10, 10, 10, 10, 9])
    with pytest.raises(SubmissionError, match=r"'(one|two)' and '(one|two)' name the same"):
        boards([one, two])


def test_a_board_of_one_cluster_is_json_and_other_questions_make_other_boards(sent):
    (board,) = boards([entry(name, [[9]] * 10, like=sent[0]) for name in "ab"])
    plain = json.loads(json.dumps(board.facts(), allow_nan=False))
    assert plain["entries"][1]["behind_low"] is None
    gallery = changed(dict(sent[1].document), "rows", "gallery", lambda v: [99] * len(v))
    found = boards([sent[0], sent[2], Submission(gallery)])
    assert [len(board.lines) for board in found] == [2, 1]


def _first(value):
    return lambda values: [value, *values[1:]]


#: What is said -> what was done to a document.
DAMAGE = {
    "digest": lambda d: {**d, "versions": "better"},
    "cannot have a total": lambda d: changed(d, "sums", "total", _first(99.0)),
    "is not the mean of its sums": lambda d: changed(d, "rows", "value", _first(0.987)),
    "its sums are no table": lambda d: changed(d, "sums", "n_queries", lambda v: v[1:]),
    "its sums must be of its runs": lambda d: changed(d, "sums", "run_id", _first("x")),
    "a cluster of its sums is there twice": lambda d: changed(
        d, "sums", "cluster_id", lambda v: v[:1] * len(v)
    ),
    "one of its draws is there twice": lambda d: changed(
        d, "rows", "seed", lambda v: v[:1] * len(v)
    ),
    "of one cell": lambda d: changed(d, "rows", "method", _first("other")),
    "its rows must each have": lambda d: changed(d, "rows", "method", _first(None)),
    "of format 2": lambda d: resealed({**d, "format": 1}),
    "and no more": lambda d: resealed({**d, "commands": ["rm -rf /"]}),
    "must be an object": lambda d: resealed({k: v for k, v in d.items() if k != "sums"}),
    "its rows must be columns of": lambda d: resealed({**d, "rows": {**d["rows"], "more": [1]}}),
    "its name must be a text": lambda d: resealed({**d, "name": "a" * 200}),
    "in the future": lambda d: changed(d, "rows", "finished_at", lambda v: [4e9] * len(v)),
    "no mean over queries": lambda d: changed(
        d, "rows", "metric", lambda v: ["median_rank"] * len(v)
    ),
    "its rows are no table": lambda d: changed(d, "rows", "gallery", _first(10**30)),
    "and numbers from 0 to": lambda d: changed(d, "rows", "n_pool", _first(-1.0)),
    "must be a share": lambda d: changed(d, "rows", "chance", _first(7.0)),
}  # fmt: skip


@pytest.mark.parametrize("said", DAMAGE)
def test_what_is_wrong_with_a_file_is_said_with_its_name(sent, tmp_path, said):
    path = tmp_path / "bad.json"
    path.write_bytes(json_bytes(DAMAGE[said](dict(sent[0].document))))
    with pytest.raises(SubmissionError, match=re.escape(said)) as raised:
        read_submission(path)
    assert str(path) in str(raised.value)


def test_the_commands(smoke_results, tmp_path):
    run = CliRunner().invoke
    for cell in ("ridge/head/0", "conse/head/0"):
        out = tmp_path / "board" / f"{cell.replace('/', '-')}.json"
        found = run(
            submit_command, [f"{smoke_results}:{cell}", "--name", cell, "-o", str(out), "--json"]
        )
        assert json.loads(found.stdout)["value"] == pytest.approx(
            read_submission(out).cell.mean("top-1")
        )
    assert "leads with" in run(leaderboard_command, [str(tmp_path / "board")]).stdout
    shown = json.loads(run(leaderboard_command, [str(tmp_path / "board"), "--json"]).stdout)
    assert next(one["standing"] for one in shown[0]["entries"]) == "leader"
    (tmp_path / "none").mkdir()
    assert "headstock eval submit" in str(
        run(leaderboard_command, [str(tmp_path / "none")]).exception
    )


def _sparse(like, name, n_draws, n_clusters):
    """A submission whose draws have one cluster each, but the last, which has many of its own."""
    base = entry(name, [[9]] * n_draws, like=like)
    rows = base.rows.to_dicts()
    sums = [(run, f"{i:016x}", f"c{i}", 10, 9.0) for i, run in enumerate(base.rows["run_id"])]
    last, queries = rows[-1]["run_id"], name * 16
    sums[-1:] = [(last, queries, f"{name}{i:06}", 10, 9.0) for i in range(n_clusters)]
    rows[-1]["n_queries"] = 10 * n_clusters
    return sealed(base, rows=rows, sums=sums)


def test_what_a_small_file_unpacks_to_is_bounded(sent, monkeypatch):
    """Draws times clusters: what many sparse draws would take is refused before it is taken."""
    monkeypatch.setattr(leaderboard, "MOST_SUMS", 2**16)
    with pytest.raises(SubmissionError, match=r"draws times clusters are more than"):
        check(_sparse(sent[0], "a", 100, 1_000).document)
    pair = [_sparse(sent[0], name, 41, 900) for name in "ab"]
    for one in pair:
        check(one.document)
    with pytest.raises(SubmissionError, match=r"'[ab]' makes a board too large: 41 draws of"):
        boards(pair)


#: What somebody puts where a number, a text or a list is expected.
ODD = [
    0, 0.0, -1, 1.5, True, None, 2**53, 2**63, 10**400, -(10**400), 1e308, 5e-324, "", "x", "\x1b",
    "9" * 400, "2026-13-01T00:00:00Z", "0" * 16, [], [0.0], [10**400], [[]], {}, {"x": 10**400},
    [[[[[[[[[[]]]]]]]]]],
]  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(ODD)), min_size=1, max_size=3)
)
def test_no_submission_is_a_traceback(sent, tmp_path, changes):
    """Values anywhere in a file are replaced, and its digest is made right again."""
    document = copy.deepcopy(dict(sent[0].document))
    for place, value in changes:
        slots = list(_slots(document))
        holder, key = slots[place % len(slots)]
        holder[key] = copy.deepcopy(value)
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(resealed(document)))
    said = ""
    try:
        leaderboard_page(boards([read_submission(path), sent[1]]))
    except SubmissionError as err:
        said = str(err)
    assert len(said) < 1000
    assert "\n" not in said


def _slots(value):
    """Yield (list or dict, place) of every value below; of a list its first, and any other one."""
    for key in list(value) if isinstance(value, dict) else range(min(len(value), 2)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _slots(value[key])
