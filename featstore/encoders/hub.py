"""The model hub: asked once, briefly, before a library would retry for a minute."""

from __future__ import annotations

from pathlib import Path

from featstore.encoders.weights import one_line
from featstore.errors import EncoderError

_TIMEOUT_S = 5.0


def hub_unreachable() -> str | None:
    """Return why the Hugging Face hub cannot be reached, or None if it can.

    Respects ``HF_ENDPOINT``, ``HF_HUB_OFFLINE`` and proxies, as huggingface_hub does.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set."
    try:
        get_session().head(constants.ENDPOINT, timeout=_TIMEOUT_S)
    except Exception as err:  # httpx's or requests' errors, by the version of huggingface_hub
        return one_line(err)
    return None


def cached_file(repo: str, filename: str) -> Path | None:
    """Return a file of the hub repository `repo` that is in the local cache, without a request."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, filename)
    return Path(found) if isinstance(found, str) else None


def hub_error(encoder: str, reason: str) -> EncoderError:
    """Return the error that says what to do when the hub does not give the weights."""
    msg = (
        f"The weights of {encoder} could not be taken from the hub: {reason} Pass --weights "
        "(API: weights=) with a file, a folder or package:DISTRIBUTION."
    )
    return EncoderError(msg)
