"""Pickles that try more than to call something: tensors that reach too far, bombs, damage.

Each has the part of the message that it must be refused with.
"""

import pickle
import struct
from typing import Any

from made_pickles import REBUILD, STORAGE, arguments, called, named


def storage(kind: bytes = STORAGE, key: str = "0", count: Any = 4) -> bytes:
    """A reference to a storage, as torch writes it."""
    rest = b"".join(pickle.dumps(v, protocol=2)[2:-1] for v in (key, "cpu", count))
    return b"(" + pickle.dumps("storage", protocol=2)[2:-1] + kind + rest + b"tQ"


def tensor(offset: Any, size: Any, stride: Any, source: bytes | None = None) -> bytes:
    """A state dict of one tensor."""
    rest = b"".join(pickle.dumps(v, protocol=2)[2:-1] for v in (offset, size, stride, False, None))
    made = REBUILD + b"(" + (storage() if source is None else source) + rest + b"tR"
    return b"\x80\x02}X\x01\x00\x00\x00a" + made + b"s."


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def module(parts: bytes) -> bytes:
    """A module whose parts are the dict that is given."""
    state = text("_parameters") + b"}s" + text("_buffers") + b"}s" + text("_modules") + parts + b"s"
    return named("torch.nn.modules.container", "Sequential") + b")\x81}" + state + b"b"


def nested_modules(depth: int) -> bytes:
    made = module(b"}")
    for _ in range(depth):
        made = module(b"}" + text("m") + made + b"s")
    return b"\x80\x02" + made + b"."


def doubled_modules(depth: int) -> bytes:
    """Each module holds the one before it twice: 2^depth names from a few bytes."""
    made = module(b"}") + b"q\x00"
    again = b"}" + text("a") + b"h\x00s" + text("b") + b"h\x00s"
    made += (module(again) + b"q\x00") * depth
    return b"\x80\x02" + made + b"."


def wide_modules(width: int) -> bytes:
    """A module of many empty parts, held many times."""
    empty = b"".join(text(str(n)) + b"N" for n in range(width))
    made = module(b"}(" + empty + b"u") + b"q\x00"
    again = b"".join(text(str(n)) + b"h\x00" for n in range(width))
    return b"\x80\x02" + made + module(b"}(" + again + b"u") + b"."


def module_in_itself() -> bytes:
    opened = named("torch.nn.modules.container", "Sequential") + b")\x81q\x00}"
    state = text("_parameters") + b"}s" + text("_buffers") + b"}s"
    return b"\x80\x02" + opened + state + text("_modules") + b"}" + text("m") + b"h\x00ssb."


def chain(first: tuple[str, str], values: tuple[Any, ...], then: bytes) -> bytes:
    """Call what a call gave."""
    return b"\x80\x02" + named(*first) + arguments(values) + b"R" + then + b"R."


