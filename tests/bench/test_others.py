"""Results of other tools: miniatures of their files, against t tests, by hand, and damaged."""

import csv
import itertools
import json
import re

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_1samp, ttest_rel

from bench.cli.results import leaderboard_command
from bench.errors import SubmissionError
from bench.leaderboard import leaderboard_page
from bench.others import other_boards
from bench.statistics import compare


def standings(board):
    return {line.submission.name: line.standing for line in board.lines}


def values(board):
    return {line.submission.name: line.value for line in board.lines}


# mteb: results/<org__model>/<revision>/<Task>.json, beside a model_meta.json.


def mteb_task(name, scores):
    """A result file as mteb 1.11 and later write it: a main score for each subset."""
    return {
        "dataset_revision": "0fd18e25b25c072e09e0d91ab615fda904d66300",
        "evaluation_time": 12.5,
        "kg_co2_emissions": None,
        "mteb_version": "1.14.19",
        "scores": {
            "test": [
                {
                    "accuracy": score, "f1": score - 0.01, "main_score": score,
                    "hf_subset": subset, "languages": ["eng-Latn"],
                    "scores_per_experiment": [{"accuracy": score, "f1": score - 0.01}],
                }
                for subset, score in scores.items()
            ]
        },
        "task_name": name,
    }  # fmt: skip


def write_mteb(root, model, tasks):
    folder = root / model.replace("/", "__") / ("8b3219a9" * 5)
    folder.mkdir(parents=True)
    for task in tasks:
        (folder / f"{task['task_name']}.json").write_text(json.dumps(task))
    (folder / "model_meta.json").write_text(json.dumps({"name": model}))


GOOD = [0.71, 0.55, 0.83, 0.62, 0.48, 0.77]
WORSE = [0.69, 0.52, 0.82, 0.57, 0.46, 0.73]


@pytest.fixture
def mteb(tmp_path):
    root = tmp_path / "results"
    for model, scores in (("s/good", GOOD), ("s/worse", WORSE)):
        tasks = [mteb_task(f"Task{i}", {"default": s}) for i, s in enumerate(scores)]
        # The mean over the languages of a task is its score.
        tasks[0] = mteb_task("Task0", {"en": scores[0] + 0.1, "de": scores[0] - 0.1})
        write_mteb(root, model, tasks)
    return root


def test_tasks_of_mteb_are_units_of_a_paired_t_test(mteb):
    (board,) = other_boards(mteb, "mteb")
    assert values(board) == pytest.approx({"s/good": np.mean(GOOD), "s/worse": np.mean(WORSE)})
    line = board.lines[1]
    t = ttest_rel(GOOD, WORSE)
    assert (line.p, line.p_adjusted) == pytest.approx((t.pvalue, t.pvalue))
    assert (line.behind_low, line.behind_high) == pytest.approx(tuple(t.confidence_interval()))
    assert line.standing == "behind"
    assert "other tasks of this kind" in board.question
    assert "better on any one task" in board.question
    half = (t.confidence_interval().high - t.confidence_interval().low) / 2
    assert f"No lead below {100 * half:.1f} points" in board.question


def test_an_entry_with_few_of_the_tasks_stands_apart_and_cannot_lead(mteb):
    write_mteb(mteb, "s/one-trick", [mteb_task("Task1", {"default": 0.999})])
    (board,) = other_boards(mteb, "mteb")
    assert [*standings(board).values()] == ["leader", "behind", "apart"]
    assert board.lines[-1].p is None


# lm-evaluation-harness: <out>/<model>/results_<time>.json and samples_<task>_<time>.jsonl.

TIME = "2025-02-03T04-05-06.123456"


def lm_results(scores):
    """A results file: metrics by ``name,filter``, with groups and the direction of each metric."""
    return {
        "results": {
            task: {"alias": task, **own, **{k.replace(",", "_stderr,"): 0.01 for k in own}}
            for task, own in scores.items()
        },
        "group_subtasks": {task: [] for task in scores},
        "configs": {task: {"task": task, "num_fewshot": 0} for task in scores},
        "higher_is_better": {
            task: {name.split(",")[0]: True for name in own} for task, own in scores.items()
        },
        "n-samples": {task: {"original": 4, "effective": 4} for task in scores},
        "config": {"model": "hf", "model_args": "pretrained=org/model"},
    }  # fmt: skip


def lm_sample(doc_id, *, filtered="none", digest=None, **metrics):
    return {
        "doc_id": doc_id, "doc": {"question": f"q{doc_id}"}, "target": "A",
        "arguments": {"gen_args_0": {"arg_0": f"q{doc_id}", "arg_1": " A"}},
        "resps": [[["-1.5", "True"]]], "filtered_resps": [["-1.5", "True"]], "filter": filtered,
        "metrics": list(metrics), "doc_hash": digest or f"{doc_id:064x}", "prompt_hash": "0" * 64,
        "target_hash": "1" * 64, **metrics,
    }  # fmt: skip


