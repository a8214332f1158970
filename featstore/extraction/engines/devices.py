"""``--devices``: one process a device of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from featstore.errors import EncoderError, needs_extra
from featstore.extraction.engines.conducting import conduct
from featstore.extraction.engines.processes import ProcessCrew
from featstore.extraction.engines.request import make_request, share_of_cores
from featstore.extraction.events import ExtractResult
from featstore.extraction.options import EncoderChoice, Options
from featstore.manifest import Manifest


def extract_on_devices(
    manifest: str | Path | Manifest,
    *,
    kind: str,
    encoders: Sequence[EncoderChoice],
    store: str | Path,
    devices: str | Sequence[str] = "all",
    options: Options | None = None,
) -> list[ExtractResult]:
    """Run `extract_many` in one process a device; the store is the same as of one process.

    The cores are shared out evenly where the options name neither threads nor workers. On a CPU
    threads decide the last bits of a row: to compare two stores bit for bit, name them. A job
    that is resumed takes those it was begun with.

    A process that dies (no memory, a broken driver) is reported and started again, twice; its
    blocks are lost only as far as they were not written. Ctrl-C ends every process, and the
    same call again resumes. In a script, call this below ``if __name__ == "__main__":``, because
    the processes import it.

    Parameters
    ----------
    manifest, kind, encoders, store, options
        As for `extract_many`, but encoders by name only; `options.device` is not used.
    devices : str or sequence of str
        ``all`` GPUs of this machine, or a list such as ``cuda:0,cuda:1`` or ``cpu,cpu``.

    Raises
    ------
    EncoderError
        If there is no such device, or an encoder is an object.
    WorkerDiedError
        If processes die again and again.
    FeatstoreError
        As for `extract`.
    """
    asked = options or Options()
    chosen = parse_devices(devices)
    request = make_request(
        manifest, kind=kind, encoders=encoders, store=store, options=replace(asked, part=None)
    )
    with ProcessCrew(request, chosen, cores=share_of_cores(len(chosen))) as crew:
        return conduct(
            crew,
            encoders=len(request.encoders),
            on_block=asked.on_block,
            on_progress=asked.on_progress,
        )


def parse_devices(devices: str | Sequence[str]) -> list[str]:
    """Return the devices that are meant.

    Raises
    ------
    EncoderError
        If none is, or ``all`` are asked for where there is no GPU.
    """
    if isinstance(devices, str):
        devices = all_devices() if devices.strip() == "all" else devices.split(",")
    chosen = [device.strip() for device in devices if device.strip()]
    if not chosen:
        msg = "No device is named. Take --devices all, or a list such as cuda:0,cuda:1."
        raise EncoderError(msg)
    return chosen


def all_devices() -> list[str]:
    """Return every GPU of this machine.

    Raises
    ------
    EncoderError
        If there is none.
    """
    with needs_extra("--devices"):
        import torch

    found = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    if not found:
        msg = (
            "This machine has no GPU that torch can use. Several processes on the CPU are "
            "--devices cpu,cpu; one is what --device cpu does."
        )
        raise EncoderError(msg)
    return found
