"""Runs of CoOp and CoCoOp: a tiny open_clip pair, its own image and text embeddings in a store."""

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits

from bench import read_results
from bench.corpus import first_per_class, in_class_split, read_corpus
from bench.execution import open_prompt_side
from bench.fits import Identity
from bench.options import FewShot
from bench.tasks.ranked import _dense
from featstore import open_store
from featstore.encoders.open_clip import open_prompt_tower
from featstore.encoders.registry import open_encoder
from featstore.testing import item_table, write_set
from fitters.few_shot.learner import Shots
from fitters.few_shot.prompt_learning import CoOp, Descent
from headstock.__main__ import cli
from tests.featstore.encoders.open_clip_models import build, known_to_open_clip, save_weights
from tests.fitters.few_shot.tiny_tower import WORDS, digit_rows
from tests.shorthand import execute, task_runs

MODEL = "oc:tiny-clip-long"
TEMPLATES = {"none": "{}", "photo": "a photo of a {}."}
N = 120


@pytest.fixture(scope="module", autouse=True)
def _tiny_models(tmp_path_factory):
    with known_to_open_clip(tmp_path_factory.mktemp("configs")):
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_weights("tiny-clip-long", tmp_path_factory.mktemp("oc") / "tiny.safetensors")


@pytest.fixture(scope="module")
def store(tmp_path_factory, weights):
    """The first digits and their names as both towers of one checkpoint see them."""
    root = tmp_path_factory.mktemp("store")
    rows, labels = digit_rows(build("tiny-clip-long"), N)
    ids = [f"digits/{n}" for n in range(10)]
    images = open_encoder(MODEL, kind="image", weights=weights)
    texts = open_encoder(MODEL, kind="class_name", weights=weights)
    shown = item_table([f"digits/{i:03d}" for i in range(N)], class_id=[ids[n] for n in labels])
    write_set(root, rows, shown, dataset="digits", encoder=MODEL, space=images.space)
    prompts = [(n, t) for n in range(10) for t in TEMPLATES]
    written = [TEMPLATES[t].format(WORDS[n]) for n, t in prompts]
    items = item_table(
        [f"{ids[n]}#{t}" for n, t in prompts], "class_name", text=written,
        class_id=[ids[n] for n, _ in prompts], template_id=[t for _, t in prompts],
        variant=["name"] * len(prompts),
    )  # fmt: skip
    write_set(
        root, texts.encode(written), items, dataset="digits", kind="class_name", encoder=MODEL,
        space=texts.space,
    )  # fmt: skip
    assert load_digits().target[:N].tolist() == labels.tolist()
    return open_store(root)


def test_the_command_learns_what_the_learner_learns(store, weights, tmp_path, monkeypatch):
    # A longer training would show no better.
    monkeypatch.setattr(Descent, "epochs_for", lambda _self, _shots: 2)
    words = [
        "eval", "task", "few_shot", "--images", "digits/image/tiny-clip-long", "--names",
        "digits/class_name/tiny-clip-long", "--method", "identity", "-s", "shots=1", "-s",
        "learner=coop-specific", "--prompts", "name", "--weights", str(weights), "--store",
        str(store.root), "-o", str(tmp_path),
    ]  # fmt: skip
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    assert "1 reused" in CliRunner().invoke(cli, words).output
    rows = read_results(tmp_path)
    assert set(rows["options"]) == {'{"learner":"coop-specific"}'}
    found = dict(rows.select("metric", "value").iter_rows())["top-1"]
    view = store.view("digits/image/tiny-clip-long")
    x = _dense(Identity().project_x(view.numpy()))
    labels = load_digits().target[:N].astype(np.int64)
    split = in_class_split(view.items["class_id"].to_numpy(), seed=0)
    shots = first_per_class(split.train, labels, 1)
    tower = open_prompt_tower(MODEL, weights=str(weights))
    with threadpool_limits(1):  # as a run: sums are split otherwise, and steps magnify that
        learner = CoOp(tower, WORDS, class_specific=True)
        classifier = learner.fit(Shots(x[shots], labels[shots], 10))
    scores = classifier.scores(x[split.test])
    own = scores[np.arange(len(scores)), labels[split.test]]
    assert found == pytest.approx(((scores >= own[:, None]).sum(axis=1) == 1).mean())


def test_no_shot_is_zero_shot_with_the_template(store, weights):
    sets = {"images": "digits/image/tiny-clip-long", "names": "digits/class_name/tiny-clip-long",
            "eval": "in-class", "templates": ("photo",), "variants": ("name",)}  # fmt: skip
    options, places, top = FewShot(shots=0, learner="coop-words"), [], []
    for task, own in (("few_shot", {"options": options}), ("zero_shot", {})):
        (run,) = task_runs(store, task, **sets, **own)
        ((_, rows, ranks),) = execute(
            [run], read_corpus(store, run),
            prompt_side=lambda asked: open_prompt_side(store, asked, weights=str(weights)),
        )  # fmt: skip
        places.append(ranks["rank"])
        top.append(rows.filter(metric="top-1")["value"].item())
    assert top[0] == pytest.approx(top[1], abs=0.05)
    # Names of a random tower are so alike that rounding decides some places.
    assert (places[0] == places[1]).mean() > 0.9
