import pytest

from bench.errors import ProtocolError, UnknownSuiteError
from bench.suites.demo import create_smoke_store, demo_runs, find_sets, smoke_runs
from bench.suites.registry import SUITES, suite_named, with_texts
from bench.suites.single import Grid, sweep_runs
from featstore import open_store
from featstore.testing import write_set


def test_the_demo_is_the_protocol(smoke_store, monkeypatch):
    """On a store of the demo's shape: the cells, seeds and numbers of pairs that were agreed."""
    monkeypatch.setattr("bench.suites.demo.find_sets", lambda store, **_: find_sets(
        store, dataset="smoke", label_set="smokehead"
    ))  # fmt: skip
    runs = demo_runs(open_store(smoke_store))
    all_names = [run for run in runs if run.eval == "all-names"]
    held_out = [run for run in runs if run.eval == "held-out"]
    # Three methods and ConSE, and 19 draws of two controls for each method.
    assert len(all_names) == 4 + 3 * 2 * 19
    assert {run.task for run in all_names} == {"zero_shot"}
    assert {run.n_pairs for run in all_names} == {0}
    assert {run.seed for run in held_out} == set(range(10))
    # The synthetic store has too few images for 64 and 256.
    assert {run.n_pairs for run in held_out} == {0, 16, "all"}
    zero = [run for run in held_out if run.seed == 0 and run.task == "zero_shot"]
    # Two methods beside one draw of every control, kernel ridge beside 19 without real pairs.
    seeded = [run for run in zero if run.control_draw is None]
    assert len(seeded) == 1 + 2 * (3 + 2 * 4) + (1 + 2 * 2)
    drawn = [run for run in zero if run.control_draw is not None]
    assert {(run.method, run.n_pairs) for run in drawn} == {("kernel-ridge", 0)}
    assert sorted(run.control_draw for run in drawn) == sorted([*range(19)] * 2)
    assert len({run.fit_key for run in runs}) == len(all_names) + 10 * len(zero)
    assert all(run.relevance == "class_id" and run.penalty == "auto" for run in runs)
    assert len(set(runs)) == len(runs)
    for field in ("image", "name", "caption", "head", "head_name"):
        assert all(getattr(run, f"{field}_revision") for run in runs)


def test_smoke_store_is_the_same_every_time_and_is_left_alone(smoke_store, tmp_path):
    create_smoke_store(tmp_path)
    ids = [
        [(str(i.key), i.commit.revision_id) for i in open_store(r).sets()]
        for r in (smoke_store, tmp_path)
    ]
    assert ids[0] == ids[1]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    create_smoke_store(tmp_path)
    assert {
        path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()
    } == before


def test_limit_is_stamped_and_drops_what_cannot_be_drawn(smoke_store):
    runs = smoke_runs(open_store(smoke_store), limit=10)
    assert {run.limit for run in runs} == {10}
    # 10 images are 5 classes of two; 60 % of them hold 6 images, fewer than 8.
    assert {run.n_pairs for run in runs} == {0, "all"}
    with pytest.raises(ProtocolError, match="leaves one side empty"):
        smoke_runs(open_store(smoke_store), limit=1)
    with pytest.raises(ProtocolError, match="at least one image"):
        smoke_runs(open_store(smoke_store), limit=0)


def test_a_store_without_the_sets_says_how_to_make_them(smoke_store):
    with pytest.raises(ProtocolError, match=r"no imagenet1k/head_weight .*featstore extract"):
        demo_runs(open_store(smoke_store))


def test_two_encoders_that_fit_are_ambiguous(tmp_path):
    create_smoke_store(tmp_path)
    view = open_store(tmp_path).view("smoke/class_name/synthetic")
    write_set(
        tmp_path, view.numpy(), view.items, dataset="smoke", kind="class_name", encoder="other:text"
    )
    with pytest.raises(ProtocolError, match="2 sets that could be smoke/class_name"):
        smoke_runs(open_store(tmp_path))


def test_a_head_of_another_model_does_not_count(tmp_path):
    create_smoke_store(tmp_path)
    view = open_store(tmp_path).view("smokehead/head_weight/synthetic")
    write_set(
        tmp_path, view.numpy(), view.items, dataset="smokehead", kind="head_weight",
        encoder="other:model",
    )  # fmt: skip
    assert all("synthetic.image" in run.head_set for run in smoke_runs(open_store(tmp_path)))


def test_suites_by_name():
    assert set(SUITES) == {"demo", "smoke", "paper"}
    assert suite_named("smoke").create_store is create_smoke_store
    with pytest.raises(UnknownSuiteError, match=r"smoke, paper\. Did you mean 'demo'"):
        suite_named("deom")


def test_a_suite_and_a_sweep_take_prompts_of_either_side(smoke_store):
    opened = open_store(smoke_store)
    texts = {"templates": ("none",), "head_templates": ("photo",)}
    runs = with_texts(smoke_runs(opened), texts)
    assert {run.templates for run in runs} == {("none",)}
    assert {(bool(run.head_set), run.head_templates) for run in runs} <= {
        (True, ("photo",)), (False, ()),
    }  # fmt: skip
    assert with_texts(runs, {}) == list(runs)
    sets = find_sets(opened, dataset="smoke", label_set="smokehead")
    grid = Grid(n_pairs=(0,), sources=("head",), mixes=(1.0,), penalties=(1.0,), seeds=(0,))
    for run in sweep_runs(opened, sets, grid, texts=texts):
        assert run.head_texts == (("name",), ("photo",))
        assert run.templates == ("none",)
