"""Partial, wrong and whole copies: told item by item, never as a stack trace."""

import gzip
import json
import re

import pytest

from data_manifests.registry import BUILDERS, Builder
from featstore.datasets import DATASETS, build_dataset, check_dataset
from featstore.errors import ManifestError
from featstore.manifest import read_manifest
from featstore.plugins import _Given
from featstore.sources.reader import check_bytes
from tests.data_manifests import miniatures
from tests.typed import headstock


def build(capsys, *args):
    """Return the exit code, and what is printed."""
    code = headstock("data", "build", *args)
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture
def whole(monkeypatch, tmp_path):
    """A miniature of Food-101 that is whole by the counts of its own dataset.toml."""
    folder = tmp_path / "food101"
    folder.mkdir()
    text = (BUILDERS["food101"].folder / "dataset.toml").read_text()
    counts = text.replace("101\nimage", "2\nimage").replace("75750", "3").replace("25250", "3")
    (folder / "dataset.toml").write_text(counts)
    monkeypatch.setitem(DATASETS._things, "food101", _Given(Builder(folder)))
    return miniatures.food101(tmp_path / "data")


def test_a_whole_copy_is_complete_and_builds(whole, tmp_path, capsys):
    code, out, error = build(capsys, "food101", "--dry-run", "--root", whole)
    assert code == 0, error
    assert out.splitlines()[0].endswith("food-101: train 3, test 3")
    assert out.splitlines()[-1] == "OK: the copy is complete"
    code, out, error = build(capsys, "food101", "--root", whole, "-o", tmp_path / "out", "--json")
    assert code == 0, error
    document = json.loads(out)
    assert document["complete"] is True
    assert document["root"] == str(whole / "food-101")
    manifest = read_manifest(tmp_path / "out")
    check_bytes(manifest)
    assert not {"left_out", "files"} & {*manifest.facts}
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == []


def test_a_copy_that_lacks_images_is_told_item_by_item(whole, tmp_path, capsys):
    images = whole / "food-101/images"
    (images / "waffles/1.jpg").unlink()
    (images / "apple_pie/8.jpg").write_bytes(b"")
    words = ("food101", "--root", whole)
    code, out, _ = build(capsys, *words, "--dry-run")
    assert code == 4
    assert out.splitlines()[1:] == [
        "  missing image: images/waffles/1.jpg is missing.",
        "  empty image: images/apple_pie/8.jpg is empty.",
        "  images: train has 2 images, not 3.",
        "  images: test has 2 images, not 3.",
        "4 problems",
    ]
    document = json.loads(build(capsys, *words, "--dry-run", "--json")[1])
    assert document["images"] == {"train": 2, "test": 2}
    assert document["problems"][0] == {
        "kind": "missing image", "where": "images/waffles/1.jpg",
        "text": "images/waffles/1.jpg is missing.",
    }  # fmt: skip
    code, _, error = build(capsys, *words, "-o", tmp_path / "out")
    assert (code, "--subset builds what is there" in error) == (1, True)
    assert not (tmp_path / "out").exists()
    assert "a partial copy" in build(capsys, *words, "-o", tmp_path / "out", "--subset")[1]
    facts = read_manifest(tmp_path / "out").facts
    assert facts["complete"] is False
    assert facts["left_out"]["missing image"] == 1
    assert "images/waffles/1.jpg is missing." in facts["left_out"]["first"]
    assert facts["counts"]["image"] == {"train": 2, "test": 2, "total": 4}


def test_chosen_splits_need_only_their_own_lists(whole, tmp_path):
    (whole / "food-101/meta/train.json").unlink()
    problems = check_dataset("food101", root=whole).problems
    assert [(p.kind, p.where) for p in problems] == [("missing list", "meta/train.json")]
    assert 'a JSON object: class -> list of "class/number"' in problems[0].text
    with pytest.raises(ManifestError, match=r"meta/train.json is missing"):
        build_dataset("food101", tmp_path / "out", root=whole, subset=True)
    manifest = build_dataset("food101", tmp_path / "out", root=whole, splits=("test",)).manifest
    assert manifest.facts["splits"] == ["test"]
    assert manifest.facts["complete"] is True
    assert set(manifest.items("image")["split"]) == {"test"}


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ('{"waffles": ["../../secret"]}', "no plain path below the folder"),
        ('{"waffles": ["/etc/passwd"]}', "missing|no plain path"),
        ('{"waffles": [1, 2]}', "missing"),
        ('["waffles"]', r"meta/train\.json has another form \(AttributeError: 'list'"),
        ("not json", r"meta/train\.json has another form \(JSONDecodeError"),
        (b"\xff\xfe", r"meta/train\.json has another form \(UnicodeDecodeError"),
        ('{"waffles": ["waffles/1", "waffles/1"]}', "listed in train and again in train"),
    ],
)
def test_lists_of_another_form_are_sentences(whole, content, match):
    data = content if isinstance(content, bytes) else content.encode()
    (whole / "food-101/meta/train.json").write_bytes(data)
    inspection = check_dataset("food101", root=whole, splits=("train",))
    texts = " ".join(problem.text for problem in inspection.problems)
    assert re.search(match, texts), texts


