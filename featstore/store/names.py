"""Which sets a short name means."""

from __future__ import annotations

from featstore.keys import encoder_slug


def match_names(name: str, keys: list[str]) -> list[str]:
    """Return the keys that `name` fits; an exact directory or encoder name beats a prefix."""
    parts = name.strip("/").split("/", 2)
    if len(parts) != 3:
        return []
    dataset, kind, encoder = parts
    wanted = encoder_slug(encoder)
    inside = [key for key in keys if key.startswith(f"{dataset}/{kind}/")]
    exact, prefix = [], []
    for key in inside:
        directory = key.rsplit("/", 1)[1]
        stem = directory.rsplit("-", 1)[0]
        without_family = directory.split(".", 1)[-1]
        if wanted in (directory, stem, without_family, without_family.rsplit("-", 1)[0]):
            exact.append(key)
        elif wanted and (directory.startswith(wanted) or without_family.startswith(wanted)):
            prefix.append(key)
    return exact or prefix
