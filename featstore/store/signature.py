"""The signature of a store: the owner of a key vouches for each set's revision, and each tag.

Commits hold the hashes of all bytes, and tags those of commits, so one Ed25519 signature over their
ids covers every row. A counter in it grows with each state that is signed: whoever saw a higher one
knows that an earlier state, with its signature, was put back.
"""

from __future__ import annotations

import os
import re
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_manifests import cache_folder
from featstore.durable import (
    fsync_directory,
    make_folders,
    write_durably,
    write_error,
)
from featstore.errors import (
    FeatstoreError,
    SignatureError,
    needs_extra,
)
from featstore.identity import canonical_json, sha256_hex
from featstore.store.files import (
    json_bytes,
    read_json,
    read_regular,
)
from featstore.store.layout import FORMAT
from featstore.store.lock import folder_lock
from featstore.store.log import MAX_COUNTER, Log
from featstore.store.records import is_size

#: The field of Ed25519's curve, and y of its eight points of small order (1, 2, 4 or 8). For a key
#: that is one of them, signatures pass that no private key made.
_PRIME = 2**255 - 19
_Y_OF_ORDER_8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER = frozenset({0, 1, _PRIME - 1, _Y_OF_ORDER_8, _PRIME - _Y_OF_ORDER_8})

_LIMIT = 2**16
_KEY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Signature:
    """What a log states of who signed it.

    Attributes
    ----------
    public_key : str
        64 hexadecimal digits.
    counter : int
        Number of the state that was signed; a later one has a higher number.
    signature : str
        Ed25519, 128 hexadecimal digits.
    """

    public_key: str
    counter: int
    signature: str

    @classmethod
    def of(cls, log: Log) -> Signature | None:
        """Return the signature that a log carries; None if it is not signed."""
        return cls(**log.signature) if log.signature else None

    def covers(self, log: Log) -> bool:
        """Return whether this is what the owner of the key signed of a store with this log."""
        with needs_extra("A signed store"):
            from cryptography.exceptions import InvalidSignature
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        try:
            Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.public_key)).verify(
                bytes.fromhex(self.signature), signed_bytes(log, self.counter)
            )
        except (InvalidSignature, ValueError):
            return False
        return True


def signed_bytes(log: Log, counter: int) -> bytes:
    """Return what is signed of a log, in canonical form: docs/ref/store-format.md."""
    return canonical_json(
        {
            "what": "headstock store",
            "format": FORMAT,
            "counter": counter,
            "sets": log.sets,
            "tags": log.tags,
        }
    )


def check_signed(log: Log, key: str, *, where: str, at_least: int) -> None:
    """Compare the log of a store with what the owner of a key signed.

    The counter is remembered in the user's cache: for this address and key, no lower one is taken
    again.

    Parameters
    ----------
    where : str
        Address of the store.
    at_least : int
        The lowest counter that is taken.

    Raises
    ------
    SignatureError
        If there is no signature of this key, it is not one of what the store lists, or an earlier
        state was put back.
    """
    wanted = check_key(key)
    signature = Signature.of(log)
    if signature is None:
        raise SignatureError(
            f"{where} is not signed. Ask its owner for `headstock store tag --sign-key`."
        )
    if signature.public_key != wanted:
        raise SignatureError(
            f"{where} is signed by the key {signature.public_key}, not by {wanted}. Use it only if "
            "its owner tells you that the key has changed."
        )
    if not signature.covers(log):
        raise SignatureError(
            f"{where} is not what its owner signed as number {signature.counter:,}: sets or tags "
            "were changed since, or put back. Its owner can sign what is right."
        )
    seen = remembered(where, wanted)
    if signature.counter < max(at_least, seen):
        raise SignatureError(
            f"{where} is signed as number {signature.counter:,}; number {max(at_least, seen):,} "
            f"{'was seen here before' if seen >= at_least else 'is asked for'}: an earlier state "
            "was put back."
        )
    remember(where, wanted, signature.counter)


