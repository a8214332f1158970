"""Print what is installed of the extra `dev`, with versions: ``make lock`` writes it to dev.lock.

Only what `dev` needs is listed, whatever else is installed, and of a version only what the index
knows: `2.13.0+cpu` is the CPU build of `2.13.0`.
"""

from __future__ import annotations

import platform
import re
from importlib.metadata import distribution

from packaging.requirements import Requirement

HEAD = """\
# The versions that the tests of `dev` last ran with: Python {python}, {system}.
# Written by `make lock`. Used by `make test LOCKED=1`, or `pip install -c dev.lock -e '.[dev]'`.
"""


def locked(name: str, extra: str) -> dict[str, str]:
    """Return name and version of all that a package needs with an extra, without the package.

    Raises
    ------
    importlib.metadata.PackageNotFoundError
        If one of them is not installed.
    """
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    open_ = [(name, extra), (name, "")]
    while open_:
        package, wanted = open_.pop()
        if (package, wanted) in seen:
            continue
        seen.add((package, wanted))
        installed = distribution(package)
        found[package] = installed.version.partition("+")[0]
        for line in installed.requires or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": wanted}):
                known = re.sub(r"[-_.]+", "-", needed.name).lower()
                open_ += [(known, ""), *((known, extra) for extra in needed.extras)]
    del found[name]
    return found


def main() -> None:
    """Print the lock file."""
    print(
        HEAD.format(python=".".join(platform.python_version_tuple()[:2]), system=platform.system()),
        end="",
    )
    for name, version in sorted(locked("headstock", "dev").items()):
        print(f"{name}=={version}")


if __name__ == "__main__":
    main()
