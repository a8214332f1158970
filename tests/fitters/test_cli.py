"""The command line: answers on stdout, one line of error on stderr, nothing half-written."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from scipy.sparse import load_npz

from featstore import copy_sets, open_store
from featstore.testing import item_table, write_set
from fitters import load
from fitters.scorers import hub_corrected
from tests.fitters.toy_store import CLASSES, HEAD, IMAGES, NAMES, P, X, Y, write_toy_store
from tests.typed import headstock as run


@pytest.fixture
def store(store_path):
    return store_path


def _fit(store, out, *more, method="ridge"):
    return run("fit", method, "--store", store, "--images", X, "--head", HEAD,
                "--head-names", NAMES, "-o", out, *more)  # fmt: skip


@pytest.fixture(scope="module")
def ridge(store_path, tmp_path_factory):
    """A ridge of the head; tests only read it, and change a copy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        out = tmp_path_factory.mktemp("fitted") / "ridge"
        assert _fit(store_path, out) == 0
    return out


@pytest.fixture
def own(ridge, tmp_path):
    return Path(shutil.copytree(ridge, tmp_path / "aligners" / "ridge"))


def test_fit_ls_show(store, tmp_path, capsys):
    out = tmp_path / "aligners"
    assert _fit(store, out / "a") == 0
    assert f"{out}/a: ridge, fitted on 30 prototypes (penalty" in capsys.readouterr().out
    code = _fit(store, out / "b", "--captions", Y, "--n-pairs", "12", "--seed", "2", "--json")
    assert code == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["n_real"] == 12
    assert facts["request"]["seed"] == 2
    assert run("ls", out, "--json") == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["a", "b"]
    assert run("ls", out) == 0
    assert re.search(r"^a +ridge +timm:toy +st:toy +30 +0 ", capsys.readouterr().out, re.MULTILINE)
    assert run("show", out / "b", "--json") == 0
    assert json.loads(capsys.readouterr().out)["choice"] == facts["choice"]
    assert run("show", out / "b") == 0
    assert re.search(r"^  x encoder +timm:toy$", capsys.readouterr().out, re.MULTILINE)


def test_ls_goes_on_past_damage_without_reading_arrays(own, capsys):
    folder = own.parent
    (own / "arrays.safetensors").unlink()
    for name, text in (("bent", "no json"), ("bare", '{"format": 1}')):
        (folder / name).mkdir()
        (folder / name / "alignment.json").write_text(text)
    assert run("ls", folder, "--json") == 4
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["ridge"]["method"] == "ridge"
    assert "JSON is malformed" in rows["bent"]["damaged"]
    assert "`method`" in rows["bare"]["damaged"]
    assert run("ls", folder) == 4
    assert re.search(r"^bent .* damaged: ", capsys.readouterr().out, re.MULTILINE)
    # What is shown is checked whole.
    assert run("show", own) == 1
    assert "arrays.safetensors cannot be read" in capsys.readouterr().err


def test_shorthand_and_seeds(store, tmp_path, capsys):
    args = ("fit", "csa", "--store", store, "--images", "toy/image", "--captions", "caption/st:toy",
            "--n-pairs", "20", "--head", "labels", "-s", "mix=auto",
            "--seeds", "0,2-3", "-o", tmp_path, "--json")  # fmt: skip
    assert run(*args) == 0
    made = json.loads(capsys.readouterr().out)
    assert [Path(facts["path"]).name for facts in made] == [f"csa-seed{n}" for n in (0, 2, 3)]
    for facts in made:
        asked = [facts["request"][role] for role in ("x", "y", "head", "names")]
        assert asked == [key.replace(":", ".") for key in (X, Y, HEAD, NAMES)]
        assert facts["n_real"] == 20
        assert facts["choice"]["n_components"] in facts["choice"]["components"]
    assert len({facts["fitted_on"]["captions"]["fingerprint"] for facts in made}) == 3
    assert run("ls", tmp_path, "--json") == 0
    assert len(json.loads(capsys.readouterr().out)) == 3


