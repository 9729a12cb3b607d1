"""Hostile pickles, assembled from the operations of pickle's machine.

Every payload that calls something tries to make one file, the canary.
"""

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from typing import Any

from toto.tokenizers.pickles import TORCH_MAGIC

STORAGE = b"ctorch\nFloatStorage\n"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
Arguments = Callable[[str], tuple[Any, ...]]


def touch(canary: str) -> tuple[str]:
    return (f"touch {canary}",)


def opens(canary: str) -> tuple[str]:
    return (f"open({canary!r}, 'w').close()",)


def inner(canary: str) -> tuple[bytes]:
    return (called("os", "system", touch(canary)),)


def no_use(canary: str) -> tuple[str]:
    return (canary,)


RUN_ALONE: dict[tuple[str, str], Arguments] = {
    ("os", "system"): touch,
    ("posix", "system"): touch,
    ("os", "popen"): touch,
    ("os", "spawnlp"): lambda c: (0, "touch", "touch", c),
    ("os", "mkdir"): no_use,
    ("os", "open"): lambda c: (c, 0o101),
    ("os", "mknod"): no_use,
    ("subprocess", "call"): lambda c: (["touch", c],),
    ("subprocess", "run"): lambda c: (["touch", c],),
    ("subprocess", "check_output"): lambda c: (["touch", c],),
    ("subprocess", "getoutput"): touch,
    ("builtins", "eval"): opens,
    ("builtins", "exec"): opens,
    ("__builtin__", "eval"): opens,
    ("builtins", "open"): lambda c: (c, "w"),
    ("io", "open"): lambda c: (c, "w"),
    ("_io", "FileIO"): lambda c: (c, "w"),
    ("codecs", "open"): lambda c: (c, "w"),
    ("shutil", "copyfile"): lambda c: ("/dev/null", c),
    ("timeit", "timeit"): lambda c: ("pass", *opens(c)),
    ("runpy", "run_path"): lambda c: (f"{c}.py",),
    ("logging", "FileHandler"): no_use,
    ("zipfile", "ZipFile"): lambda c: (c, "w"),
    ("gzip", "GzipFile"): lambda c: (c, "wb"),
    ("sqlite3", "connect"): no_use,
    ("_pickle", "loads"): inner,
    ("pickle", "loads"): inner,
    ("cProfile", "run"): opens,
}
"""Calls that need nothing but the standard library, and what they are called with."""
OTHERS = [
    *("nt.system", "os.execlp", "os.remove", "os.putenv", "os.environ", "pty.spawn"),
    *("builtins.getattr", "builtins.__import__", "builtins.compile", "builtins.map"),
    *("builtins.setattr", "builtins.globals", "builtins.vars", "builtins.breakpoint"),
    *("importlib.import_module", "importlib.reload", "runpy.run_module", "runpy._run_code"),
    *("functools.partial", "functools.reduce", "operator.attrgetter", "operator.methodcaller"),
    *("operator.itemgetter", "types.FunctionType", "types.CodeType", "marshal.loads"),
    *("code.InteractiveInterpreter", "pdb.run", "bdb.Bdb", "profile.run", "doctest.debug_script"),
    *("ctypes.CDLL", "ctypes.pythonapi", "threading.Thread", "multiprocessing.Process"),
    *("asyncio.create_subprocess_shell", "webbrowser.open", "pydoc.pipepager", "pip.main"),
    *("copyreg._reconstructor", "copyreg.__newobj__", "copyreg.add_extension", "weakref.finalize"),
    *("urllib.request.urlopen", "socket.socket", "smtplib.SMTP", "ftplib.FTP", "ssl.SSLContext"),
    *("numpy.load", "numpy.fromfile", "numpy.savetxt", "numpy.core.multiarray._reconstruct"),
    *("numpy.testing._private.utils.runstring", "numpy.f2py.crackfortran.getlincoef"),
    *("torch.load", "torch.save", "torch.hub.load", "torch.jit.load", "torch.package.Importer"),
    *("torch.storage._load_from_bytes", "torch._utils._rebuild_wrapper_subclass"),
    *("torch.utils.cpp_extension.load", "torch.ops.load_library", "torch.from_file"),
    *("torch.nn.Module", "torch.nn.modules.container.Sequential.__init__.__globals__"),
    *("torch.serialization.load", "torch.multiprocessing.spawn", "torch.fx.GraphModule"),
    *("joblib.load", "yaml.unsafe_load", "dill.loads", "cloudpickle.loads", "pandas.read_pickle"),
    *("transformers.AutoModel", "safetensors.torch.load_file", "toto.cli.main"),
    *("__main__.Evil", "site.execsitecustomize", "antigravity.webbrowser", "collections.abc"),
    *("collections.OrderedDict.__init__", "collections.OrderedDict.fromkeys.__self__"),
    *("omegaconf.DictConfig.__init__", "omegaconf.__builtins__", "shelve.open"),
    *("pytorch_lightning.__dict__", "argparse.Namespace.__init__.__globals__", "argparse.os"),
    *("dall_e.encoder.partial", "dall_e.utils.math", "typing.sys", "pathlib.os", "_codecs.lookup"),
]
"""Names that no weights need; some begin like one that they do."""


