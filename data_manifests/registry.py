"""Every dataset that Headstock can build by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from data_manifests import stamps
from data_manifests.plan import Built, Plan, read_facts
from data_manifests.stamps.build import plan as plan_stamps
from data_manifests.wordnet import plan_label_set


@dataclass(frozen=True)
class Builder:
    """One dataset: how it is named, what it takes, and how it is planned."""

    name: str
    """Name on the command line and first part of every id."""

    folder: Path
    """Where its dataset.toml lies."""

    options: frozenset[str]
    """Keyword arguments of `plan` that the user may give."""

    plan: Callable[..., Plan]
    """Find and read the source; raise BuildError if that cannot be done."""

    @property
    def facts(self) -> dict[str, Any]:
        """Facts of dataset.toml: revision, licence, home page, summary, expected counts …."""
        return read_facts(self.folder)

    @property
    def summary(self) -> str:
        """One sentence on what the dataset is."""
        return str(self.facts["summary"])

    def build(self, out: Path, **options: Any) -> Built:
        """Plan and make in one go: files under `out`, tables returned."""
        return self.plan(**options).make(out, None)


def _builder(name: str, module: Any, options: set[str], plan: Callable[..., Plan]) -> Builder:
    return Builder(name, Path(module.__file__).parent, frozenset(options), plan)


def _label_set(name: str) -> Builder:
    folder = Path(__file__).parent / name
    return Builder(name, folder, frozenset({"source"}), partial(plan_label_set, folder))


BUILDERS: dict[str, Builder] = {
    "stamps": _builder("stamps", stamps, {"source", "locales"}, plan_stamps),
    "imagenet1k": _label_set("imagenet1k"),
    "imagenet12k": _label_set("imagenet12k"),
    "imagenet21k_goog": _label_set("imagenet21k_goog"),
    "imagenet21k_miil": _label_set("imagenet21k_miil"),
    "imagenet21k_miil_w21": _label_set("imagenet21k_miil_w21"),
    "imagenet22k": _label_set("imagenet22k"),
    "imagenet22k_ms": _label_set("imagenet22k_ms"),
}
