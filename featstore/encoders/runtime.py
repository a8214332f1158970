"""Torch at run time: device, precision, threads, pixels, and copies between host and device.

What an image model does to a picture before its first layer is in two halves. Resizing and cropping
give uint8 pixels, a quarter of the bytes of the floats, on the host and in whatever process
decodes; casting and normalising happen once a batch, where the model is.

On a GPU a batch is stacked into pinned memory and copied on a stream of its own while the batch
before is computed, and each batch waits for its own copy alone. Vectors come back into pinned
memory, and only who needs them waits.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from featstore.encoders.base import (
    IMAGE_KINDS,
    PRECISIONS,
    EncoderOptions,
    golden_cosine,
    golden_images,
)
from featstore.encoders.weights import one_line
from featstore.errors import DeviceError, EncoderError
from featstore.images import Geometry, to_rgb

if TYPE_CHECKING:
    from PIL import Image


class Preprocessing:
    """A transform of timm or open_clip, taken apart where its steps are known.

    Parameters
    ----------
    transform : callable
        Maps an RGB picture (PIL) to a float32 tensor (3, h, w).
    input_size : tuple of int
        (3, h, w).

    Attributes
    ----------
    geometry : Geometry or None
        Of the uint8 half; None where the transform has other steps than these, or gives other
        bits than both halves together. It is then run as it is.
    """

    def __init__(self, transform: Any, input_size: tuple[int, ...]) -> None:
        self.transform = transform
        self.input_size = input_size
        self.geometry: Geometry | None = None
        found = _steps(transform)
        if found is None:
            return
        self.geometry, mean, std = found
        self._constants: dict[torch.device, tuple[torch.Tensor, ...]] = {}
        self._range = torch.tensor(255.0)
        self._mean, self._std = mean.view(3, 1, 1), std.view(3, 1, 1)
        same = self.geometry.crop == input_size[1:] and all(
            torch.equal(
                self.floats(torch.from_numpy(self.prepare(image)[None]))[0], transform(image)
            )
            for image in golden_images()
        )
        if not same:
            self.geometry = None

    def prepare(self, image: Image.Image) -> np.ndarray:
        """Return an RGB picture as (h, w, 3) uint8, or as (3, h, w) float32 without a geometry."""
        if self.geometry is not None:
            return self.geometry.pixels(image)
        return np.asarray(self.transform(image), dtype=np.float32)

    def fits(self, batch: Sequence[np.ndarray]) -> bool:
        """Return whether all of a batch is what `prepare` returns, or all of it floats."""
        kinds = {(np.shape(one), str(getattr(one, "dtype", None))) for one in batch}
        shape = () if self.geometry is None else self.geometry.shape
        return kinds in ({(self.input_size, "float32")}, {(shape, "uint8")})

    def floats(
        self,
        batch: torch.Tensor,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> torch.Tensor:
        """Return a batch, stacked and on its device already, as (b, 3, h, w) of float32 there.

        The same bits on every device: one divides by a tensor, where it might multiply by the
        reciprocal of a number.
        """
        if batch.dtype != torch.uint8:
            return batch.to(torch.float32, memory_format=memory_format)
        full, mean, std = self._constants_on(batch.device)
        pixels = batch.permute(0, 3, 1, 2).to(torch.float32, memory_format=memory_format)
        return pixels.div_(full).sub_(mean).div_(std)

    def _constants_on(self, device: torch.device) -> tuple[torch.Tensor, ...]:
        """Return the constants of normalising, copied to a device once: the host waits for that."""
        if device not in self._constants:
            own = (self._range, self._mean, self._std)
            self._constants[device] = tuple(one.to(device) for one in own)
        return self._constants[device]


def _steps(transform: Any) -> tuple[Geometry, torch.Tensor, torch.Tensor] | None:
    """Return geometry, mean and standard deviation of a transform; None if it has other steps."""
    steps = [
        step for step in getattr(transform, "transforms", ()) if type(step).__name__ not in _IDLE
    ]
    resize, *rest = steps or [None]
    if not isinstance(resize, transforms.Resize) or resize.max_size is not None:
        return None
    size = (resize.size,) if isinstance(resize.size, int) else tuple(resize.size)
    crop = size * 2 if len(size) == 1 else size
    if rest and isinstance(rest[0], transforms.CenterCrop):
        crop = tuple(rest.pop(0).size)
    if [isinstance(step, kind) for step, kind in zip(rest, _LAST, strict=False)] != [True, True]:
        return None
    interpolation = InterpolationMode(resize.interpolation).name
    mean, std = (torch.as_tensor(v, dtype=torch.float32) for v in (rest[1].mean, rest[1].std))
    return Geometry(size, crop, interpolation), mean, std


#: Steps that change nothing of an RGB picture.
_IDLE = ("MaybeConvertMode", "function")

#: How a transform ends.
_LAST = (transforms.ToTensor, transforms.Normalize)


def checked_device(device: str) -> torch.device:
    """Return `device` as torch knows it, after a tensor has lived there.

    Raises
    ------
    EncoderError
        If torch knows no such name.
    DeviceError
        If it cannot use the device: there is none, or it is broken.
    """
    error = EncoderError
    try:
        chosen = torch.device(device)
        error = DeviceError
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as err:
        # A build without CUDA asserts.
        raise error(
            f"Cannot use the device '{device}': {one_line(err)} Use cpu, or one that exists."
        ) from err
    return chosen


_AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def checked_precision(precision: str, device: torch.device) -> str:
    """Return `precision` if this device can compute in it.

    Raises
    ------
    EncoderError
        If it is no precision, or float16 on a CPU, where many layers lack it.
    """
    if precision not in PRECISIONS:
        raise EncoderError(
            f"The precision must be one of {', '.join(PRECISIONS)}; got {precision!r}."
        )
    if precision == "float16" and device.type == "cpu":
        raise EncoderError("float16 is computed on GPUs only. On a CPU take bfloat16, or float32.")
    return precision


def _float32_switches() -> tuple[list[Any], str, Any]:
    """Return what says whether float32 may become less: the objects, their attribute, and "no".

    Since torch 2.9 each operation has a switch of its own, with bfloat16 on CPUs among its values.
    The older pair must not be touched then: once a process has used the new ones, it raises.
    """
    backends: Any = torch.backends
    cuda, cudnn, mkldnn = backends.cuda, backends.cudnn, backends.mkldnn
    if not hasattr(cudnn, "conv"):
        return [cuda.matmul, cudnn], "allow_tf32", False
    of_cpu = [mkldnn.matmul, mkldnn.conv, mkldnn.rnn]
    return [cuda.matmul, cudnn.conv, cudnn.rnn, *of_cpu], "fp32_precision", "ieee"


class _TrueFloat32:
    """Keeps float32 whole while any thread computes, and then puts the process's choice back.

    The switches are the process's, so the first thread that enters turns them off and the last one
    that leaves restores them: in between, nobody's float32 becomes TF32.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before: list[Any] = []

    def __enter__(self) -> None:
        switches, name, off = _float32_switches()
        with self._lock:
            if self._inside == 0:
                self._before = [getattr(switch, name) for switch in switches]
                for switch in switches:
                    setattr(switch, name, off)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        switches, name, _off = _float32_switches()
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                for switch, chosen in zip(switches, self._before, strict=True):
                    setattr(switch, name, chosen)


