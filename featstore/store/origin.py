"""Where the rows of a view come from, which is how the view travels to another process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from featstore.store.readers import Mode

#: Returns a view of what `Origin` and five facts name; see `featstore.store.opening.reopened`.
Reopen = Callable[..., Any]


@dataclass(frozen=True)
class Origin:
    """How a store was opened.

    Attributes
    ----------
    address : str
        Absolute path, or address.
    mode, verify : str
        See `featstore.store.opening.open_store`. Elsewhere ``"full"`` is ``"first-touch"``: each
        process compares the blocks that it reads.
    reopen : callable
        Opens it again.
    """

    address: str
    mode: Mode
    verify: str
    reopen: Reopen
