"""The hub's code path, run for real on a cache that this test fills, without a network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import timm
from safetensors.torch import save_file

from featstore.encoders.registry import open_encoder
from featstore.identity import space_id

PROGRAM = """
import json, sys
from featstore.encoders.registry import open_encoder
from featstore.errors import EncoderError
from featstore.identity import space_id
found = []
for name in sys.argv[1:]:
    try:
        encoder = open_encoder(name)
        found.append([space_id(encoder.space), encoder.facts["weights"]])
    except EncoderError as err:
        found.append(str(err))
print(json.dumps(found))
"""


def fill(cache, repo, files):
    """Lay `files` into a hub cache as huggingface_hub does."""
    root = cache / f"models--{repo.replace('/', '--')}"
    revision = "0" * 40
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(revision)
    shutil.copytree(files, root / "snapshots" / revision)


@pytest.mark.slow
def test_cached_models_open_offline_in_the_space_of_their_files(tiny_text, tmp_path):
    image_files = tmp_path / "image"
    image_files.mkdir()
    save_file(timm.create_model("test_resnet").state_dict(), image_files / "model.safetensors")
    cache = tmp_path / "cache"
    fill(cache, "timm/test_resnet.r160_in1k", image_files)
    fill(cache, "sentence-transformers/tiny", tiny_text)
    names = ["timm:test_resnet", "st:tiny", "timm:test_vit", "st:absent"]
    environment = {
        **os.environ,
        "HF_HUB_CACHE": str(cache),
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, *names],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    image, text, *absent = json.loads(done.stdout)
    from_file = open_encoder("timm:test_resnet", weights=image_files / "model.safetensors")
    from_folder = open_encoder("st:tiny", weights=tiny_text)
    assert image == [
        space_id(from_file.space),
        {"source": "hub", "repository": "timm/test_resnet.r160_in1k"},
    ]
    assert text == [
        space_id(from_folder.space),
        {"source": "hub", "repository": "sentence-transformers/tiny"},
    ]
    for name, message in zip(names[2:], absent, strict=True):
        assert message.startswith(f"The weights of {name} could not be taken from the hub")
        assert "HF_HUB_OFFLINE is set. Pass --weights" in message
