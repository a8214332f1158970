"""Real limits on the size of files; disks that are full: test_matrix and test_every_call."""

import pytest

from tests.faults.trees import check_readable, litter, tree


@pytest.mark.parametrize("limit", [0, 100, 300, 16_384, 40_000, 65_000, 65_560])
def test_a_limit_on_the_size_of_files(children, store, limit):
    whole = store.with_name("whole")
    assert children.run("grow", whole)["code"] == 0
    report = children.run("grow", store, file_size=limit)
    assert (report["code"], report["error"]) == (1, "StoreWriteError"), report
    assert "File too large. Raise the limit on the size of files (`ulimit -f`)" in report["message"]
    check_readable(store, f"limit {limit}")
    assert children.run("grow", store)["code"] == 0
    assert tree(store) == tree(whole)
    assert litter(store) == []
