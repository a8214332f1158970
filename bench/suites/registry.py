"""The suites by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from bench.errors import UnknownSuiteError
from bench.runs import Run
from bench.suites.demo import create_smoke_store, demo_runs, smoke_runs
from bench.suites.paper import Lacking, lacking, paper_runs
from featstore.errors import lookup
from featstore.store.store import FeatureStore


class PlanRuns(Protocol):
    """Plans the runs of a suite."""

    def __call__(self, store: FeatureStore, *, limit: int | None = None) -> list[Run]:
        """Return the runs on a store; `limit` keeps so many images."""
        ...


@dataclass(frozen=True)
class Suite:
    """A suite.

    Attributes
    ----------
    runs : callable
        Plans the runs on a store.
    summary : str
        One line.
    create_store : callable, optional
        Makes the store that the suite brings with it.
    lacking : callable, optional
        Lists what a store lacks of it, with commands that call the store by a name, or by its own.
    """

    runs: PlanRuns
    summary: str
    create_store: Callable[[Path], None] | None = None
    lacking: Callable[[FeatureStore, str | None], list[Lacking]] | None = None


SUITES: dict[str, Suite] = {
    "demo": Suite(demo_runs, "all 517 names, and 16 to all real pairs, beside the controls"),
    "smoke": Suite(
        smoke_runs,
        "the same on a synthetic store, in seconds; needs no --store",
        create_smoke_store,
    ),
    "paper": Suite(
        paper_runs,
        "the paper's experiments, each as soon as its sets are in the store",
        lacking=lacking,
    ),
}


def suite_named(name: str) -> Suite:
    """Return the suite called `name`.

    Raises
    ------
    UnknownSuiteError
        If there is none; the message lists those that exist.
    """
    return lookup(SUITES, name, what="suite", error=UnknownSuiteError)


def with_texts(runs: Sequence[Run], texts: Mapping[str, Any]) -> list[Run]:
    """Return the runs of a suite with other prompts than its own.

    Parameters
    ----------
    runs : sequence of Run
    texts : mapping
        Of variants, templates, head_variants and head_templates those that are to change. Runs
        without a head keep the last two.
    """
    of_images = {name: words for name, words in texts.items() if not name.startswith("head_")}
    return list(
        dict.fromkeys(replace(run, **(texts if run.head_set else of_images)) for run in runs)
    )