def write_lm(root, model, document, samples=(), time=TIME):
    folder = root / model.replace("/", "__")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"results_{time}.json").write_text(json.dumps(document | {"model_name": model}))
    for task, lines in dict(samples).items():
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"samples_{task}_{time}.jsonl").write_text(text)


def test_a_group_stands_for_its_tasks_and_a_loss_is_no_score(tmp_path):
    for model, more in (("org/a", 0.1), ("org/b", 0.0)):
        scores = {
            "hellaswag": {"acc,none": 0.4 + more, "acc_norm,none": 0.6 + more},
            "gsm8k": {"exact_match,strict-match": 0.2 + more, "exact_match,flexible-extract": 0.3},
            "mmlu": {"acc,none": 0.5 + more},
            "mmlu_law": {"acc,none": 0.9},
            "wikitext": {"word_perplexity,none": 0.9},
        }
        document = lm_results(scores)
        document["group_subtasks"] = {"mmlu": ["mmlu_law"]}
        document["higher_is_better"]["wikitext"]["word_perplexity"] = False
        write_lm(tmp_path, model, document)
    (board,) = other_boards(tmp_path, "lm-eval")
    assert values(board) == pytest.approx(
        {"org/a": np.mean([0.7, 0.3, 0.6]), "org/b": np.mean([0.6, 0.2, 0.5])}
    )
    (by_acc,) = other_boards(tmp_path, "lm-eval", "acc")
    assert values(by_acc) == pytest.approx(
        {"org/a": np.mean([0.5, 0.6]), "org/b": np.mean([0.4, 0.5])}
    )


def test_items_pair_by_document_and_the_latest_run_counts(tmp_path, rng):
    hits = {model: rng.integers(0, 2, 40) for model in ("org/a", "org/b")}
    for model, own in hits.items():
        document = lm_results({"gsm8k": {"exact_match,strict-match": float(own.mean())}})
        lines = [
            lm_sample(i, filtered=name, exact_match=float(hit == (name == "strict-match")))
            for i, hit in enumerate(own) for name in ("strict-match", "flexible-extract")
        ]  # fmt: skip
        write_lm(tmp_path, model, document, {"gsm8k": lines[::-1]})
        older = [lm_sample(i, filtered="strict-match", exact_match=1.0) for i in range(40)]
        write_lm(tmp_path, model, document, {"gsm8k": older}, time="2024-02-03T04-05-06.123456")
    (board,) = other_boards(tmp_path, "lm-eval")
    assert board.title == "40 items of gsm8k, acc_norm or first"
    a, b = (hits[line.submission.name] for line in board.lines)
    expected = compare(a, b)
    line = board.lines[1]
    assert (line.behind, line.p) == pytest.approx((expected.mean, expected.p_value()))
    assert "other items of this task" in board.question
    assert "another task" in board.question
    # A document that changed between two runs is another item.
    moved = [
        lm_sample(i, filtered="strict-match", digest="9" * 64, exact_match=1.0) for i in range(40)
    ]
    write_lm(tmp_path, "org/b", document, {"gsm8k": moved}, time="2026-02-03T04-05-06.123456")
    (board,) = other_boards(tmp_path, "lm-eval")
    assert sorted(standings(board).values()) == ["apart", "leader"]


# CSV


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_items_in_clusters_and_draws_have_the_two_term_interval(tmp_path, rng):
    rows = [
        {"entry": entry, "item": f"i{i}", "cluster": f"c{i // 3}", "draw": d,
         "value": round(float(rng.random()) + 0.0 * d, 6) / (1 + (entry == "b"))}
        for entry in "ab" for d in range(10) for i in range(30)
    ]  # fmt: skip
    (board,) = other_boards(write_csv(tmp_path / "s.csv", rows), "csv")
    a, b = ([row for row in rows if row["entry"] == entry] for entry in "ab")
    expected = compare(
        *([row["value"] for row in own] for own in (a, b)),
        clusters=[row["cluster"] for row in a], draws=[row["draw"] for row in a],
    )  # fmt: skip
    line = board.lines[1]
    assert (line.behind, line.p) == pytest.approx((expected.mean, expected.p_value()))
    assert "The 10 draws count" in board.question
    assert "10 clusters" in board.question
    # Fewer than ten draws are no claim, as on the project's own boards.
    few = write_csv(tmp_path / "few.csv", [row for row in rows if row["draw"] < 9])
    assert standings(other_boards(few, "csv")[0]) == {"a": "leader", "b": "open"}