def check_key(key: object) -> str:
    """Return a public key: 64 hexadecimal digits.

    Raises
    ------
    SignatureError
        If it is none, or one for which anyone can make signatures.
    """
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise SignatureError(
            "A key is trusted by its 64 hexadecimal digits, which `headstock store tag --sign-key` "
            f"prints; got {str(key)[:16]!r}."
        )
    if int.from_bytes(bytes.fromhex(key), "little") % 2**255 % _PRIME in _SMALL_ORDER:
        raise SignatureError(
            f"The key {key} is a point of small order: anyone can sign for it, so that a signature "
            "proves nothing. Ask the owner for the key that `headstock store tag --sign-key` "
            "prints."
        )
    return key


def check_outside_stores(path: Path) -> None:
    """Raise SignatureError if a private key lies in a store, or what it links to does."""
    for folder in (*path.absolute().parents, *path.resolve().parents):
        if os.path.lexists(folder / "log.json"):
            raise SignatureError(
                f"{path} lies in the store {folder}: whoever copies or uploads that folder "
                "publishes the private key. Name a file outside of it; if the store was shared, "
                "sign it by a new key."
            )


def make_key(path: Path) -> bool:
    """Make a private key, in PEM, in a file that only its owner reads; one that is there stays.

    Returns
    -------
    bool
        Whether there was none.

    Raises
    ------
    SignatureError
        If the file would lie in a store.
    StoreWriteError
        If the file system refuses.
    """
    check_outside_stores(path)
    with needs_extra("Signing"):
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    form = serialization
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)  # never opened to a group
        if os.path.lexists(path):
            return False
        # Readable to its owner alone. A process that is killed leaves a key that signed nothing.
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.") as staged:
            staged.write(
                Ed25519PrivateKey.generate().private_bytes(
                    form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()
                )
            )
            staged.flush()
            os.fsync(staged.fileno())
            os.link(staged.name, path)  # which, unlike a rename, replaces nothing
        fsync_directory(path.parent)
    except OSError as err:
        raise write_error(path, err) from err
    return True


def private_key(path: Path) -> Any:
    """Return the private key in a file; SignatureError if it holds none."""
    with needs_extra("Signing"):
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    try:
        data = read_regular(path, limit=_LIMIT)
        found: Any = serialization.load_pem_private_key(data, password=None)
    except (FeatstoreError, OSError, ValueError, TypeError, UnsupportedAlgorithm):
        found = None
    if not isinstance(found, Ed25519PrivateKey):
        raise SignatureError(
            f"{path} holds no private Ed25519 key in PEM without a password. `headstock store tag "
            "STORE --sign-key FILE --new-key` makes one."
        )
    return found


def _memory(address: str, key: str) -> Path:
    place = address if "://" in address else os.path.realpath(address)
    return cache_folder("signatures") / f"{sha256_hex(f'{place} {key}'.encode())[:32]}.json"


def remembered(address: str, key: str) -> int:
    """Return the highest counter that was seen at an address of a key's signatures, or 0."""
    try:
        found = read_json(_memory(address, key), limit=_LIMIT)["counter"]
    except (FeatstoreError, OSError, KeyError, TypeError):
        return 0
    return found if is_size(found, low=1, high=MAX_COUNTER) else 0


def remember(address: str, key: str, counter: int) -> None:
    """Keep a counter in the user's cache if it is higher than what was seen."""
    path = _memory(address, key)
    if remembered(address, key) >= counter:
        return
    facts = {"address": address, "public_key": key, "counter": counter}
    try:
        make_folders(path.parent)
        with folder_lock(path.parent):
            if remembered(address, key) < counter:
                write_durably(path, [json_bytes(facts)])
    except OSError as err:
        warnings.warn(
            f"Number {counter:,} of {address} cannot be remembered in {path.parent} "
            f"({err.strerror or err}): that an earlier state is put back will not be noticed "
            "without at_least.",
            stacklevel=2,
        )