_true_float32 = _TrueFloat32()


@contextmanager
def computing(precision: str, device: torch.device) -> Iterator[None]:
    """Run a forward pass in `precision`: autocast for the short ones, true float32 otherwise.

    TF32 and reduced-precision float32 products are off in float32, whatever the process chose:
    they change the bits, so they are not float32. Once no thread computes any more, the process's
    own choice is put back.
    """
    short = _AUTOCAST.get(precision)
    how: dict[str, Any] = {"enabled": False} if short is None else {"dtype": short}
    with _true_float32, torch.autocast(device.type, **how):
        yield


#: Items a batch on a GPU, where the options do not say it.
GPU_BATCH = 256

#: Smallest cosine to float32 on the golden inputs with which bfloat16 is taken by itself.
BFLOAT16_COSINE = 0.999

#: Compute capability from which a GPU multiplies bfloat16 in hardware: Ampere's. Older ones emulate
#: it, slower than float32.
BFLOAT16_CAPABILITY = (8, 0)


class TorchEncoder(ABC):
    """Base of the encoders that torch computes.

    A subclass adds `space`, `facts` and `dim`, and computes in `_computed`.

    Parameters
    ----------
    name : str
        ``family:name``.
    options : EncoderOptions
        Device, batch size and precision; a subclass may read more of them.

    Raises
    ------
    EncoderError
        If this machine has no such device, or it cannot compute in the precision.
    """

    kinds: ClassVar[frozenset[str]]
    own_batch_size: ClassVar[int]
    """Items a batch, if the options do not say it; on a GPU `GPU_BATCH`."""
    precision_reason = "as asked for"
    """Why it computes in its precision."""
    space: dict[str, Any]
    facts: dict[str, Any]
    dim: int
    _copies: DeviceCopies

    def __init__(self, name: str, options: EncoderOptions) -> None:
        self.name = name
        self._device = checked_device(options.device)
        #: Whether several threads should encode, each the next batch: see `DeviceCopies`.
        self.overlaps = self._device.type == "cuda"
        own = GPU_BATCH if self.overlaps else self.own_batch_size
        self.batch_size = options.batch_size or own
        self.precision = checked_precision(options.precision, self._device)
        self.facts = {"compute": {"tf32": False}}
        self.compute_in(self.precision, self.precision_reason)

    @property
    def precisions(self) -> list[str]:
        """The precisions that the device can compute in."""
        return [one for one in PRECISIONS if one != "float16" or self._device.type != "cpu"]

    def compute_in(self, precision: str, reason: str) -> None:
        """Compute in another precision from now on, and say so in `facts`.

        Raises
        ------
        EncoderError
            If the device cannot.
        """
        self.precision = checked_precision(precision, self._device)
        self.precision_reason = reason
        self.facts["compute"] |= {"precision": precision, "autocast": precision != "float32"}

    def best_precision(self) -> tuple[str, str]:
        """Return the precision that ``auto`` stands for on this device, and why.

        bfloat16 on a CUDA device that computes in it, where each golden input keeps a cosine of
        0.999 to float32, both computed there now; else float32.
        """
        if self._device.type != "cuda":
            return "float32", f"the default on {self._device.type}"
        capability = torch.cuda.get_device_capability(self._device)
        if capability < BFLOAT16_CAPABILITY:
            has, needs = (".".join(map(str, one)) for one in (capability, BFLOAT16_CAPABILITY))
            return "float32", f"bfloat16 needs compute capability {needs}, and this GPU has {has}"
        before = self.precision
        self.precision = "bfloat16"
        try:
            cosine = golden_cosine(self)
        except Exception as err:  # whatever an operation that lacks it raises
            return "float32", f"in bfloat16 the golden inputs failed: {one_line(err)[:-1]}"
        finally:
            self.precision = before
        kept = f"on the golden inputs bfloat16 keeps a cosine of {cosine:.4f} to float32"
        if cosine >= BFLOAT16_COSINE:
            return "bfloat16", kept
        return "float32", f"{kept}, less than {BFLOAT16_COSINE:g}"

    def encode(self, batch: Sequence[Any]) -> np.ndarray:
        """Return the (b, d) float32 vectors of prepared items, in the encoder's precision.

        The same batch gives the same bits on a CPU with the same number of threads.

        Raises
        ------
        EncoderError
            If an item was not prepared for this model.
        """
        return self._computed(batch, exact=False) if batch else np.empty((0, self.dim), np.float32)

    def encode_float32(self, batch: Sequence[Any]) -> np.ndarray:
        """Return what `encode` would, computed in float32."""
        return self._computed(batch, exact=True)

    @abstractmethod
    def prepare(self, item: Any) -> Any:
        """Do the CPU work for one item, as `encode` takes it."""

    @abstractmethod
    def _computed(self, batch: Sequence[Any], *, exact: bool) -> np.ndarray:
        """Return the (b, d) float32 vectors of at least one item; in float32 if `exact`."""

    @contextmanager
    def _running(self, *, exact: bool) -> Iterator[None]:
        """Have the model ready to run: in plain float32 if `exact`, else in its precision.

        One thread at a time; what it hooks and launches is not mixed with another's.
        """
        how = computing("float32" if exact else self.precision, self._device)
        with self._copies.turn(), torch.inference_mode(), how:
            yield


