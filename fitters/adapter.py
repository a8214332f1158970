"""Adapters: one safetensors file that maps the vectors of an old encoder to those of a new one.

NumPy alone applies it, in the lines of `Adapter.lines`. It holds what it was measured to keep, and
rows whose mapping is compared when it is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from featstore.durable import write_durably
from featstore.matrices import Rows, matrix
from fitters.errors import CorruptAlignmentError, PairsError, unwritable
from fitters.space_maps import MAPS, SpaceMap

FORMAT = 1

#: Rows that are mapped at a time; `make perf` has their speed beside the bare product.
BLOCK_ROWS = 4096

#: Rows whose mapping is compared when an adapter is read.
GOLDEN = 8

#: A mapped golden row may be off by so much of its length: products round in another order.
_CLOSE = 1e-4

_FACTS = "headstock"


@dataclass(frozen=True, eq=False)
class Adapter:
    """A map from old rows to new ones, with its evidence.

    Attributes
    ----------
    map : SpaceMap
        In float32.
    unit : bool
        Whether new rows have length 1: mapped rows are then divided by theirs.
    golden : ndarray of shape (g, p)
        Old rows.
    facts : mapping
        Plain values: the identities of both spaces, pairs, settings, what was kept, controls.

    Examples
    --------
    >>> made = Adapter(SpaceMap(np.zeros(3, "f4"), np.eye(2, 3, dtype="f4")), True, np.eye(2))
    >>> made.apply([[3.0, 4.0]])
    array([[0.6, 0.8, 0. ]], dtype=float32)
    """

    map: SpaceMap
    unit: bool
    golden: npt.NDArray[Any]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def widths(self) -> tuple[int, int]:
        """Columns of old rows and of new ones."""
        return self.map.width, len(self.map.bias)

    def apply(self, rows: Rows, out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """Return the new rows of old ones.

        Parameters
        ----------
        rows : Rows
            Of shape (n, p), or one vector.
        out : ndarray of shape (n, q), optional
            float32, may be mapped from a file.

        Raises
        ------
        PairsError
            If the rows have another width.
        RowsError
            If they are no matrix of numbers.
        """
        given = matrix(rows, "rows", one=True)
        old, new = self.widths
        if given.shape[1] != old:
            raise PairsError(
                f"This adapter maps rows of {old:,} columns to {new:,}; got {given.shape[1]:,}."
            )
        found = np.empty((len(given), new), np.float32) if out is None else out
        for start in range(0, len(given), BLOCK_ROWS):
            own, block = (rows[start : start + BLOCK_ROWS] for rows in (given, found))
            self.map.apply(own.astype(np.float32, copy=False), block)
            if self.unit:
                norms = np.sqrt(np.einsum("nq,nq->n", block, block))
                block *= 1 / np.maximum(norms, np.finfo(np.float32).tiny)[:, None]
        return found

    def save(self, path: Path | str) -> Path:
        """Write the adapter, whole or not at all; equal ones have equal bytes.

        Raises
        ------
        AlignmentWriteError
            If it cannot be written.
        """
        path, facts = Path(path), {"format": FORMAT, "unit": self.unit, **self.facts}
        arrays = {
            **self.map.arrays(),
            "golden_old": self.golden.astype(np.float32),
            "golden_new": self.apply(self.golden),
        }
        whole = {name: np.ascontiguousarray(array, "<f4") for name, array in arrays.items()}
        try:
            write_durably(path, [save(whole, {_FACTS: json.dumps(facts, sort_keys=True)})])
        except OSError as err:
            raise unwritable(path, err) from err
        return path

    def lines(self, path: Path | str) -> str:
        """Return the lines of NumPy that map rows `old` to `new` by the file at `path`."""
        steps = [
            "import json",
            "import numpy as np",
            f"data = np.fromfile({str(path)!r}, np.uint8)",
            "start = 8 + int(data[:8].view('<u8')[0])",
            "head = json.loads(data[8:start].tobytes())",
            "del head['__metadata__']",
            "raw = {k: data[start:][slice(*head[k]['data_offsets'])] for k in head}",
            "part = {k: raw[k].view('<f4').reshape(head[k]['shape']) for k in head}",
        ]
        steps += self.map.LINES
        if self.unit:
            steps += ["new /= np.linalg.norm(new, axis=1, keepdims=True)"]
        return "\n".join(steps)

    @classmethod
    def read(cls, path: Path) -> Adapter:
        """Read what `save` wrote, and compare the golden rows. No code of it is run.

        Raises
        ------
        CorruptAlignmentError
            If it is no adapter, or maps its golden rows otherwise.
        """
        try:
            with safe_open(path, "numpy") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                facts = json.loads(file.metadata()[_FACTS])
            golden, there = arrays.pop("golden_old"), arrays.pop("golden_new")
            (kind,) = (one for one in MAPS if {own.name for own in fields(one)} == arrays.keys())
            own = cls(kind(**arrays), facts.pop("unit"), golden, facts)
            whole = all(a.dtype == np.float32 and np.isfinite(a).all() for a in arrays.values())
            if facts.pop("format") != FORMAT or not whole:
                raise ValueError("its arrays are not those of a map")
            off = np.abs(own.apply(golden) - there).max() if golden.size else 0.0
            if not off <= _CLOSE * max(1.0, float(np.abs(there).max(initial=0.0))):
                raise CorruptAlignmentError(
                    f"{path} maps its golden rows to others than it states, off by up to "
                    f"{off:.2g}. It was changed: make it again by `headstock bridge`."
                )
        except FileNotFoundError:
            raise
        except (OSError, SafetensorError, KeyError, TypeError, AttributeError, ValueError) as err:
            raise CorruptAlignmentError(
                f"{path} is no adapter that `headstock bridge` wrote: {err}."
            ) from err
        return own
