"""Every public name has an example in its docstring, and each runs as it stands."""

from __future__ import annotations

import doctest
import inspect
from pathlib import Path

import numpy as np
import pytest

import bench
import featstore
import featstore.testing
import fitters

FACES = (featstore, fitters, bench)

#: What an example may use without importing it.
KNOWN = {"np": np, "Path": Path} | {
    name: getattr(face, name) for face in (featstore.testing, *FACES) for name in face.__all__
}
MOST_LINES = 6

NAMED = {
    f"{face.__name__}.{name}": thing
    for face in FACES
    for name in face.__all__
    if inspect.isfunction(thing := getattr(face, name))
    or (inspect.isclass(thing) and not issubclass(thing, Exception))
}


@pytest.mark.parametrize("name", NAMED)
def test_examples_of_a_public_name_run(name, tmp_path, monkeypatch, no_plugins):
    monkeypatch.chdir(tmp_path)
    text = inspect.cleandoc(NAMED[name].__doc__)
    found = doctest.DocTestParser().get_doctest(text, dict(KNOWN), name, None, 0)
    assert found.examples, f"{name} has no example"
    lines = sum(one.source.count("\n") + one.want.count("\n") for one in found.examples)
    assert lines <= MOST_LINES
    raised = None
    try:
        doctest.DebugRunner(optionflags=doctest.ELLIPSIS).run(found)
    except doctest.DocTestFailure as err:
        pytest.fail(f"{err.example.source}gives\n{err.got}not\n{err.example.want}")
    except doctest.UnexpectedException as err:
        raised = err.exc_info[1]
    if raised:  # here, with its own cause: an extra that is not installed
        raise raised
