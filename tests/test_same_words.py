"""What the command line takes of a store, `headstock.fit` and `headstock.evaluate` take too."""

from __future__ import annotations

import re
import shlex
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import headstock as hs
from bench import read_results
from bench.cli.main import run_settings
from bench.cli.run import SOURCES
from bench.options import TASKS
from featstore.cli.options import prompt_fields
from featstore.errors import AmbiguousSetError, UnknownSetError
from featstore.options import settings_from
from featstore.testing import item_table, write_set
from fitters.cli.fit import _settings
from fitters.errors import SettingError
from fitters.methods import methods_with
from tests.bench.test_execution import TIMES
from tests.damage import tree
from tests.test_docs import JOURNEYS, SAID
from tests.typed import commands, headstock

#: Data sets that are in the store of the examples which name them: no other example may meet them.
ELSEWHERE = re.compile(r"(?<!-)\b(?:pictures|pairs|photos)\b")

#: Examples that need what no small store has, and where they are tested.
NOT_HERE = {
    r"oc:|pets/|food101|layers=": "other models' sets; tests/bench",
    r"--engine ray": "a cluster; tests/fitters/test_ray_moments.py",
}

#: What is typed in place of what takes minutes.
SHORTER = {
    r"--method icis": "--method ridge",
    r"(?:mine|halves),ridge": "ridge",
    r"--plugin \S+": "",
    r"(fit (?:paper-mlp|structure)|--method paper-mlp)": r"\1 -s epochs=2",
    r"--seeds \S+": "--seeds 0",
    r"--n-pairs 0,16,64,256,all": "--n-pairs 0,16",
    r"(-s (?:mix|penalty)=)[\d.]+,([\d.]+)\S*": r"\1\2",
    r"--jobs \d+": "",
}


def _examples(command: str) -> list[str]:
    """Return the examples of a command, of the documents, the help and the journeys."""
    said = [line for lines in SAID.values() for line in lines]
    lines = [re.sub(r" +", " ", line) for line in (*said, *JOURNEYS)]
    wanted = [line for line in lines if line.startswith(f"headstock {command} ")]
    for pattern, shorter in SHORTER.items():
        wanted = [re.sub(pattern, shorter, line) for line in wanted]
    return [line for line in dict.fromkeys(wanted) if not any(re.search(p, line) for p in NOT_HERE)]