@pytest.mark.parametrize("name", [name for name, b in BUILDERS.items() if b.read])
def test_a_folder_with_something_else_is_told_for_every_dataset(name, tmp_path, capsys):
    miniatures.write(tmp_path / "else", {"holiday/1.jpg": 1, "notes.txt": "mine"})
    for root in (tmp_path / "else", tmp_path / "nowhere"):
        code, out, error = build(capsys, name, "--dry-run", "--root", root)
        assert (code, "Traceback" in error) == (4, False)
        assert "problem" in out.splitlines()[-1]
        with pytest.raises(ManifestError, match=f"whole copy of {name}"):
            build_dataset(name, tmp_path / "out", root=root)
        assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_class_is_named(tmp_path):
    root = miniatures.imagenet1k(tmp_path)
    (root / "val/n01440764").rename(root / "val/n99999999")
    (problem,) = check_dataset("imagenet1k", root=root).fatal
    assert "1 labels of images are no class of imagenet1k (first: 'n99999999')" in problem.text


def test_wrong_usage(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for line, said in (
        ("food101 -o o", "give it with --root"),
        ("food101 -o o --root . --split tset",
         "No split 'tset'. Known splits: train, test. Did you mean 'test'?"),
        ("dtd -o o --root . -s partition=11", "partition of dtd: expected 1, 2"),
        ("stamps -o o --root .", "No option named 'root' for the dataset 'stamps'"),
        ("imagenet22k -o o --subset", "No option named 'subset'"),
        ("stamps --dry-run --root .", "nothing to check"),
    ):  # fmt: skip
        code, _, error = build(capsys, *line.split())
        assert (code in (1, 2), said in error) == (True, True), error


def test_arrays_that_are_missing_or_damaged_are_told(tmp_path):
    root = miniatures.cifar_binary(tmp_path / "cifar", "cifar10")
    folder = root / "cifar-10-batches-bin"
    (folder / "data_batch_3.bin").unlink()
    [problem] = check_dataset("cifar10", root=root).fatal
    assert (problem.kind, problem.where) == ("missing list", "data_batch_3.bin")
    assert not check_dataset("cifar10", root=root, splits=("test",)).fatal
    whole = (folder / "test_batch.bin").read_bytes()
    for damaged, match in (
        (whole[:-1], "test_batch.bin has another form (ValueError: cannot reshape"),
        (b"\x0a" + whole[1:], "test_batch.bin has another form (IndexError"),
    ):
        (folder / "test_batch.bin").write_bytes(damaged)
        [problem] = check_dataset("cifar10", root=root, splits=("test",)).fatal
        assert match in problem.text
    root = miniatures.mnist(tmp_path / "mnist", packed=True)
    file = root / "MNIST/raw/t10k-labels-idx1-ubyte.gz"
    for damage, match in (
        (lambda data: data[:-9], "labels-idx1-ubyte.gz has another form (EOFError"),
        (lambda data: gzip.compress(gzip.decompress(data)[:-1]), "(ValueError: cannot reshape"),
        (lambda data: gzip.compress(b"\0\0\x0d\1"), "no IDX file of unsigned bytes"),
        (None, "t10k-labels-idx1-ubyte is missing, and so is t10k-labels-idx1-ubyte.gz"),
    ):
        whole = file.read_bytes()
        file.unlink() if damage is None else file.write_bytes(damage(whole))
        texts = [problem.text for problem in check_dataset("mnist", root=root).fatal]
        assert match in texts[0]
        file.write_bytes(whole)