def test_items_of_several_tasks_give_a_board_of_tasks_and_one_of_each(tmp_path, rng):
    rows = [
        {"entry": e, "task": f"t{t}", "item": i, "score": int(rng.random() < 0.5)}
        for e in "abc" for t in range(3) for i in range(20)
    ]  # fmt: skip
    tasks, *items = other_boards(write_csv(tmp_path / "s.csv", rows), "csv", "score")
    assert tasks.title == "3 tasks, score"
    assert [board.title for board in items] == [f"20 items of t{t}, score" for t in range(3)]
    for name, value in values(tasks).items():
        assert value == pytest.approx(np.mean([values(board)[name] for board in items]))
    # Hits have an interval of a share; of three tasks a t interval passes its ends, and is cut.
    for board in (tasks, *items):
        assert all(0 <= line.low <= line.high <= 1 for line in board.lines)
    three = (("x", 0.9), ("y", 1), ("z", 0.6))
    one = [{"entry": e, "task": t, "score": s} for e in "ab" for t, s in three]
    (cut,) = other_boards(write_csv(tmp_path / "o.csv", one), "csv", "score")
    low, high = ttest_1samp([0.9, 1, 0.6], 0).confidence_interval()
    assert (cut.lines[0].low, cut.lines[0].high) == (pytest.approx(low), 1.0)
    assert high > 1
    assert "where no score can lie" in cut.question


@given(shift=st.floats(-0.3, 0.3), seed=st.integers(0, 99))
@settings(
    max_examples=10, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_the_order_of_files_and_a_common_shift_change_no_gap(tmp_path, shift, seed):
    own = np.random.default_rng(seed).uniform(-0.5, 0.5, (3, 8)).round(3)
    rows = [
        {"entry": f"e{e}", "task": f"t{t}", "value": own[e, t]} for e in range(3) for t in range(8)
    ]
    (board,) = other_boards(write_csv(tmp_path / "a.csv", rows), "csv")
    moved = [row | {"value": row["value"] + shift} for row in rows[::-1]]
    (other,) = other_boards(write_csv(tmp_path / "b.csv", moved), "csv")
    assert standings(board) == standings(other)
    gaps = [[line.behind for line in one.lines[1:]] for one in (board, other)]
    assert gaps[0] == pytest.approx(gaps[1], abs=1e-9)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model,t1\na,1\n", "needs the columns 'entry'.*unpivot"),
        ("entry,task,value\na,t,x\n", "a number 'value' in every line.*x"),
        ("entry,task,value\na,t,57.1\nb,t,60\n", "divide percent by 100"),
        ("entry,task,value\na,t,\nb,t,0.6\n", "is None. Scores are shares"),
        ("entry,task,value\na,t,0.5\na,t,0.6\n", "'a' on 't', is there twice"),
        ("entry,task,value\na,t,0.5\nb,t,0.6\n", "one score an entry.*scores of its items"),
        ("entry,task,value\n", "holds no score"),
        ("entry,task,value\n,t,0.5\n", "of a named entry"),
    ],
)
def test_a_csv_that_cannot_be_ranked_says_why(tmp_path, text, said):
    path = tmp_path / "s.csv"
    path.write_text(text)
    with pytest.raises(SubmissionError, match=said):
        other_boards(path, "csv")


@pytest.mark.parametrize("tool", ["mteb", "lm-eval"])
@pytest.mark.parametrize("damage", ["{", "[]", "{}", "null", '{"scores": 1, "results": {"a": 3}}'])
def test_a_damaged_file_is_named(tmp_path, tool, damage):
    if tool == "mteb":
        write_mteb(tmp_path, "a", [mteb_task(f"Task{i}", {"en": 0.4}) for i in range(3)])
    else:
        write_lm(tmp_path, "a", lm_results({"a": {"acc,none": 0.5}, "b": {"acc,none": 0.6}}))
    next(tmp_path.rglob("Task2.json" if tool == "mteb" else "results*.json")).write_text(damage)
    with pytest.raises(SubmissionError, match=re.escape(str(tmp_path))):
        other_boards(tmp_path, tool)


def test_the_command_prints_the_question_and_writes_the_page(mteb, tmp_path):
    run = CliRunner().invoke
    said = run(leaderboard_command, [str(mteb), "--from", "mteb"]).stdout
    assert "Question: would the order be the same on other tasks" in " ".join(said.split())
    shown = json.loads(run(leaderboard_command, [str(mteb), "--from", "mteb", "--json"]).stdout)
    assert [one["standing"] for one in shown[0]["entries"]] == ["leader", "behind"]
    assert shown[0]["question"].startswith("Question:")
    page = leaderboard_page(other_boards(mteb, "mteb"))
    assert "Not decided: which entry is better on any one task" in page
    assert "image encoder" not in page
    assert run(leaderboard_command, [str(mteb), "--metric", "f1"]).exit_code == 2


def test_the_command_takes_every_form(mteb, tmp_path):
    """Each as its tool writes it; no form reads another's files."""
    tasks = {f"task{n}": {"acc,none": n / 9} for n in range(3)}
    write_lm(tmp_path / "lm", "m", lm_results(tasks))
    rows = [{"entry": "e", "task": task, "value": 0.25} for task in tasks]
    write_csv(tmp_path / "scores.csv", rows)
    places = {"mteb": mteb, "lm-eval": tmp_path / "lm", "csv": tmp_path / "scores.csv"}
    for tool, place in itertools.product(places, repeat=2):
        words = [str(places[place]), "--from", tool, "--json"]
        assert (CliRunner().invoke(leaderboard_command, words).exit_code == 0) == (tool == place)