class TorchImageEncoder(TorchEncoder):
    """Base of the encoders of pictures: a subclass adds the transform and the size it makes."""

    kinds = IMAGE_KINDS
    own_batch_size = 32
    preprocessing: Preprocessing

    @property
    def geometry(self) -> Geometry | None:
        """What a decoding process may do of `prepare`; None if that is the transform's business."""
        return self.preprocessing.geometry

    def prepare(self, item: Image.Image) -> np.ndarray:
        """Return a picture resized and cropped, (h, w, 3) uint8; see `Preprocessing.prepare`."""
        return self.preprocessing.prepare(item if item.mode == "RGB" else to_rgb(item))


class DeviceCopies:
    """Brings prepared pictures, or tokens, to one device; safe in threads.

    Parameters
    ----------
    name : str
        Of the encoder, for messages.
    preprocessing : Preprocessing or None
        Of pictures.
    device : torch.device
    memory_format : torch.memory_format
        Of the batch on the device.
    """

    def __init__(
        self,
        name: str,
        preprocessing: Preprocessing | None,
        device: torch.device,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        self._name = name
        self._preprocessing = preprocessing
        self._device = device
        self._memory_format = memory_format
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._turn = threading.Lock()
        self._here = threading.local()

    def to_device(self, batch: Sequence[Any]) -> torch.Tensor:
        """Return prepared pictures as one tensor of floats; on a GPU it may still be on its way.

        Raises
        ------
        EncoderError
            If one was not prepared for this model.
        """
        assert self._preprocessing is not None
        if not self._preprocessing.fits(batch):
            shapes = sorted({str(np.shape(array)) for array in batch})
            raise EncoderError(
                f"{self._name} takes prepared pictures of shape {self._preprocessing.input_size}, "
                f"got shapes {', '.join(shapes)}. Pass what its prepare() returns."
            )
        floats = partial(self._preprocessing.floats, memory_format=self._memory_format)
        first = torch.from_numpy(batch[0])
        host = torch.empty(
            (len(batch), *first.shape), dtype=first.dtype, pin_memory=self._stream is not None
        )
        np.stack(batch, out=host.numpy())
        return self._arriving(lambda: floats(self._sent(host)))

    def moved(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor of the host on the device; on a GPU it may still be on its way."""
        host = tensor if self._stream is None else tensor.pin_memory()
        return self._arriving(lambda: self._sent(host))

    def _sent(self, host: torch.Tensor) -> torch.Tensor:
        return host.to(self._device, non_blocking=self._stream is not None)

    def _arriving(self, begin: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Return what is begun on the stream of copies; this thread's `turn` waits for it."""
        if self._stream is None:
            return begin()
        with torch.cuda.stream(self._stream):
            begun = begin()
        self._here.arrived = self._stream.record_event()
        # Its memory belongs to the stream of copies, and is read by the stream of the model.
        begun.record_stream(torch.cuda.current_stream(self._device))
        return begun

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Let one thread at a time use the model, once what this thread began has arrived.

        What it launches is in the device's queue when the next thread begins, so the device
        has work while this one waits for its vectors.
        """
        with self._turn:
            arrived: torch.cuda.Event | None = getattr(self._here, "arrived", None)
            if arrived is not None:
                torch.cuda.current_stream(self._device).wait_event(arrived)
            yield


class HostCopy:
    """A tensor on its way to the host, as float32; begun within the model's turn."""

    def __init__(self, tensor: torch.Tensor) -> None:
        values = tensor.detach().float()
        self._arrived: torch.cuda.Event | None = None
        if values.device.type == "cuda":
            self._host = torch.empty(values.shape, dtype=torch.float32, pin_memory=True)
            self._host.copy_(values, non_blocking=True)
            # Blocking: the thread that waits for it sleeps, and leaves its core to the decoders.
            self._arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            self._arrived.record(torch.cuda.current_stream(values.device))
        else:
            self._host = values.cpu()

    def numpy(self) -> np.ndarray:
        """Return the values, once they have arrived, as memory of their own."""
        if self._arrived is not None:
            # Whichever device is current: to wait there would make a context on it.
            with torch.cuda.device(self._arrived.device):
                self._arrived.synchronize()
        return self._host.numpy().copy()
