"""The bar of a training, on a terminal's stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fitters.trained.progress import EpochDone, OnEpoch


@contextmanager
def training_progress(method: str) -> Iterator[OnEpoch]:
    """Draw a bar with loss, held-out metric and time left once there is an epoch to tell of."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn

    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[said]}"),
        console=console,
        disable=not console.is_terminal,
    )
    task: TaskID | None = None

    def tell(done: EpochDone) -> None:
        nonlocal task
        if task is None:
            bar.start()
            task = bar.add_task(method, total=done.n_epochs * done.n_stages, said="")
        finished = (done.stage - 1) * done.n_epochs + done.epoch
        bar.update(task, completed=finished, said=str(done))

    try:
        yield tell
    finally:
        bar.stop()
