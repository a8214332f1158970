"""Errors of fitting and of fitted alignments, below ``featstore.errors.FeatstoreError``.

The tree, by what a handler would do::

    FeatstoreError
    └── FittersError
        ├── UnknownMethodError(KeyError)      fix the name
        ├── PairsError(ValueError)            fix the shapes, the weights or the groups
        ├── ZeroRowError(ValueError)          drop the rows it names
        ├── SingularMomentsError(ValueError)  use a penalty above 0
        ├── SelectionError(ValueError)        give more pairs, or fix the penalty and the weight
        ├── SettingError(ValueError)          fix the argument
        ├── MissingAlignmentError(FileNotFoundError)  fit it, or fix the path
        ├── AlignmentWriteError(OSError)      free space, permissions, another name
        ├── DivergedError(RuntimeError)       lower the learning rate
        └── CorruptAlignmentError(RuntimeError)  fit the alignment again

Each also inherits the builtin that a caller would expect.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from featstore.errors import FeatstoreError, unknown_name


class FittersError(FeatstoreError):
    """Base of the errors that fitters raises on purpose."""


class UnknownMethodError(FittersError, KeyError):
    """No aligner, method or control has this name."""


class PairsError(FittersError, ValueError):
    """Rows, groups or weights do not fit one another."""


class ZeroRowError(FittersError, ValueError):
    """A row has no direction: its norm is 0 or not finite."""


class SingularMomentsError(FittersError, ValueError):
    """A system without penalty has no unique solution."""


class SelectionError(FittersError, ValueError):
    """The training data cannot carry the choice that was asked for."""


class SettingError(FittersError, ValueError):
    """An argument is outside its range, or contradicts another."""


class MissingAlignmentError(FittersError, FileNotFoundError):
    """There is no alignment at a path."""


class AlignmentWriteError(FittersError, OSError):
    """An alignment cannot be written where it was asked to be."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise AlignmentWriteError where a file or folder cannot be written."""
    from featstore.durable import remedy

    try:
        yield
    except OSError as err:
        # Of permissions the remedy of a store speaks of a team.
        closed = isinstance(err, PermissionError)
        other = "Choose a folder that you may write to"
        what = other if closed else remedy(err, otherwise=other)
        raise AlignmentWriteError(
            f"{path} cannot be written: {err.strerror or err}. {what}, and run the same command "
            "again."
        ) from err


class DivergedError(FittersError, RuntimeError):
    """A training ended in values that are not finite."""


class CorruptAlignmentError(FittersError, RuntimeError):
    """The files of a saved alignment are not what they should be."""


class UnequalNamesWarning(UserWarning):
    """A score takes names for equally frequent, and the scores say that they are not."""


def check_names(
    names: Iterable[str],
    known: Collection[str],
    *,
    what: str,
    error: type[FeatstoreError],
    where: str,
) -> None:
    """Raise an error for the first name that is not known, in the words of `unknown_name`.

    Examples
    --------
    >>> check_names(["penalty"], ["penalty", "mix"], what="setting", error=SettingError, where="")
    """
    for name in names:
        if name not in known:
            raise error(unknown_name(what, name, known, where=where))