def arguments(values: tuple[Any, ...]) -> bytes:
    return pickle.dumps(values, protocol=2)[2:-1]


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def called(module: str, name: str, values: tuple[Any, ...]) -> bytes:
    return b"\x80\x02" + named(module, name) + arguments(values) + b"R."


def called_by_stack(module: str, name: str, values: tuple[Any, ...]) -> bytes:
    words = b"".join(b"\x8c" + bytes([len(w)]) + w for w in (module.encode(), name.encode()))
    return b"\x80\x04" + words + b"\x93" + arguments(values) + b"R."


def instance(module: str, name: str, values: tuple[Any, ...]) -> bytes:
    pushed = b"".join(pickle.dumps(value, protocol=2)[2:-1] for value in values)
    return b"\x80\x02(" + pushed + f"i{module}\n{name}\n.".encode()


def object_(module: str, name: str, values: tuple[Any, ...]) -> bytes:
    pushed = b"".join(pickle.dumps(value, protocol=2)[2:-1] for value in values)
    return b"\x80\x02(" + named(module, name) + pushed + b"o."


def new(module: str, name: str, values: tuple[Any, ...]) -> bytes:
    return b"\x80\x02" + named(module, name) + arguments(values) + b"\x81."


def new_with_keywords(module: str, name: str, values: tuple[Any, ...]) -> bytes:
    return b"\x80\x04" + named(module, name) + arguments(values) + b"}\x92."


CALLS = {
    "reduce": called,
    "stack_global": called_by_stack,
    "inst": instance,
    "obj": object_,
    "newobj": new,
    "newobj_ex": new_with_keywords,
}


def bare(payload: bytes) -> bytes:
    return payload


def zipped(payload: bytes, **members: bytes) -> bytes:
    """The payload as the pickle of an archive that has one storage of four numbers."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in {"data.pkl": payload, "data/0": bytes(16), **members}.items():
            archive.writestr(f"archive/{name}", data)
    return buffer.getvalue()


def legacy(payload: bytes, place: int = 3) -> bytes:
    """The payload as one of the five pickles of the old format."""
    keys = ["0"] if STORAGE in payload else []
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    parts = [pickle.dumps(v, protocol=2) for v in (TORCH_MAGIC, 1001, system, {}, keys)]
    parts[place] = payload
    return b"".join(parts) + struct.pack("<q", 4) + bytes(16)


WRAPPINGS: dict[str, Callable[[bytes], bytes]] = {
    "bare": bare,
    "zip": zipped,
    "legacy": legacy,
    **{f"legacy-{n}": lambda p, n=n: legacy(p, n) for n in (0, 1, 2, 4)},
}
