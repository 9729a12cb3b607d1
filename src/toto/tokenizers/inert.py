"""Reads a pickle as data: what it says is kept, and nothing that it asks for is done.

A pickle is a program; `pickle.Unpickler` and `torch.load` run it, if with fewer names at hand.
Here it is only read. Each of the few operations that weights need makes a plain value: a name
stays two strings (no module is imported, no attribute looked up, nothing called), an object is
the record of what it would have been made from, and a tensor says which numbers of which storage
it has, checked to lie within that storage.
"""

import io
import math
import pickletools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

MOST_OPERATIONS = 500_000
"""Bounds the time and the memory of a pickle that only burns them, to about 1.5 s and 50 MB."""
MOST_DIMENSIONS = 16
DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
NAMES = frozenset(
    {
        ("collections", "OrderedDict"),
        ("collections", "defaultdict"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch._utils", "_rebuild_parameter"),
        ("torch", "Size"),
        ("torch", "device"),
        *(("torch", name) for name in DTYPES),
        *(("torch", str(dtype).removeprefix("torch.")) for dtype in DTYPES.values()),
        # DALL-E's two modules, whole.
        ("dall_e.encoder", "Encoder"),
        ("dall_e.encoder", "EncoderBlock"),
        ("dall_e.decoder", "Decoder"),
        ("dall_e.decoder", "DecoderBlock"),
        ("dall_e.utils", "Conv2d"),
        ("torch.nn.modules.activation", "ReLU"),
        ("torch.nn.modules.container", "ModuleDict"),
        ("torch.nn.modules.container", "ModuleList"),
        ("torch.nn.modules.container", "Sequential"),
        ("torch.nn.modules.conv", "Conv2d"),
        ("torch.nn.modules.linear", "Identity"),
        ("torch.nn.modules.linear", "Linear"),
        ("torch.nn.modules.pooling", "MaxPool2d"),
        ("torch.nn.modules.upsampling", "Upsample"),
        # Beside the weights in training checkpoints: settings and counters, never read.
        ("argparse", "Namespace"),
        ("pathlib", "PosixPath"),
        ("typing", "Any"),
        *((m, t) for m in ("builtins", "__builtin__") for t in ("dict", "list", "set", "tuple")),
        *((m, t) for m in ("builtins", "__builtin__") for t in ("int", "float", "bool", "str")),
        *(("__builtin__", t) for t in ("long", "unicode")),  # Python 2's int and str.
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "scalar"),
        ("_codecs", "encode"),
    }
)
"""What a pickle may name, as (module, name); nothing of it is ever looked up."""
TRAINERS = ("pytorch_lightning", "lightning", "lightning_fabric", "omegaconf")
"""Packages that leave classes of their own in checkpoints; any class of theirs may be named."""

LITERALS = frozenset(
    {
        *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
        *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    }
)
CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,
}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True, slots=True)
class Name:
    """A class or function that a pickle names: two strings."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False, repr=False)
class Stub:
    """What is left of an object: what it would have been made from."""

    made_by: Name
    arguments: Any
    state: Any = None


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """A run of numbers in the file."""

    key: str
    dtype: torch.dtype
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A tensor: which numbers of a storage, in which shape."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(slots=True)
class Reader:
    """Reads a pickle as data, the storages it mentions beside it."""

    storages: dict[str, Storage] = field(default_factory=dict)

    def read(self, stream: io.BytesIO) -> Any:
        """Read one pickle from the stream, which is left right behind it.

        Raises:
            ValueError: if it is damaged, or needs more than weights do.
        """
        try:
            # The operations in text may hold any escapes; they are refused all the same.
            with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
                return self._read(pickletools.genops(stream))
        except (IndexError, KeyError) as error:  # An empty stack; a memo never written.
            raise ValueError("a damaged pickle, or no pickle at all") from error

    def _read(self, operations: Iterator[tuple[Any, Any, Any]]) -> Any:
        stack: list[Any] = []
        marked: list[list[Any]] = []  # The stacks below the marks.
        memo: dict[int, Any] = {}
        for count, (operation, argument, _) in enumerate(operations):
            if count > MOST_OPERATIONS:
                raise ValueError(f"more than {MOST_OPERATIONS} operations, which no weights need")
            code = operation.name
            if code in LITERALS:
                stack.append(argument)
            elif code in CONSTANTS:
                stack.append(CONSTANTS[code]())
            elif code in TUPLES:
                items = tuple(stack[-TUPLES[code] :])
                del stack[-TUPLES[code] :]
                stack.append(items)
            elif code == "MARK":
                marked.append(stack)
                stack = []
            elif code in ("TUPLE", "FROZENSET", "APPENDS", "ADDITEMS", "SETITEMS"):
                items, stack = stack, marked.pop()
                if code in ("TUPLE", "FROZENSET"):
                    stack.append(tuple(items))
                else:
                    _fill(stack[-1], items, pairs=code == "SETITEMS")
            elif code == "APPEND":
                item = stack.pop()
                _fill(stack[-1], [item], pairs=False)
            elif code == "SETITEM":
                value, key = stack.pop(), stack.pop()
                _fill(stack[-1], [key, value], pairs=True)
            elif code in ("BINPUT", "LONG_BINPUT"):
                memo[argument] = stack[-1]
            elif code == "MEMOIZE":
                memo[len(memo)] = stack[-1]
            elif code in ("BINGET", "LONG_BINGET"):
                stack.append(memo[argument])
            elif code == "GLOBAL":
                stack.append(_name(*argument.split(" ", 1)))
            elif code == "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_name(module, name))
            elif code == "BINPERSID":
                stack.append(self._persistent(stack.pop()))
            elif code in ("REDUCE", "NEWOBJ"):
                arguments, made_by = stack.pop(), stack.pop()
                stack.append(_make(made_by, arguments))
            elif code == "NEWOBJ_EX":
                named, arguments, made_by = stack.pop(), stack.pop(), stack.pop()
                stack.append(Stub(_callable(made_by), (arguments, named)))
            elif code == "BUILD":
                state = stack.pop()
                if isinstance(stack[-1], Stub):
                    stack[-1].state = state
                elif not isinstance(stack[-1], dict):  # An OrderedDict's attributes: no weights.
                    raise ValueError(f"it changes a {kind_of(stack[-1])}, which no weights need")
            elif code == "STOP":
                return stack.pop()
            elif code not in ("PROTO", "FRAME"):
                what = f"{code} {argument}" if argument is not None else code
                raise ValueError(f"it uses the operation {what!r:.200}, which no weights need")
        raise ValueError("a damaged pickle: it has no end")

    def _persistent(self, saved: Any) -> Name | Storage:
        """Read a reference to what lies outside of the pickle: a storage, or a class's source."""
        if isinstance(saved, tuple) and len(saved) == 6 and saved[5] is None:
            saved = saved[:5]  # The old format says that it is no view of another storage.
        match saved:
            case ("module", Name() as name, *_):
                return name
            case ("storage", Name(module="torch") as kind, str(key), str(), int(count)) if (
                kind.name in DTYPES and count >= 0
            ):
                storage = Storage(key, DTYPES[kind.name], count)
                known = self.storages.setdefault(key, storage)
                if (known.dtype, known.count) != (storage.dtype, storage.count):
                    raise ValueError(f"storage {key!r:.50} is mentioned with two sizes or types")
                return known
        raise ValueError("a reference to something that is not one of torch's storages")


