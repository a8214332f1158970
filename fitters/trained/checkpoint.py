"""Checkpoints: the state of a training in one safetensors file, so that it can be resumed.

A resumed training ends in the same bytes as one that was never interrupted. The file holds data
only, and is read by the same training alone (`identity`).
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from featstore.durable import write_durably
from fitters.errors import unwritable

logger = logging.getLogger(__name__)

FORMAT = 1
KEY = "headstock"


@dataclass(eq=False)
class Checkpoint:
    """The file of one training.

    Attributes
    ----------
    path : Path
    identity : str
        Digest of settings and data; a file of another training is left unread and replaced.
    every : float
        Seconds between two writes, at the least; 0 writes after every epoch.
    """

    path: Path
    identity: str
    every: float = 30.0
    _written: float = field(default_factory=time.monotonic)

    def read(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return tensors and facts, or None if there is nothing to resume."""
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                facts: dict[str, Any] = json.loads((file.metadata() or {})[KEY])
                if (facts["format"], facts["identity"]) != (FORMAT, self.identity):
                    logger.warning("%s is of another training; this one starts anew.", self.path)
                    return None
                return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as err:
            logger.warning("%s cannot be read (%s); the training starts anew.", self.path, err)
            return None

    def due(self) -> bool:
        """Return whether enough time has gone since the last write."""
        return time.monotonic() - self._written >= self.every

    def write(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Replace the file, whole or not at all.

        Raises
        ------
        AlignmentWriteError
            If it cannot be written.
        """
        text = json.dumps({"format": FORMAT, "identity": self.identity, **facts})
        held = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(self.path, [save(held, metadata={KEY: text})])
        except OSError as err:
            raise unwritable(self.path, err) from err
        self._written = time.monotonic()


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the state of an optimiser by ``optimiser.<parameter>.<name>``."""
    return {
        f"optimiser.{number}.{name}": value
        for number, state in optimiser.state_dict()["state"].items()
        for name, value in state.items()
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give an optimiser the state that `optimiser_tensors` returned."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimiser."):
            _, number, name = key.split(".", 2)
            state.setdefault(int(number), {})[name] = value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})


def module_tensors(prefix: str, module: nn.Module | dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of a module, or a state that was kept, with a prefix."""
    held = module.state_dict() if isinstance(module, nn.Module) else module
    return {f"{prefix}.{name}": value for name, value in held.items()}


def with_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that `module_tensors` gave this prefix, without it."""
    start = f"{prefix}."
    return {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}
