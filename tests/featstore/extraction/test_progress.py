"""What limits a job, by hand, and what parts of workers add up to."""

from __future__ import annotations

import logging

import pytest

from featstore.extraction import batches
from featstore.extraction import job as run
from featstore.extraction.batches import StageClock, Tracker
from featstore.extraction.job import extract
from tests.featstore.extraction.conftest import SPACE, MeanColour


def tracker(**counted: float) -> Tracker:
    found = Tracker(StageClock(), rows_total=99, rows_done=1, encoders=2)
    found.take(counted)
    return found


@pytest.mark.parametrize(
    ("counted", "said"),
    [
        ({}, ""),
        ({"wait": 6, "forward": 3, "write": 1}, "Bottleneck: preparing items, 60% of the time."),
        ({"wait": 3, "forward": 7}, "Bottleneck: the encoder, 70% of the time."),
        ({"write": 9, "forward": 1}, "Bottleneck: writing to the store, 90% of the time."),
        ({"wait": 5, "forward": 5}, ""),
    ],
)
def test_a_stage_is_named_where_it_takes_most_of_the_time(counted, said):
    found = tracker(encoded=600, **counted)
    assert found.bottleneck() == said
    assert [found.first_bottleneck() for _ in range(2)] == [said, ""]
    assert tracker(encoded=500, **counted).first_bottleneck() == ""


def test_parts_of_two_workers_add_up_to_what_one_process_counts():
    every, alone = tracker(), tracker()
    for part in ((3, 5), (7,)):
        worker = tracker()
        for rows in part:
            for counting in (worker, alone):
                counting.advance(rows, encoded=rows != 5)
        every.take(worker.clock.counted, {"x", str(part)})
    assert every.clock.counted == alone.clock.counted
    assert (every.progress().rows_done, every.progress().failed) == (1 + 15, 3)
    alone.advance(500, encoded=False)  # a part that is done again
    assert alone.progress().rows_done == 99


def test_what_limits_is_said_once_after_the_first_batches(manifest, store, caplog, monkeypatch):
    monkeypatch.setattr(run, "say_how", lambda *_: "")
    monkeypatch.setattr(batches, "FIRST_ROWS", 3)
    monkeypatch.setattr(batches, "MOST", 0)
    with caplog.at_level(logging.INFO, logger="featstore.extraction.options"):
        extract(
            manifest, kind="image", encoder=MeanColour(), space=SPACE, store=store, batch_size=1,
            decode_timeout=None,
        )  # fmt: skip
    (line,) = caplog.messages
    assert line.startswith("Bottleneck: ")