def _write_store(root: Path, *datasets: str) -> None:
    """Write images, captions and names of data sets, and a head, under the documents' keys."""
    rng = np.random.default_rng(5)
    plant, n_classes = rng.standard_normal((6, 9)), 24
    vision: dict[str, Any] = {"encoder": "timm:tf_efficientnet_lite0", "space": {"name": "vision"}}
    words: dict[str, Any] = {"encoder": "st:all-MiniLM-L6-v2", "space": {"name": "language"}}
    for name in ("imagenet1k", *datasets):
        latent = rng.standard_normal((n_classes, 6))
        classes = [f"{name}/c{number:02d}" for number in range(n_classes)]
        # Eight classes of every data set are classes of the head too, by their names.
        called = [f"thing {c}" if c < 8 else classes[c] for c in range(n_classes)]
        prompts = [
            {"item_id": f"{classes[c]}#{t}", "class_id": classes[c], "text": f"{t} {called[c]}",
             "variant": "name", "template_id": t}
            for c in range(n_classes) for t in ("none", "photo")
        ]  # fmt: skip
        texts = np.repeat(latent, 2, axis=0) + 0.05 * rng.standard_normal((2 * n_classes, 6))
        if name != "photos":
            write_set(root, texts, item_table(prompts, "class_name"), dataset=name,
                      kind="class_name", **words)  # fmt: skip
        if name == "imagenet1k":
            rows = [{"item_id": f"{c}#head", "class_id": c} for c in classes]
            write_set(root, latent @ plant, item_table(rows, "head_weight"), dataset=name,
                      kind="head_weight", bias=rng.random(n_classes), **vision)  # fmt: skip
            continue
        shown = latent[np.repeat(np.arange(n_classes), 3)]
        owners = [f"{name}/{number:03d}" for number in range(len(shown))]
        images = [{"item_id": item, "class_id": classes[number // 3],
                   "split": ["train", "train", "test"][number % 3]}
                  for number, item in enumerate(owners)]  # fmt: skip
        noisy = shown + 0.3 * rng.standard_normal(shown.shape)
        write_set(root, 2 + noisy @ plant, item_table(images), dataset=name, **vision)
        if name in ("photos", "pictures"):
            continue
        captions = [{"item_id": f"{item}#en", "parent_id": item, "text": item} for item in owners]
        write_set(root, noisy, item_table(captions, "caption"), dataset=name, kind="caption",
                  **words)  # fmt: skip


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """The store of the demo, and one that has the data sets of the guides beside it."""
    root = tmp_path_factory.mktemp("stores")
    _write_store(root / "demo", "stamps")
    _write_store(root / "more", "stamps", "pictures", "pairs", "photos")
    return {False: root / "demo", True: root / "more"}


def _typed(line: str, store: Path, out: Path) -> dict[str, Any]:
    """Run an example on a store, and return what it gives each parameter of its command."""
    line = re.sub(r" (?:--store|-o|--out) \S+", "", line)
    words = shlex.split(line)[1:]
    assert headstock(*words, "--store", store, "-o", out) == 0, line
    path, command = max(
        (len(path) - 1, one) for path, one in commands()
        if list(path[1:]) == words[: len(path) - 1] and not isinstance(one, click.Group)
    )  # fmt: skip
    return command.make_context("headstock", words[path:]).params


def _texts(typed: dict[str, Any]) -> dict[str, Any]:
    return prompt_fields(typed["prompts"]) | prompt_fields(typed["head_prompts"], "head_")


@pytest.mark.parametrize("line", _examples("fit"))
def test_a_fit_in_python_saves_what_the_command_saves(
    line: str, stores: dict[bool, Path], tmp_path: Path
) -> None:
    store = stores[bool(ELSEWHERE.search(line))]
    typed = _typed(line, store, tmp_path / "typed")
    method = typed["method"]
    settings = settings_from(typed["words"], _settings(typed), having=methods_with)[method]
    roles = {"images": "x", "captions": "y", "names": "captions_of", "head": "head",
             "head_names": "names", "n_pairs": "n_pairs"}  # fmt: skip
    named = {word: typed[name] for word, name in roles.items() if typed[name] is not None}
    (seed,) = typed["seeds"]
    alignment = hs.fit(method, store, seed=seed, **named, **settings, **_texts(typed))
    assert tree(alignment.save(tmp_path / "ours")) == tree(tmp_path / "typed")


@pytest.mark.usefixtures("no_plugins")
@pytest.mark.parametrize("line", _examples("eval task"))
def test_an_evaluation_in_python_has_the_rows_of_the_command(
    line: str, stores: dict[bool, Path], tmp_path: Path
) -> None:
    store = stores[bool(ELSEWHERE.search(line))]
    typed = _typed(line, store, tmp_path / "typed")
    task, methods = typed["task"], typed["methods"] or (TASKS[typed["task"]].method,)
    owners = settings_from(
        typed["words"], run_settings(methods, task), runs=True, having=methods_with
    )
    of_task = owners.pop(task)
    named = {name: typed[name] for name in ("images", "names", "captions", "head", "head_names")
             if typed[name]}  # fmt: skip
    named |= {name: list(values) for name, values in owners.pop("a run").items()}
    named |= {name: list(values) for method in methods
              for name, values in owners.get(method, {}).items()}  # fmt: skip
    if typed["eval"]:
        named["eval"] = list(typed["eval"])
    for values in product(*of_task.values()):
        hs.evaluate(
            methods, store, tasks={task: dict(zip(of_task, values, strict=True))},
            controls=sorted({*(typed["source"] or SOURCES)} - {"head", "none"}),
            n_pairs=typed["n_pairs"] or None, draws=1, seeds=[0], out=tmp_path / "ours",
            progress=False, **named, **_texts(typed),
        )  # fmt: skip
    expected = read_results(tmp_path / "typed").drop(TIMES)
    ours = read_results(tmp_path / "ours").drop(TIMES)
    ours = ours.filter(pl.col("run_id").is_in(expected["run_id"].implode()))
    by = ["run_id", "metric", "direction", "k"]
    by = [name for name in by if name in ours.columns]
    assert_frame_equal(ours.sort(by), expected.sort(by))


def test_every_way_out_is_in_use() -> None:
    lines = [line for where in SAID.values() for line in where] + JOURNEYS
    for pattern in (*NOT_HERE, *SHORTER):
        assert any(re.search(pattern, line) for line in lines), pattern
    assert len(_examples("fit")) >= 10
    assert len(_examples("eval task")) >= 8


def test_a_fit_says_which_pairs_it_could_have_had(stores: dict[bool, Path]) -> None:
    store = stores[False]
    alone = hs.fit("ridge", store, penalty=0.1)
    assert (alone.facts["n_prototypes"], alone.facts["n_real"]) == (24, 0)
    unused = alone.facts["unused_pairs"]
    assert unused["texts"].startswith("stamps/caption/")
    assert f"and 0 real pairs (n_pairs= beside head= adds up to {unused['images']})" in repr(alone)
    both = hs.fit("ridge", store, head="imagenet1k", n_pairs="all", penalty=0.1, mix=1.0)
    assert (both.facts["n_prototypes"], both.facts["n_real"]) == (24, unused["images"])
    assert "unused_pairs" not in both.facts
    none = hs.fit("ridge", store, captions="stamps", n_pairs=0, penalty=0.1)
    assert none.facts == alone.facts
    assert "unused_pairs" not in hs.fit("conse", store).facts
    # Images without captions may be paired with the names of their classes, where they have any.
    for images, texts in (("pictures", "pictures/class_name/"), ("photos", None)):
        facts = hs.fit("ridge", stores[True], images=images, head="imagenet1k", penalty=0.1).facts
        assert ("unused_pairs" in facts) == (texts is not None)
        assert facts.get("unused_pairs", {}).get("texts", "").startswith(texts or "")


def test_what_is_not_clear_is_named(stores: dict[bool, Path]) -> None:
    with pytest.raises(AmbiguousSetError, match=r"`images=` is not clear: .*'photos/image/timm"):
        hs.fit("ridge", stores[True], head="imagenet1k")
    with pytest.raises(UnknownSetError, match="holds no set 'birds'"):
        hs.fit("ridge", stores[False], head="birds")
    with pytest.raises(SettingError, match="both texts of the same real pairs"):
        hs.fit("ridge", stores[False], names="stamps", captions="stamps")
