"""Every dataset that Headstock can build by name: the folders here with a dataset.toml."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from data_manifests import readers
from data_manifests.copies import Read
from data_manifests.labels import plan_label_set
from data_manifests.official import plan_dataset
from data_manifests.plan import BuildError, Plan, read_facts

#: Keyword arguments of every dataset that is read from its official layout.
FROM_DISK = frozenset({"root", "splits", "subset", "classes_only", "split_file"})
_WITH_FLAGS = FROM_DISK | {"source", "locales"}


@dataclass(frozen=True)
class Builder:
    """One dataset, as its dataset.toml says: which options it takes, and how it is planned.

    A key there says what reads it: ``reader``, its official layout on disk (a function of
    `data_manifests.readers`); ``synsets``, a label set of timm's files. Without either a function
    `plan` in the module of its name does.
    """

    folder: Path
    """Where its dataset.toml lies."""

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Facts of dataset.toml: revision, licence, home page, summary, expected counts …."""
        return read_facts(self.folder)

    @property
    def name(self) -> str:
        """Name on the command line and first part of every id."""
        return str(self.facts["name"])

    @property
    def options(self) -> frozenset[str]:
        """Keyword arguments of `plan` that the user may give."""
        taken = frozenset(self.facts.get("options", {}))
        if "reader" in self.facts:
            taken |= FROM_DISK
        if "synsets" in self.facts:
            taken |= {"source"}
        own = self._own_plan
        return taken if own is None else taken.union(inspect.signature(own).parameters)

    @property
    def summary(self) -> str:
        """One sentence on what the dataset is."""
        return str(self.facts["summary"])

    @property
    def read(self) -> Read | None:
        """The reader of its official layout, if it is read from one: of ``readers``, by name.

        Raises
        ------
        BuildError
            If there is no such function.
        """
        if "reader" not in self.facts:
            return None
        read: Read | None = getattr(readers, str(self.facts["reader"]), None)
        if read is None:
            raise BuildError(
                f"{self.folder / 'dataset.toml'} names the reader {self.facts['reader']!r}, which "
                "data_manifests.readers has not."
            )
        return read

    @property
    def _own_plan(self) -> Callable[..., Plan] | None:
        """The function `plan` of its own module, if neither key says what reads it."""
        if self.facts.keys() & {"reader", "synsets"}:
            return None
        plan: Callable[..., Plan] = import_module(f"data_manifests.{self.folder.name}").plan
        return plan

    def plan(self, **options: Any) -> Plan:
        """Find and read the source, and decide what would be built.

        A label set whose pictures can be read as well is planned with them if a root is given.

        Raises
        ------
        BuildError
            If that cannot be done.
        """
        own, read = self._own_plan, self.read
        if own is not None:
            return own(**options)
        given = options.pop("source", None)
        if read is not None and ("root" in options or "synsets" not in self.facts):
            return plan_dataset(self.folder, read, **options)
        return plan_label_set(self.folder, source=given)


@dataclass(frozen=True)
class OwnBuilder(Builder):
    """A dataset of another package, which a function plans."""

    plan_with: Callable[..., Plan]
    named: str

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Its name, the first line of the function's docstring, and options without a flag."""
        text = (inspect.getdoc(self.plan_with) or "").partition("\n")[0]
        free = inspect.signature(self.plan_with).parameters.keys() - _WITH_FLAGS
        options = {name: {"what": f"parameter of {self.plan_with.__name__}"} for name in free}
        return {"name": self.named, "summary": text, "options": dict(sorted(options.items()))}

    @property
    def _own_plan(self) -> Callable[..., Plan]:
        return self.plan_with


#: Name -> dataset, by name.
BUILDERS: dict[str, Builder] = {
    file.parent.name: Builder(file.parent)
    for file in sorted(Path(__file__).parent.glob("*/dataset.toml"))
}
