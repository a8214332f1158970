"""CUDA cards that are not there: races are seen without a GPU.

Tensors say ``cuda:0`` and are computed on the CPU where they are launched, but what the program has
not waited for (its event, its stream, a blocking copy, ``item``) has not arrived: memory of the
host that a copy is on its way to holds NaN.

Three things are reported:

- An access of a stream to memory that another stream wrote or reads, without a wait between them:
  what waited for what is kept by the clocks of torch's own CUDA sanitizer.
- Memory that another stream than its own still uses when it is freed, without ``record_stream``.
- Pinned memory that is written while a copy from or to it is under way.

A card has only so much memory. It cannot show speed, the bits of cuBLAS or cuDNN
(operations are the CPU's), nor what the driver does.

This rests on torch's internals: see `TORCH`. The half in C++ is compiled where it is first needed.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import platform
import shutil
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partialmethod
from pathlib import Path
from typing import Any, Self
from weakref import finalize

import numpy as np
import pytest
import torch
from packaging.specifiers import SpecifierSet
from torch.cuda._sanitizer import StreamSynchronizations, zip_arguments
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

#: The versions of torch whose internals these are: each was run, none is guessed.
TORCH = ">=2.13,<2.14"

_SOURCE = Path(__file__).with_name("guard.cpp")
_BUILT = Path(__file__).parents[2] / "build" / "fake_card"


class CannotBuildError(Exception):
    """This machine or this torch cannot have fake cards; the message says why."""


def load_guard() -> ctypes.CDLL:
    """Compile guard.cpp, once a version of torch, and load it.

    Raises
    ------
    CannotBuildError
        If torch is of another version, has CUDA, or there is no compiler.
    """
    version = torch.__version__.partition("+")[0]
    if torch.version.cuda is not None or version not in SpecifierSet(TORCH):
        raise CannotBuildError(
            f"fake cards are for torch {TORCH} without CUDA; this is {torch.__version__}"
        )
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None or platform.system() != "Linux":
        raise CannotBuildError("fake cards need Linux and g++ or clang++")
    built = _BUILT / f"guard-{torch.__version__}.so"
    if not built.exists() or built.stat().st_mtime < _SOURCE.stat().st_mtime:
        home, made = Path(torch.__file__).parent, built.with_suffix(f".{os.getpid()}")
        _BUILT.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [compiler, "-shared", "-fPIC", "-std=c++20", f"-I{home / 'include'}",
             f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
             str(_SOURCE), "-o", str(made), f"-L{home / 'lib'}", "-lc10"],
            capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise CannotBuildError(f"guard.cpp does not compile: {done.stderr[-500:]}")
        made.replace(built)
    return ctypes.CDLL(str(built))


@dataclass
class Card:
    """One card, of so many bytes."""

    memory: int = 80 << 30
    index: int = 0
    used: int = 0
    launched: int = 0

    def allocate(self, size: int) -> None:
        if self.used + size > self.memory:
            raise torch.OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate {size:,} bytes. GPU {self.index} has a "
                f"total capacity of {self.memory:,} bytes of which {self.used:,} are in use."
            )
        self.used += size


def mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """Return arguments of an operation with each leaf mapped: a tenth of the time of pytree."""
    if isinstance(value, (tuple, list)):
        return type(value)([mapped(function, one) for one in value])
    if isinstance(value, dict):
        return {name: mapped(function, one) for name, one in value.items()}
    return function(value)


def leaves(value: Any) -> list[Any]:
    found: list[Any] = []
    mapped(found.append, value)
    return found


class Stream:
    """A queue of operations of one card; as ``torch.cuda.Stream``."""

    def __init__(self, machine: Machine, device: Any = None, **_: Any) -> None:
        self.machine = machine
        self.device = torch.device("cuda", machine.number(device))
        self.id = next(machine.ids)
        #: What becomes of the host's memory once the host knows that a launch is done: its number.
        self._queue: deque[tuple[int, Callable[[], object]]] = deque()
        #: Operations that were launched, and that the host knows are done.
        self.launched = self.awaited = 0
        machine.clocks.create_stream(self.id)

    def put(self, arrive: Callable[[], object] | None = None) -> None:
        self.launched += 1
        if arrive is not None:
            self._queue.append((self.launched, arrive))

    def finish(self, upto: int) -> None:
        """Tell the host that what was launched is done, up to the operation of a number."""
        with self.machine.lock, _disable_current_modes(), torch.no_grad():
            self.awaited = max(self.awaited, upto)
            while self._queue and self._queue[0][0] <= upto:
                self._queue.popleft()[1]()

    def wait_event(self, event: Event) -> None:
        """Let what is launched from now on wait for an event."""
        stream, upto = event.stream, event.upto
        if stream is not None:
            self.put(lambda: stream.finish(upto))
            self.machine.clocks.stream_wait_for_event(self.id, event.id)

    def record_event(self, event: Event | None = None) -> Event:
        """Return an event after all that was launched."""
        event = event or Event(self.machine)
        event.record(self)
        return event

    def synchronize(self) -> None:
        self.machine.card(self.device).launched += 1
        self.finish(self.launched)
        self.machine.clocks.all_streams_wait_for_stream(self.id)

    def __repr__(self) -> str:
        return f"stream {self.id} of {self.device}"


class Event:
    """A mark in a stream; as ``torch.cuda.Event``."""

    def __init__(self, machine: Machine, **_: Any) -> None:
        self.machine = machine
        self.id = next(machine.ids)
        self.stream: Stream | None = None
        self.upto = 0
        machine.clocks.create_event(self.id)

    @property
    def device(self) -> torch.device | None:
        """The card on which it was recorded."""
        return None if self.stream is None else self.stream.device

    def record(self, stream: Stream | None = None) -> None:
        """Mark what the stream was given so far."""
        self.stream = stream or self.machine.current_stream()
        self.upto = self.stream.launched
        self.machine.clocks.record_state(self.id, self.stream.id)

    def synchronize(self) -> None:
        if self.stream is not None:
            self.machine.card(self.stream.device).launched += 1
            self.stream.finish(self.upto)
            self.machine.clocks.all_streams_wait_for_event(self.id)


class Memory:
    """One allocation on a card: the tensors that are views of it hold it, and free it."""

    def __init__(self, machine: Machine, stream: Stream, size: int, made_by: str) -> None:
        self.machine, self.stream, self.size, self.made_by = machine, stream, size, made_by
        self.card = machine.card(stream.device)
        self.card.allocate(size)
        self.recorded: set[int] = set()
        #: The last operation of each stream that read it, and the one that wrote it.
        self.readers: dict[int, int] = {}
        self.writer: dict[int, int] = {}

    def __del__(self) -> None:
        if not hasattr(self, "writer"):  # there was no room for it
            return
        with self.machine.lock:
            self.card.used -= self.size
            for stream in self.machine.racing(self.stream, self.readers | self.writer):
                if stream not in self.recorded:
                    self.machine.reports.add(
                        f"memory of {self.stream} from {self.made_by} was freed while stream "
                        f"{stream} may use it, without record_stream"
                    )


class CardTensor(torch.Tensor):
    """A tensor on a card: its memory there, and what it holds, on the CPU."""

    value: torch.Tensor
    memory: Memory

    @staticmethod
    def __new__(cls, value: torch.Tensor, memory: Memory) -> Self:
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, value.shape, strides=value.stride(), storage_offset=value.storage_offset(),
            dtype=value.dtype, device=memory.stream.device,
        )  # fmt: skip
        made.value, made.memory = value, memory
        return made

    @property
    def data(self) -> torch.Tensor:
        return self.detach()

    @data.setter
    def data(self, other: CardTensor) -> None:
        torch._C.TensorBase.data.__set__(self, other)
        self.value, self.memory = other.value, other.memory

    def record_stream(self, stream: Stream) -> None:
        """Keep the memory until what the stream was given is done."""
        self.memory.recorded.add(stream.id)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        machine = next(
            one.memory.machine for one in leaves((args, kwargs)) if isinstance(one, CardTensor)
        )
        return machine.dispatch(func, args, kwargs or {})


@dataclass
class Pinned:
    """Pinned memory of the host: copies from or to it, and which one wrote to it last."""

    under_way: list[tuple[Stream, int]] = field(default_factory=list)
    last: object = None


class Seeing(TorchDispatchMode):
    """Shows a machine what is done with tensors of the host, in one thread."""

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self.machine = machine

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.machine.dispatch(func, args, kwargs or {})


#: Operations whose result the host waits for; copies; and those that take no part in races.
_READ = {"aten::_local_scalar_dense", "aten::equal", "aten::is_nonzero"}
_COPIES = {"aten::_to_copy", "aten::copy_"}


class Machine:
    """The cards, and all that was seen of them: `reports` of what was wrong should be empty."""

    def __init__(self, cards: list[Card], guard: ctypes.CDLL) -> None:
        self.cards = cards
        for number, card in enumerate(cards):
            card.index = number
        self.guard = guard
        self.lock = threading.RLock()
        self.ids = itertools.count(1)
        self.clocks = StreamSynchronizations()
        self._operations = itertools.count(1)
        self.reports: set[str] = set()
        #: Copies from memory of the host that is not pinned.
        self.pageable = 0
        self._pinned: dict[int, Pinned] = {}
        self._here = threading.local()
        self._default = [Stream(self, number) for number in range(len(cards))]

    def number(self, device: Any = None) -> int:
        """Return the number of a card: of the current one, if none is named."""
        if isinstance(device, str):
            device = torch.device(device)
        found = getattr(device, "index", device)
        found = self.guard.current_card() if found is None else found
        if not 0 <= found < len(self.cards):
            raise RuntimeError("CUDA error: invalid device ordinal")
        return int(found)

    def card(self, device: Any = None) -> Card:
        return self.cards[self.number(device)]

    def current_stream(self, device: Any = None) -> Stream:
        """Return the stream of this thread on a card."""
        number = self.number(device)
        return getattr(self._here, f"stream{number}", self._default[number])

    @contextlib.contextmanager
    def using(self, device: Any) -> Iterator[None]:
        """Make a card the current one of this thread."""
        before = self.guard.current_card()
        self.guard.use_card(self.number(device))
        try:
            yield
        finally:
            self.guard.use_card(before)

    @contextlib.contextmanager
    def on_stream(self, stream: Stream | None) -> Iterator[None]:
        """Launch on a stream in the block; None is no stream."""
        if stream is None:
            yield
            return
        before, name = self.current_stream(stream.device), f"stream{stream.device.index}"
        setattr(self._here, name, stream)
        try:
            with self.using(stream.device):
                yield
        finally:
            setattr(self._here, name, before)

    def synchronize(self, device: Any = None) -> None:
        self.current_stream(device).synchronize()

    def pinned_like(self, shape: Any, dtype: torch.dtype) -> torch.Tensor:
        size = int(np.prod(shape)) * dtype.itemsize
        owner = np.zeros(max(size, 1), np.uint8)
        whole = torch.from_numpy(owner)
        place = whole.untyped_storage().data_ptr()
        self._pinned[place] = Pinned()
        finalize(owner, self._pinned.pop, place, None)
        return whole[:size].view(dtype).view(*shape)

    def pin(self, tensor: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return self.pinned_like(tensor.shape, tensor.dtype).copy_(tensor)

    def pinned(self, tensor: torch.Tensor) -> Pinned | None:
        """Return what is known of the memory, if it is pinned."""
        if isinstance(tensor, CardTensor) or tensor.device.type != "cpu":
            return None
        return self._pinned.get(tensor.untyped_storage().data_ptr())

    def dispatch(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Do an operation of the host, or launch one on a card."""
        name, given = func._schema.name, leaves((args, kwargs))
        mine = [one for one in given if isinstance(one, CardTensor)]
        asked = [one for one in given if isinstance(one, torch.device) and one.type == "cuda"]
        if not mine and not asked:
            return self._on_host(func, name, args, kwargs)
        if name == "aten::is_pinned":
            return False
        with self.lock:
            devices = {one.device for one in mine} | {
                torch.device("cuda", self.number(one)) for one in asked
            }
            if len(devices) > 1:
                raise RuntimeError(f"{name}: tensors on {' and '.join(map(str, devices))}")
            device = torch.device("cuda", self.number(asked[0])) if asked else mine[0].device
            stream = self.current_stream(device)
            self.card(device).launched += 1
            to_host = name == "aten::_to_copy" and torch.device("cpu") in given
            if to_host or (name == "aten::copy_" and not isinstance(args[0], CardTensor)):
                return self._to_host(func, name, args, kwargs, stream)
            if name in _READ:
                self._access(func, args, kwargs, stream, [])
                stream.synchronize()
                return func(*mapped(lambda x: x.value if isinstance(x, CardTensor) else x, args))
            return self._launch(func, name, args, kwargs, stream)

    def _on_host(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        if kwargs.get("pin_memory"):
            made = func(*args, **{**kwargs, "pin_memory": False})
            return self.pinned_like(made.shape, made.dtype)
        if name == "aten::is_pinned":
            return self.pinned(args[0]) is not None
        return func(*args, **kwargs)

    def _to_host(
        self, func: Any, name: str, args: Any, kwargs: dict[str, Any], stream: Stream
    ) -> torch.Tensor:
        later = self._later(name, args, kwargs)
        if name == "aten::copy_":
            host, source = args[0], args[1]
        else:
            source = args[0]
            make = self.pinned_like if later else torch.empty
            host = make(source.shape, dtype=kwargs.get("dtype") or source.dtype)
        self._access(func, args, kwargs, stream, [])
        held = self.pinned(host)
        if not later or held is None:
            stream.synchronize()
            return host.copy_(source.value)
        if any(upto > one.awaited for one, upto in held.under_way):
            self.reports.add("pinned memory is written while a copy from or to it is under way")
        unknown = float("nan") if host.is_floating_point() else torch.iinfo(host.dtype).max
        host.fill_(unknown)
        mark = held.last = object()
        value = source.value.clone()
        # What a later copy may have overwritten is nobody's.
        stream.put(lambda: host.copy_(value) if held.last is mark else host.fill_(unknown))
        held.under_way = [(stream, stream.launched)]
        return host

    def _access(
        self, func: Any, args: Any, kwargs: dict[str, Any], stream: Stream, made: list[Memory]
    ) -> None:
        """Tell the sanitizer what an operation reads and writes, and note what it says."""
        read: set[Memory] = set()
        written = set(made)
        for argument, value in zip_arguments(func._schema, args, kwargs):
            alias = argument.alias_info
            if alias is not None and not alias.is_write:
                continue  # a view
            own = {one.memory for one in leaves(value) if isinstance(one, CardTensor)}
            read |= own if alias is None else set()
            written |= own if alias is not None else set()
        if not read and not written:
            return
        number = next(self._operations)
        self.clocks.update_seq_num(stream.id, number)
        for memory in read | written:
            for other in self.racing(
                stream, memory.writer | (memory.readers if memory in written else {})
            ):
                self.reports.add(
                    f"{func._schema.name} on {stream} uses what {memory.made_by} made on "
                    f"{memory.stream}, and does not wait for stream {other}"
                )
            if memory in written:
                memory.writer, memory.readers = {stream.id: number}, {}
            else:
                memory.readers[stream.id] = number

    def racing(self, stream: Stream, accesses: dict[int, int]) -> list[int]:
        """Return the streams of accesses for which a stream has not waited."""
        ordered = self.clocks.is_ordered_after
        return [other for other, last in accesses.items() if not ordered(stream.id, last, other)]

    def _launch(
        self, func: Any, name: str, args: Any, kwargs: dict[str, Any], stream: Stream
    ) -> Any:
        """Compute an operation, and return tensors of the card with what it gives."""
        kwargs = {key: value for key, value in kwargs.items() if key != "pin_memory"}
        known: dict[int, CardTensor] = {}
        memories: dict[int, Memory] = {}
        host: list[torch.Tensor] = []

        def real(value: Any) -> Any:
            if isinstance(value, CardTensor):
                known[id(value.value)] = value
                memories[value.value.untyped_storage()._cdata] = value.memory
                return value.value
            if isinstance(value, torch.Tensor):
                host.append(value)
            return torch.device("cpu") if isinstance(value, torch.device) else value

        own, named = mapped(real, (args, kwargs))
        with torch.no_grad():
            given = func(*own, **named)
        made: list[Memory] = []

        def wrap(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            if id(value) in known:
                return known[id(value)]
            storage = value.untyped_storage()
            memory = memories.get(storage._cdata)
            if memory is None:
                memory = memories[storage._cdata] = Memory(self, stream, storage.nbytes(), name)
                made.append(memory)
            return CardTensor(value, memory)

        found = mapped(wrap, given)
        self._access(func, args, kwargs, stream, made)
        later = self._later(name, args, kwargs)
        for tensor in host:
            self._read_of_host(name, tensor, stream)
        stream.put()
        if name in _COPIES and host and not later:
            stream.synchronize()
        return found

    def _later(self, name: str, args: Any, kwargs: dict[str, Any]) -> bool:
        return bool(kwargs.get("non_blocking") or (name == "aten::copy_" and args[2:] == (True,)))

    def _read_of_host(self, name: str, tensor: torch.Tensor, stream: Stream) -> None:
        """Note that an operation on a card reads the host's memory."""
        if name not in _COPIES:
            if tensor.dim():
                raise RuntimeError(f"{name}: a tensor of shape {tuple(tensor.shape)} is on the CPU")
            return  # a number, which the launch carries
        held = self.pinned(tensor)
        if held is None:
            self.pageable += 1
            return
        before = tensor.clone()

        def arrive() -> None:
            if not torch.equal(before, tensor):
                self.reports.add(f"pinned memory of {name} is written while it is read")

        stream.put(arrive)
        held.under_way.append((stream, stream.launched))


class _NoGrad(contextlib.ContextDecorator):
    """In place of ``torch.inference_mode``, whose tensors a subclass cannot be."""

    def __init__(self, mode: bool = True) -> None:
        self._mode = mode

    def __enter__(self) -> None:
        self._inner = torch.no_grad() if self._mode else contextlib.nullcontext()
        self._inner.__enter__()

    def __exit__(self, *error: object) -> None:
        self._inner.__exit__(*error)


def _backward(loss: torch.Tensor, *_: Any, **__: Any) -> None:
    """In place of ``Tensor.backward``: torch's engine asks for CUDA's streams in C++.

    Runs torch's own backward functions, each once all that it takes is there.
    """
    assert loss.grad_fn is not None
    order: list[Any] = []
    seen: set[Any] = set()

    def visit(node: Any) -> None:
        if node is not None and node not in seen:
            seen.add(node)
            for following, _number in node.next_functions:
                visit(following)
            order.append(node)

    visit(loss.grad_fn)
    grads: dict[Any, dict[int, Any]] = {loss.grad_fn: {0: torch.ones_like(loss)}}
    with torch.no_grad():
        for node in reversed(order):
            own = grads.pop(node, {})
            if hasattr(node, "variable"):  # a parameter's
                before = node.variable.grad
                node.variable.grad = own[0] if before is None else before + own[0]
                continue
            given = node(*(own.get(number) for number in range(len(node._input_metadata))))
            given = given if isinstance(given, tuple) else (given,)
            for (following, number), grad in zip(node.next_functions, given, strict=True):
                if following is not None and grad is not None:
                    into = grads.setdefault(following, {})
                    shape = following._input_metadata[number].shape
                    grad = grad if grad.shape == shape else grad.sum_to_size(shape)
                    into[number] = into[number] + grad if number in into else grad


class _Generator(torch.Generator):
    """A generator of any device, of the CPU's numbers."""

    def __new__(cls, device: Any = "cpu") -> Self:
        return super().__new__(cls, "cpu")


@contextlib.contextmanager
def fake_cards(*cards: Card) -> Iterator[Machine]:
    """Have these cards, one by default, for as long as the block lasts.

    Raises
    ------
    CannotBuildError
        If this machine cannot.
    """
    machine = Machine(list(cards) or [Card()], load_guard())
    assert len(machine.cards) <= 2  # what guard.cpp answers
    plain_run = threading.Thread.run

    def run(thread: threading.Thread) -> None:
        with Seeing(machine):
            plain_run(thread)

    def nothing(*_: Any, **__: Any) -> None:
        """Do nothing."""

    own = {
        "_lazy_init": nothing,
        "empty_cache": nothing,
        "is_available": lambda: True,
        "device_count": lambda: len(machine.cards),
        "Stream": type("Stream", (Stream,), {"__init__": partialmethod(Stream.__init__, machine)}),
        "Event": type("Event", (Event,), {"__init__": partialmethod(Event.__init__, machine)}),
        "stream": machine.on_stream,
        "device": machine.using,
        "current_stream": machine.current_stream,
        "current_device": machine.number,
        "set_device": lambda device: machine.guard.use_card(machine.number(device)),
        "synchronize": machine.synchronize,
        "get_device_capability": lambda device=None: (9, 0),
        "is_bf16_supported": lambda *_, **__: True,
    }
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in own.items():
            patch.setattr(torch.cuda, name, value)
        for where, name, value in (
            (threading.Thread, "run", run),
            (torch, "inference_mode", _NoGrad),
            (torch, "Generator", _Generator),
            (torch.Tensor, "backward", _backward),
            (torch.Tensor, "pin_memory", lambda tensor, *_, **__: machine.pin(tensor)),
            (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
        ):
            patch.setattr(where, name, value)
        # A tensor of a card cannot take the place of the memory of one of the host.
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrite)
        stack.enter_context(Seeing(machine))
        yield machine
