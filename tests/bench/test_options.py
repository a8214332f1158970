from dataclasses import fields, is_dataclass

import pytest

from bench.errors import ProtocolError
from bench.options import TASKS, ZeroShot, checked_options, options_of, options_text


def test_every_task_has_options_that_are_plain_and_default():
    for task, kind in ((name, task.options) for name, task in TASKS.items()):
        assert is_dataclass(kind)
        assert checked_options(task, None) == kind()
        assert options_text(kind()) == ""
        for field in fields(kind):
            assert isinstance(field.default, str | int | tuple)


BAD = [
    ("zero_shot", {"prompt": "max"}, "Did you mean 'prompts'"),
    ("zero_shot", {"prompts": "best"},
     "'prompts' of task zero_shot must be 'mean' or 'max' or 'each'; got 'best'"),
    ("few_shot", {"shots": "many"}, "'shots' of task few_shot must be at least 0"),
    ("few_shot", {"prototypes": 1}, "'prototypes' of task few_shot must be .*; got 1"),
    ("few_shot", {"prototypes": "heads"}, "'prototypes' of task few_shot must be .*; got 'heads'"),
    ("neighbours", {"k": [3, -1]}, "'k' of task neighbours must be at least 1"),
    ("neighbours", {"k": ()}, "'k' of task neighbours must be at least 1"),
    ("modality_gap", {"max_rows": 1}, "'max_rows' of task modality_gap must be at least 2"),
    ("modality_gap", {"n_permutations": 1_000_000}, "must be at least 0 and below 1,000,000"),
    ("cosine_head", {"k": 3}, "Known settings: none"),
]  # fmt: skip


@pytest.mark.parametrize(("task", "values", "message"), BAD, ids=[message for *_, message in BAD])
def test_values_that_mean_nothing_are_refused(task, values, message):
    with pytest.raises(ProtocolError, match=message):
        options_of(task, values)


def test_options_of_another_task_are_refused():
    with pytest.raises(ProtocolError, match="takes options FewShot; got ZeroShot"):
        checked_options("few_shot", ZeroShot())