DEEP = 100_000
SYSTEM = named("os", "system")
SEQUENTIAL = named("torch.nn.modules.container", "Sequential")
SPECIAL: dict[str, tuple[bytes, str]] = {
    # What an allowed name could be made to do.
    "setstate": (
        b"\x80\x02" + SEQUENTIAL + b")\x81}" + text("__setstate__") + SYSTEM + b"sb.",
        "os.system",
    ),
    "build-on-a-name": (b"\x80\x02" + REBUILD + b"}b.", "changes a torch._utils._rebuild_tensor"),
    "build-slots-on-a-name": (
        b"\x80\x02" + REBUILD + b"N}" + text("__defaults__") + b")s\x86b.",
        "changes a torch._utils",
    ),
    "build-on-a-tuple": (b"\x80\x02)}b.", "changes a tuple"),
    "call-a-stub": (chain(("torch", "Size"), (), b")"), "calls a torch.Size"),
    "call-a-number": (b"\x80\x02K\x01)R.", "calls a int"),
    "call-a-string": (b"\x80\x02" + text("os.system") + b")R.", "calls a str"),
    "new-of-a-stub": (b"\x80\x02" + SEQUENTIAL + b")\x81)\x81.", "calls a torch.nn"),
    "new-ex-of-a-stub": (b"\x80\x04" + SEQUENTIAL + b")R)}\x92.", "calls a torch.nn"),
    "arguments-that-are-none": (b"\x80\x02" + SEQUENTIAL + b"NR.", "with a nonetype for arg"),
    "argument-of-a-stub": (
        b"\x80\x02" + SEQUENTIAL + b"(" + SYSTEM + text("touch x") + b"\x85Rt\x81.",
        "os.system",
    ),
    "ordered-dict-of-a-call": (
        b"\x80\x02" + named("collections", "OrderedDict") + SYSTEM + b"\x85R.",
        "os.system",
    ),
    "ordered-dict-of-pairs": (
        called("collections", "OrderedDict", ([["a", 2]],)),
        "a collections.OrderedDict, not a module",
    ),
    "parameter-of-text": (
        called("torch._utils", "_rebuild_parameter", ("a", True, None)),
        "with arguments that make no tensor",
    ),
    "tensor-of-text": (
        called("torch._utils", "_rebuild_tensor_v2", ("a", 0, (), (), False, None)),
        "something that is not a storage",
    ),
    "tensor-of-too-little": (
        called("torch._utils", "_rebuild_tensor_v2", ()),
        "with arguments that make no tensor",
    ),
    "encode": (
        called("_codecs", "encode", ("os.system", "rot13")),
        "a _codecs.encode, not a module",
    ),
    # Tensors that would read what is not theirs.
    "stride-huge": (tensor(0, (2, 2), (2**40, 1)), "reaches outside its storage"),
    "stride-beyond-64-bits": (tensor(0, (2, 2), (2**70, 1)), "negative, huge or not"),
    "stride-negative": (tensor(3, (4,), (-1,)), "negative, huge or not"),
    "stride-nothing": (tensor(0, (2**40,), (0,)), "reaches outside its storage"),
    "offset-huge": (tensor(2**40, (1,), (1,)), "reaches outside its storage"),
    "offset-one-too-far": (tensor(1, (4,), (1,)), "reaches outside its storage"),
    "offset-negative": (tensor(-1, (1,), (1,)), "negative, huge or not"),
    "offset-text": (tensor("0", (1,), (1,)), "negative, huge or not"),
    "size-huge": (tensor(0, (2**40,), (1,)), "reaches outside its storage"),
    "size-negative": (tensor(0, (-4,), (1,)), "negative, huge or not"),
    "size-float": (tensor(0, (2.0,), (1,)), "negative, huge or not"),
    "size-number": (tensor(0, 4, (1,)), "size or strides are not tuples"),
    "size-empty-and-huge": (tensor(0, (0, 2**47, 2**47), (1, 1, 1)), "reaches outside"),
    "sides-without-strides": (tensor(0, (2, 2), (1,)), "2 sides and 1 strides"),
    "sides-too-many": (tensor(0, (1,) * 99, (1,) * 99), "99 sides and 99 strides"),
    "storage-too-large": (
        tensor(0, (2**40,), (1,), storage(count=2**40)),
        "bytes|not the size that its tensors say",
    ),
    "storage-negative": (tensor(0, (1,), (1,), storage(count=-4)), "not one of torch's storages"),
    "storage-text": (tensor(0, (1,), (1,), storage(count="4")), "not one of torch's storages"),
    "storage-elsewhere": (
        tensor(0, (1,), (1,), storage(key="../../../../etc/passwd")),
        "no data/../../../../etc/passwd|does not fit its tensors",
    ),
    "storage-of-system": (tensor(0, (1,), (1,), storage(SYSTEM)), "asks for os.system"),
    "storage-of-a-function": (
        tensor(0, (1,), (1,), storage(REBUILD)),
        "not one of torch's storages",
    ),
    "storage-twice": (
        tensor(0, (1,), (1,), storage() + b"0" + storage(count=2)),
        "operation 'POP'",
    ),
    "storage-two-sizes": (
        b"\x80\x02" + storage() + storage(count=2) + b"\x86.",
        "mentioned with two sizes or types",
    ),
    "persistent-call": (
        b"\x80\x02" + text("module") + SYSTEM + b"\x86Q.",
        "asks for os.system",
    ),
    "persistent-text": (b"\x80\x02" + text("os.system") + b"Q.", "not one of torch's storages"),
    "persistent-line": (b"\x80\x02Pos.system\n.", "operation 'PERSID os.system'"),
    # Extension codes resolve names without asking `find_class`, once they are cached.
    "extension-1": (b"\x80\x02\x82\x01)R.", "operation 'EXT1 1'"),
    "extension-2": (b"\x80\x02\x83\x01\x00)R.", "operation 'EXT2 1'"),
    "extension-4": (b"\x80\x02\x84\x01\x00\x00\x00)R.", "operation 'EXT4 1'"),
    # Names that are not what they seem.
    "name-not-text": (b"\x80\x04K\x01K\x02\x93.", "by a name that is not text"),
    "name-of-a-name": (b"\x80\x04" + SEQUENTIAL + text("append") + b"\x93.", "not text"),
    "name-with-space": (b"\x80\x02ctorch FloatStorage\n\n.", "asks for torch.FloatStorage "),
    "name-trailing": (b"\x80\x02ctorch\nFloatStorage \n.", "asks for torch.FloatStorage "),
    "name-look-alike": (
        b"\x80\x04" + text("t\u043erch") + text("FloatStorage") + b"\x93.",
        "which no weights need",
    ),
    "name-long": (b"\x80\x02c" + b"os" * 100_000 + b"\nsystem\n.", "asks for osos"),
    # Bombs.
    "memo-huge": (b"\x80\x02}r\xff\xff\xff\xff.", "holds a dict, no state dict"),
    "memo-unwritten": (b"\x80\x02h\x07.", "a damaged pickle"),
    "bytes-huge": (b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.", "expected .* bytes"),
    "text-huge": (b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7f.", "expected .* bytes|exceeds"),
    "bytearray-huge": (b"\x80\x05\x96" + b"\xff" * 7 + b"\x7f.", "expected .* bytes"),
    "frame-huge": (b"\x80\x04\x95" + b"\xff" * 8 + b"N.", "holds a nonetype"),
    "integer-huge": (b"\x80\x02\x8b\xff\xff\xff\x7f.", "not enough data in stream to read long4"),
    "integer-text": (b"\x80\x02I" + b"9" * 1_000_000 + b"\n.", "integer|INT"),
    "operations": (b"\x80\x02" + b"N" * 600_000 + b".", "more than 500000 operations"),
    "marks": (b"\x80\x02" + b"(" * 600_000 + b".", "more than 500000 operations"),
    "deep-tuple": (b"\x80\x02)" + b"\x85" * DEEP + b".", "holds a tuple"),
    "deep-list": (b"\x80\x02]" + b"]" * DEEP + b"a" * DEEP + b".", "holds a list"),
    "deep-state": (
        b"\x80\x02" + (SEQUENTIAL + b")\x81") * 50_000 + b"}" + b"b" * 50_000 + b".",
        "not a module",
    ),
    "deep-key": (
        b"\x80\x02})" + b"\x85" * DEEP + b"Ns.",
        "a tuple for a key, which no weights need",
    ),
    "key-that-is-long": (
        b"\x80\x02}\x8b" + struct.pack("<I", 2**20) + b"\x7f" * 2**20 + b"Ns.",
        "a int for a key",
    ),
    "key-that-is-a-dict": (b"\x80\x02}}Ns.", "a dict for a key"),
    "modules-deep": (nested_modules(5_000), "its name has no end"),
    "modules-doubled": (doubled_modules(60), "its modules have more than 100000 parts"),
    "module-in-itself": (module_in_itself(), "its name has no end"),
    "modules-wide": (wide_modules(20_000), "its modules have more than 100000 parts"),
    "module-with-an-endless-name": (
        b"\x80\x02" + module(b"}" + text("m" * 1001) + b"Ns") + b".",
        "its name has no end",
    ),
    "module-of-text": (
        b"\x80\x02" + module(b"}" + text("m") + text("x") + b"s") + b".",
        "'m' is a str, not a module",
    ),
    "module-without-parts": (b"\x80\x02" + module(b"N") + b".", "not a module"),
    "module-with-a-number-for-a-name": (
        b"\x80\x02" + module(b"}K\x01Ns") + b".",
        "a part has no name",
    ),
    # Damage that a careless reader trips over.
    "stack-empty": (b"\x80\x02R.", "a damaged pickle"),
    "stack-without-mark": (b"\x80\x02Nt.", "a damaged pickle"),
    "fill-a-number": (b"\x80\x02K\x01Na.", "1 items do not fit a int"),
    "fill-unpaired": (b"\x80\x02}(Nu.", "1 items do not fit a dict"),
    "state-of-a-list": (
        b"\x80\x02}" + text("state_dict") + b"}" + text("a") + b"]sss.",
        "'a' is a list, not a tensor|damaged",
    ),
    "pop": (b"\x80\x02NN0.", "operation 'POP'"),
    "size-long-and-often": (
        b"\x80\x02"
        + storage()
        + b"q\x00K\x00("
        + b"K\x01" * 50_000
        + b"tq\x01h\x01\x85"
        + (REBUILD + b"(h\x00K\x00h\x01h\x01tR0")
        + b".",
        "50000 sides and 50000 strides",
    ),
    "dup": (b"\x80\x02N2.", "operation 'DUP'"),
    "protocol-0": (b"\x80\x02(S'os.system'\nl.", "operation 'STRING os.system'"),
    "name-of-a-trainer": (
        called("lightning.os", "system", ("id",)),
        "a lightning.os.system, not a module",
    ),
    "callbacks-of-lightning": (
        b"\x80\x02}" + text("callbacks") + b"}" + SYSTEM + b"Nsss.",
        "asks for os.system",
    ),
    "settings-beside-weights": (
        b"\x80\x02}" + text("hyper_parameters") + SYSTEM + arguments(("id",)) + b"Rs.",
        "asks for os.system",
    ),
}
