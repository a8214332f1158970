"""Labels in MATLAB files."""

from __future__ import annotations

import io
from typing import Any

from data_manifests.official.disk import Disk
from data_manifests.plan import BuildError


def read_mat(disk: Disk, name: str, variable: str) -> Any:
    """Return one variable of a .mat file (version 5), squeezed.

    Raises
    ------
    BuildError
        If the file is missing, no .mat file, or lacks the variable.
    """
    from scipy.io import loadmat

    data = disk.read(name)
    try:
        return loadmat(io.BytesIO(data), squeeze_me=True, variable_names=[variable])[variable]
    except Exception as err:  # damaged files make scipy raise nearly anything
        why = f"it has no variable {variable!r}" if isinstance(err, KeyError) else str(err)[:200]
        msg = f"Cannot read {disk.path(name)} as a .mat file: {why}. Fetch it again."
        raise BuildError(msg) from err