def test_the_store_below_the_folder_and_a_place_for_the_alignment_are_taken(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    words = ("fit", "ridge", "--head", HEAD, "--prompts", "name:none,photo")
    assert run(*words) == 2
    assert "Missing option '--store': there is no store in this folder" in capsys.readouterr().err
    write_toy_store(tmp_path / "work" / "one")
    assert run(*words) == 0
    said = capsys.readouterr()
    assert "--store work/one " in said.err
    assert " --prompts name:none,photo " in said.err
    assert "--out aligners/ridge" in said.err
    assert said.out.startswith("aligners/ridge: ridge, fitted on 30 prototypes")
    write_toy_store(tmp_path / "two")
    assert run(*words) == 2
    assert "there are several stores ('two', 'work/one') in" in capsys.readouterr().err


def test_another_alignment_is_not_replaced_in_silence(store, own, capsys, monkeypatch):
    before = load(own).facts
    assert _fit(store, own) == 0  # the same one
    with monkeypatch.context() as patched:
        patched.setattr("fitters.jobs.fit_from_store", None)  # it is refused before the fit
        assert _fit(store, own, "-s", "penalty=9") == 1
    assert "holds another alignment" in capsys.readouterr().err
    assert load(own).facts == before
    assert _fit(store, own, "-s", "penalty=9", "--replace") == 0
    assert load(own).facts["choice"]["penalty"] == 9


def test_apply_writes_unit_rows_of_the_set(store, ridge, tmp_path, capsys):
    out = tmp_path / "rows.npy"
    assert run("apply", ridge, "--store", store, "--set", X, "--split", "test", "-o", out) == 0
    assert "10 × 12" in capsys.readouterr().out
    rows = np.load(out, allow_pickle=False)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    images = open_store(store).view(X).where(split="test")
    assert rows.tobytes() == load(ridge).project_x(images.numpy()).tobytes()


def test_apply_ranks_classes(store, ridge, capsys):
    """A class has one row, whatever the number of its prompts, and its name is shown."""
    args = ("apply", ridge, "--store", store, "--set", X, "--near", NAMES, "--top", "4")
    assert run(*args, "--json") == 0
    near = json.loads(capsys.readouterr().out)["near"]
    opened, fitted = open_store(store), load(ridge)
    texts = opened.view(NAMES).class_texts()
    scores = fitted.project_x(opened.view(X).numpy()) @ fitted.project_y(texts.numpy()).T
    names = texts.items["class_id"].to_list()
    for row, found in zip(scores, near.values(), strict=True):
        best = np.argsort(-row, kind="stable")[:4]
        assert [one["item_id"] for one in found] == [names[index] for index in best]
    first = next(iter(near.values()))[0]
    assert first["text"] == texts.items["text"][names.index(first["item_id"])]
    assert len(opened.view(NAMES)) > len(texts)
    assert run(*args) == 0
    assert f"{first['text']}  {first['item_id']}" in capsys.readouterr().out


def test_apply_calls_images_by_the_names_of_their_classes(ridge, tmp_path, capsys):
    """Of a class that has names and prompts, by its first bare name."""
    write_toy_store(root := tmp_path / "store")
    rows = [
        {"item_id": f"d{i}#{v}#{t}", "class_id": f"toy/d{i}", "text": f"{v} {i} in {t}",
         "variant": v, "template_id": t}
        for i in range(IMAGES // 2) for v, t in (("a", "photo"), ("b", "none"), ("c", "none"))
    ]  # fmt: skip
    write_set(root, np.eye(len(rows), 8), item_table(rows, "class_name"), dataset="toy",
              kind="class_name", encoder="st:toy", space={"name": "language"})  # fmt: skip
    args = ("apply", ridge, "--store", root, "--set", Y, "--near", X, "--top", "2")
    assert run(*args, "--json") == 0
    first = json.loads(capsys.readouterr().out)["near"]["toy/30#en"][0]
    assert first["text"] == f"b {int(first['item_id'][-2:]) // 2} in none"
    assert run(*args) == 0
    assert re.search(rf"{first['text']} +{first['item_id']}\n", capsys.readouterr().out)


def test_hubs_are_corrected_by_images_that_are_no_inputs(store, ridge, capsys):
    args = ("apply", ridge, "--store", store, "--set", X, "--near", Y, "--top", "1")
    assert run(*args, "--scorer", "hub", "--unlabelled", X, "--json") == 0
    near = json.loads(capsys.readouterr().out)["near"]
    opened, fitted = open_store(store), load(ridge)
    images = fitted.project_x(opened.view(X).numpy())
    x, y = hub_corrected(images, fitted.project_y(opened.view(Y).numpy()), unlabelled=images)
    best = (x @ y.T).max(axis=1)
    assert [found[0]["score"] for found in near.values()] == pytest.approx(best, abs=1e-3)
    assert run(*args, "--unlabelled", X) == 2
    assert "--unlabelled is for --scorer hub; the scorer is cosine." in capsys.readouterr().err


def test_asif_is_sparse_to_the_end(store, tmp_path, capsys):
    out = tmp_path / "asif"
    assert _fit(store, out, "--captions", Y, method="asif") == 0
    args = ("apply", out, "--store", store, "--set", X, "--near", Y, "--json")
    assert run(*args, "-o", tmp_path / "rows.npy") == 2
    assert "asif are written as .npz" in capsys.readouterr().err
    assert run(*args, "-o", tmp_path / "rows.npz") == 0
    assert len(json.loads(capsys.readouterr().out)["near"]) == 40
    # 30 head rows and 30 training images are the anchors.
    assert load_npz(tmp_path / "rows.npz").shape == (40, 60)
    assert run("export", out, "--store", store, "--names", NAMES, "-o", tmp_path / "h.npz") == 0


def test_export_holds_a_head_that_scores_like_the_alignment(store, ridge, tmp_path, capsys):
    out = tmp_path / "head.safetensors"
    assert run("export", ridge, "--store", store, "--names", NAMES, "-o", out, "--json") == 0
    assert json.loads(capsys.readouterr().out)["arrays"]["class_rows"] == [CLASSES, P]
    with safe_open(out, framework="numpy") as file:
        meta = json.loads(file.metadata()["headstock"])
        rows, mean = file.get_tensor("class_rows"), file.get_tensor("x_mean")
    opened = open_store(store)
    images = opened.view(X).numpy().astype(np.float64)
    # The rule that the file states, by hand.
    z = images / np.linalg.norm(images, axis=1, keepdims=True) - mean
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    fitted = load(ridge)
    texts = opened.view(NAMES).class_texts()
    direct = fitted.project_x(images) @ fitted.project_y(texts.numpy()).T
    np.testing.assert_allclose(z @ rows.T, direct, atol=1e-6)
    assert meta["class_ids"] == texts.items["class_id"].to_list()
    assert meta["rule"].startswith("images: z = normalize")


NONE = ["fit", "ridge", "--store", "none", "--images", X]
RIDGE = ["fit", "ridge", "--store", "S", "--images", X]
FIT = [*RIDGE, "--head", HEAD, "--head-names", NAMES, "-o", "out"]
REAL = [*RIDGE, "--captions", Y, "-o", "out"]
BAD = [
    # What is wrong with the arguments comes first; the store is read after it.
    ([*NONE, "--captions", Y, "-o", "out"], 1, "does not exist"),
    (["apply", "R"], 2, "either --set, or --text"),
    (["apply", "R", "--store", "S", "--near", X, "--text", " "], 2, "a text that is not empty"),
    (["apply", "R", "--store", "S", "--set", "toy/caption/st:other", "-o", "o.npy"], 1,
     "fitted on timm:toy"),
    (["apply", "R", "--store", "S", "--set", X, "--near", Y, "--weights", "w"], 2,
     "--weights has no effect without --text"),
    (["fit", "procrustes", *FIT[2:], "-s", "penalty=1"], 2,
     "These have it: ridge, ridge-x2y"),
    ([*FIT, "-s", "criterion=rank", "-s", "penalty=1"], 2, "nothing is left to choose"),
    (["fit", "conse", *FIT[2:], "--captions", Y], 2, "uses no real pair"),
    (["fit", "ridge", "--store", "S", "--captions", "caption", "-o", "out"], 2,
     "several sets could be meant: 'toy/caption/st.other', 'toy/caption/st.toy'"),
    (["fit", "csa", *REAL[2:], "--n-pairs", "2"], 1, "too few to choose by"),
]  # fmt: skip


@pytest.mark.parametrize(("args", "code", "words"), BAD, ids=lambda value: str(value)[:50])
def test_bad_input_is_one_line_and_leaves_nothing(
    store, ridge, tmp_path, monkeypatch, capsys, args, code, words
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("featstore.terminal.SOON", 600.0)  # a slow machine says more
    places = {"S": str(store), "R": str(ridge)}
    assert run(*(places.get(arg, arg) for arg in args)) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert words in said.err
    assert said.err.startswith("headstock: error: ")
    assert said.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_real_pairs_need_texts(store, tmp_path, capsys):
    copy_sets(store, tmp_path / "bare", select=["toy/image/*", "labels/*"])
    assert run("fit", "ridge", "--store", str(tmp_path / "bare"), "--n-pairs", "4") == 2
    said = capsys.readouterr().err
    assert "neither captions nor class names of these images. Give --names" in said
