"""`headstock data` and what is behind it, on a miniature of the stamps."""

import json
import re
import shutil

import pytest
from click.testing import CliRunner
from PIL import Image

from data_manifests.registry import BUILDERS
from featstore import read_manifest
from featstore.manifest_files import STAGING
from featstore.sources.reader import check_bytes
from headstock.__main__ import cli
from tests.damage import tree

STAMPS = {
    "animals/frog": "A frog.\nfr.utf8=Une grenouille.\n",
    "animals/toad": "A frog.\n",
    "food/apple": "A red apple.\nfr.utf8=Une pomme.\nde.utf8=Ein Apfel.\n",
}


@pytest.fixture
def source(tmp_path):
    root = tmp_path / "source"
    for number, (path, caption) in enumerate(STAMPS.items()):
        file = root / f"{path}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGBA", (20, 10 + number), "red").save(file)
        file.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return root


@pytest.fixture
def call():
    def invoke(*args):
        return CliRunner().invoke(cli, [str(arg) for arg in args])

    return invoke


def state(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.rglob("*")}


def test_build_puts_data_on_stdout_and_progress_on_stderr(call, source, tmp_path):
    done = call("data", "build", "stamps", "-o", tmp_path / "out", "-s", f"files={source}",
                "--json", "-s", "locale=en,fr", "-s", "locale=de")  # fmt: skip
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["status"] == "built"
    assert document["classes"] == 2
    assert {kind: counts["total"] for kind, counts in document["items"].items()} == {
        "image": 3,
        "caption": 3 + 2 + 1,
        "class_name": 2 * 2,
    }
    assert "3 of 3 images" in done.stderr
    assert "holds 3 images; the documented selection" in done.stderr
    manifest = read_manifest(tmp_path / "out")
    check_bytes(manifest)
    assert manifest.facts["images_without_caption"] == {"en": 0, "fr": 1, "de": 2}
    assert manifest.facts["locales"] == ["en", "fr", "de"]
    assert manifest.items("class_name").filter(template_id="photo")["text"].to_list() == [
        "a photo of a frog.", "a photo of a red apple.",
    ]  # fmt: skip
    for table in manifest.tables.values():
        assert table["content_sha256"].null_count() == 0
    assert not (tmp_path / "out" / STAGING).exists()


@pytest.mark.parametrize("damage", ["none", "picture", "table", "facts", "gone"])
def test_a_damaged_build_is_made_whole_again_and_a_whole_one_is_not_touched(
    call, source, tmp_path, damage
):
    out = tmp_path / "out"
    arguments = ("data", "build", "stamps", "-o", out, "-s", f"files={source}")
    assert call(*arguments).stdout.startswith("Built stamps")
    whole = tree(out)
    if damage == "picture":
        (out / "images/food/apple.png").write_bytes(b"")
    elif damage == "gone":
        shutil.rmtree(out / "images/animals")
    elif damage != "none":
        file = out / ("caption.parquet" if damage == "table" else "dataset.toml")
        file.write_bytes(file.read_bytes() + b"\n# changed\n")
    before, again = state(out), call(*arguments)
    if damage in ("none", "facts"):  # a comment in the facts is no damage
        assert again.stdout.startswith("Unchanged stamps")
        assert "images" not in again.stderr.replace("holds 3 images", "")
        assert state(out) == before
    else:
        assert again.stdout.startswith("Built stamps")
        assert tree(out) == whole


def test_ls_and_show(call, source, tmp_path):
    listed = json.loads(call("ls", "--available", "datasets", "--json").stdout)
    assert [entry["name"] for entry in listed] == list(BUILDERS) == sorted(BUILDERS)
    helped = " ".join(call("data", "build", "coco", "-h").stdout.split())
    assert "Settings of coco (-s): captions=all|first5 all, or the first five" in helped
    assert "[default: all]" in helped
    assert "karpathy=NAME" in helped
    assert json.loads(call("show", "stamps", "--json").stdout)["expected"]["images"] == 570
    out = tmp_path / "out"
    call("data", "build", "stamps", "-o", out, "-s", f"files={source}")
    shown = json.loads(call("show", out, "--json").stdout)
    assert shown["counts"]["image"]["total"] == 3
    assert shown["classes"] == 2
    text = call("show", out).stdout
    assert re.search(r"^  licence +GPL-2", text, re.MULTILINE)
    assert re.search(r"^image +3  train ", text, re.MULTILINE)
    (out / "images/food/apple.png").write_bytes(b"another")
    assert call("show", out).exit_code == 0
    assert "'stamps/food/apple'" in call("store", "verify", out).output
