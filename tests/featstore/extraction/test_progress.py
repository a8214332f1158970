"""What limits a job, by hand, and steps of workers."""

from __future__ import annotations

import logging

import pytest

from featstore.extraction import job as run
from featstore.extraction.batches import FIRST_BATCHES, StageClock, Tracker
from featstore.extraction.job import extract
from tests.featstore.extraction.conftest import SPACE, MeanColour


def tracker(**counted: float) -> Tracker:
    """Of two encoders on one process and four workers."""
    clock = StageClock()
    for name, amount in counted.items():
        clock.add(name, amount)
    return Tracker(clock, rows_total=99, rows_done=1, encoders=2, workers=4, device="cuda:0")


@pytest.mark.parametrize(
    ("counted", "said"),
    [
        ({}, "Nothing was encoded."),
        # 600 / 2 rows in 0.5 s; 4 workers, 300 items in 6 s of theirs; 600 / 2 in 0.01 s.
        (
            {"encoded": 600, "encode": 0.5, "prepared": 300, "read": 1, "decode": 2, "prepare": 3,
             "write": 0.01},
            ("Bottleneck: preparing; items/s by cuda:0 and 4 workers: encoder 600, "
            "preparing 200, writing to the store 30,000."),
        ),
        (
            {"encoded": 600, "encode": 6, "prepared": 300, "decode": 6, "write": 30},
            ("Bottleneck: writing to the store; items/s by cuda:0 and 4 workers: encoder 50, "
            "preparing 200, writing to the store 10."),
        ),
        (
            {"encoded": 600, "encode": 3, "prepared": 300, "decode": 10},
            ("No bottleneck; items/s by cuda:0 and 4 workers: encoder 100, preparing "
            "120."),
        ),
    ],
)  # fmt: skip
def test_the_slowest_side_is_named_where_every_other_could_do_a_quarter_more(counted, said):
    found = tracker(**counted)
    assert found.bottleneck() == said
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
