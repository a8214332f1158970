"""What an image model does to a picture before its first layer, in two halves.

Resizing and cropping give uint8 pixels, a quarter of the bytes of the floats, on the host and in
whatever process decodes; casting and normalising happen once a batch, where the model is.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from featstore.encoders.golden import golden_images
from featstore.images import Geometry

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
        self._buffers = threading.local()
        found = _steps(transform)
        if found is None:
            return
        self.geometry, mean, std = found
        self._constants: dict[torch.device, tuple[torch.Tensor, ...]] = {}
        self._range = torch.tensor(255.0)
        self._mean, self._std = mean.view(3, 1, 1), std.view(3, 1, 1)
        same = self.geometry.crop == input_size[1:] and all(
            torch.equal(self.floats([self.prepare(image)])[0], transform(image))
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
        floats = (self.input_size, "float32")
        shape = () if self.geometry is None else self.geometry.shape
        # The latter as a tensor on the device that decoded it.
        return kinds in ({floats}, {(shape, "uint8")}, {(shape, "torch.uint8")})

    def floats(self, batch: Sequence[np.ndarray]) -> torch.Tensor:
        """Return a batch as (b, 3, h, w) float32 on the CPU, in memory that this thread reuses."""
        buffer: torch.Tensor | None = getattr(self._buffers, "floats", None)
        if buffer is None or len(buffer) < len(batch):
            buffer = self._buffers.floats = torch.empty(len(batch), *self.input_size)
        # One picture at a time stays in the processor's cache from step to step.
        for row, one in zip(buffer, batch, strict=False):
            if one.dtype == np.uint8:
                row.copy_(torch.from_numpy(one).permute(2, 0, 1))
                row.div_(self._range).sub_(self._mean).div_(self._std)
            else:
                row.copy_(torch.from_numpy(one))
        return buffer[: len(batch)]

    def floats_there(
        self,
        batch: torch.Tensor,
        memory_format: torch.memory_format,
        dtype: torch.dtype = torch.float32,
    ) -> torch.Tensor:
        """Return a batch, stacked and on its device already, as (b, 3, h, w) of `dtype` there.

        In float32 the same bits as on the CPU: a device divides by a tensor, where it might
        multiply by the reciprocal of a number. Shorter types are made in one pass, computed in
        float32 and rounded once.
        """
        if batch.dtype != torch.uint8:
            return batch.to(dtype, memory_format=memory_format)
        full, mean, std, slope, start = self._constants_on(batch.device)
        pixels = batch.permute(0, 3, 1, 2)
        if dtype is torch.float32:
            pixels = pixels.to(torch.float32, memory_format=memory_format)
            return pixels.div_(full).sub_(mean).div_(std)
        made = torch.empty(
            pixels.shape, dtype=dtype, device=batch.device, memory_format=memory_format
        )
        return torch.addcmul(start, pixels, slope, out=made)

    def _constants_on(self, device: torch.device) -> tuple[torch.Tensor, ...]:
        """Return the constants of normalising, copied to a device once: the host waits for that."""
        if device not in self._constants:
            slope, start = 1 / (self._range * self._std), -self._mean / self._std
            own = (self._range, self._mean, self._std, slope, start)
            self._constants[device] = tuple(one.to(device) for one in own)
        return self._constants[device]


def _steps(transform: Any) -> tuple[Geometry, torch.Tensor, torch.Tensor] | None:
    """Return geometry, mean and standard deviation of a transform; None if it has other steps."""
    steps = [step for step in getattr(transform, "transforms", ()) if not _is_idle(step)]
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


#: How a transform ends.
_LAST = (transforms.ToTensor, transforms.Normalize)


def _is_idle(step: Any) -> bool:
    """Return whether a step changes nothing of an RGB picture."""
    return type(step).__name__ in ("MaybeConvertMode", "function")
