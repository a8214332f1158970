"""What limits a job, by hand; steps of workers; and decoders that are there before the model."""

from __future__ import annotations

import logging

import pytest

from featstore import EncoderSpec, ExtractConfig
from featstore.extraction import job as run
from featstore.extraction.job import extract, run_here
from featstore.extraction.progress import FIRST_BATCHES, StageClock, Tracker
from featstore.extraction.targets import Job
from featstore.images import Geometry
from tests.featstore.extraction.conftest import SPACE, MeanColour


def tracker(**counted: float) -> Tracker:
    """Of two encoders on one process and four workers."""
    clock = StageClock()
    for name, amount in counted.items():
        clock.add(name, amount)
    return Tracker(clock, rows_total=99, rows_done=1, encoders=2, workers=4, device="cuda:0")


@pytest.mark.parametrize(
    ("counted", "resizing", "said"),
    [
        ({}, None, "Nothing was encoded."),
        # 600 / 2 rows in 0.5 s; 4 workers, 300 items in 6 s of theirs; 600 / 2 in 0.01 s.
        (
            {"encoded": 600, "encode": 0.5, "prepared": 300, "read": 1, "decode": 2, "prepare": 3,
             "write": 0.01},
            2.0,
            ("Bottleneck: preparing; items/s by cuda:0 and 4 workers: encoder 600, "
            "preparing 200, writing to the store 30,000; `-s resize=torchvision`, "
            "another space, gives 267."),
        ),
        # Half of 3 s is not enough to speak of where 9 s are decoding.
        (
            {"encoded": 600, "encode": 0.1, "prepared": 300, "decode": 9, "prepare": 3},
            2.0,
            ("Bottleneck: preparing; items/s by cuda:0 and 4 workers: encoder 3,000, "
            "preparing 100."),
        ),
        (
            {"encoded": 600, "encode": 6, "prepared": 300, "decode": 6, "write": 30},
            None,
            ("Bottleneck: writing to the store; items/s by cuda:0 and 4 workers: encoder 50, "
            "preparing 200, writing to the store 10."),
        ),
        (
            {"encoded": 600, "encode": 3, "prepared": 300, "decode": 10},
            None,
            ("No bottleneck; items/s by cuda:0 and 4 workers: encoder 100, preparing "
            "120."),
        ),
    ],
)  # fmt: skip
def test_the_slowest_side_is_named_where_every_other_could_do_a_quarter_more(
    counted, resizing, said
):
    found = tracker(**counted)
    assert found.bottleneck(resizing and (lambda: resizing)) == said
    assert found.first_bottleneck() == ""


def test_steps_of_two_workers_add_up_to_what_one_process_counts():
    every, alone = tracker(), tracker()
    workers = [tracker(), tracker()]
    for rows in (3, 5, 7):
        for one in workers:
            for counting in (one, alone):
                counting.clock.add("decode", rows / 8)
                counting.advance(rows, encoded=rows != 5)
            every.take(one.step())
    every.failures.add("x")
    assert every.clock.counted() == alone.clock.counted()
    assert (every.progress().rows_done, every.progress().failed) == (1 + 30, 1)
    alone.advance(500, encoded=False)  # a part that is done again
    assert alone.progress().rows_done == 99


def test_what_limits_is_said_once_after_the_first_batches(manifest, store, caplog, monkeypatch):
    monkeypatch.setattr(run, "say_how", lambda *_: "")
    with caplog.at_level(logging.INFO, logger="featstore.extraction.options"):
        extract(
            manifest, kind="image", encoder=MeanColour(), space=SPACE, store=store, batch_size=1,
            decode_timeout=None,
        )  # fmt: skip
    assert manifest.tables["image"].height > FIRST_BATCHES
    (line,) = caplog.messages
    assert "ottleneck" in line
    assert "items/s by cpu and" in line


def test_decoders_start_before_a_model_is_loaded_and_end_where_it_is_not(
    manifest, store, monkeypatch
):
    seen = []

    def fails(*_: object) -> None:
        (pool,) = job.early
        seen.extend(process._process for process in pool._processes)
        assert [one.poll() for one in seen] == [None, None]
        raise KeyboardInterrupt

    spec = EncoderSpec("timm:test_vit", weights="nowhere")
    job = Job(manifest, "image", [spec], store, ExtractConfig(jobs=2, device="cpu"))
    monkeypatch.setattr("featstore.extraction.targets.open_encoders", fails)
    with pytest.raises(KeyboardInterrupt):
        run_here(job)
    assert [one.poll() is None for one in seen] == [False, False]


def test_resizing_is_timed_on_a_picture_of_the_size_of_photographs(monkeypatch):
    sizes = []
    monkeypatch.setattr(Geometry, "data", lambda _, image: sizes.append(image.size))
    assert run.resizing_gain(Geometry((8,), (8, 8), "BICUBIC")) > 0
    assert set(sizes) == {(640, 480)}