def _name(module: Any, name: Any = "") -> Name:
    """Let a name pass that weights need.

    Raises:
        ValueError: if it is any other; the message has it.
    """
    if isinstance(module, str) and isinstance(name, str):
        trainer = module.split(".")[0] in TRAINERS
        if (module, name) in NAMES or (trainer and name.isidentifier() and name[:2] != "__"):
            return Name(module, name)
        raise ValueError(f"it asks for {f'{module}.{name}':.200}, which no weights need")
    raise ValueError("it asks for something by a name that is not text")


def _callable(made_by: Any) -> Name:
    if not isinstance(made_by, Name):
        raise ValueError(f"it calls a {kind_of(made_by)}, which no weights need")
    return made_by


def _make(made_by: Any, arguments: Any) -> Any:
    """Make the plain value that stands for the result of a call."""
    known = _callable(made_by)
    if not isinstance(arguments, tuple):
        raise ValueError(f"{known} is called with a {kind_of(arguments)} for arguments")
    match known, arguments:
        case Name("collections", "OrderedDict"), ():
            return {}
        case Name("torch._utils", "_rebuild_parameter"), (View() as view, *_):
            return view
        case Name("torch._utils", "_rebuild_tensor_v2"), (storage, offset, size, stride, *_):
            return _view(storage, offset, size, stride)
        case Name("torch._utils"), _:
            raise ValueError(f"{known} is called with arguments that make no tensor")
    return Stub(known, arguments)


def _fill(container: Any, items: list[Any], *, pairs: bool) -> None:
    """Add to a list or a dict; what a stub holds is dropped, since its class is unknown."""
    if isinstance(container, list) and not pairs:
        container.extend(items)
    elif isinstance(container, dict) and pairs and len(items) % 2 == 0:
        for key, value in zip(items[::2], items[1::2], strict=True):
            # The hash of a tuple may nest so deep that it ends the process, that of a long integer
            # take forever.
            short = not isinstance(key, int) or key.bit_length() <= 64
            if not short or not isinstance(key, str | int | float | bytes | Name | None):
                raise ValueError(f"a dict has a {kind_of(key)} for a key, which no weights need")
            container[key] = value
    elif not isinstance(container, Stub):
        raise ValueError(f"{len(items)} items do not fit a {kind_of(container)}: it is damaged")


def _view(storage: Any, offset: Any, size: Any, stride: Any) -> View:
    """Describe a tensor, having checked that it cannot reach outside of its storage."""
    if not isinstance(storage, Storage):
        raise ValueError("a tensor is made from something that is not a storage")
    if not (isinstance(size, tuple) and isinstance(stride, tuple)):
        raise ValueError("a tensor's size or strides are not tuples")
    if len(size) != len(stride) or len(size) > MOST_DIMENSIONS:
        raise ValueError(f"a tensor has {len(size)} sides and {len(stride)} strides")
    numbers = (offset, *size, *stride)
    if not all(type(number) is int and 0 <= number < 2**48 for number in numbers):
        raise ValueError("a tensor's offset, size or strides are negative, huge or not integers")
    last = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True))
    # Repeating numbers (strides of 0) would let a few bytes become a tensor of any size.
    inside = math.prod(size) <= storage.count and last < storage.count
    if not (inside or (0 in size and math.prod(side or 1 for side in size) < 2**48)):
        raise ValueError(f"a tensor of size {size} reaches outside its storage: not a weight")
    return View(storage, offset, size, stride)


def kind_of(value: Any) -> str:
    """Name what a value is, in few letters: its content may be of any size."""
    if isinstance(value, Stub):
        return f"{value.made_by!s:.100}"
    return str(value)[:100] if isinstance(value, Name) else type(value).__name__.lower()
