"""C++ sources of the package, built on the machine that runs them and kept for the next time."""

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch


def suits() -> bool:
    """Whether this processor is one that the sources are for: AVX512 with bf16, without AMX.

    torch's own products use AMX's tiles where there are some; nothing was compared there.
    """
    capable = torch.cpu.get_capabilities()
    native = bool(capable.get("avx512_bf16", False)) and not capable.get("amx_bf16", False)
    return native and sys.platform == "linux"


def compiler() -> str:
    """The C++ compiler, as torch.compile chooses it."""
    return os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")


def load_library(name: str, sources: Sequence[Path], *, instead: str) -> None:
    """Compile sources that declare operators to torch, unless that was done, and load them.

    The library lies in the user's cache, under the hash of all that it is made of. Processes that
    build at once do so beside each other, and the last one's file stays. It takes half a minute.

    Args:
        name: of the library.
        sources: `.cpp` to compile, and the headers that they include.
        instead: what to do without it, for the error's text.

    Raises:
        ValueError: if the compiler refuses them.
    """
    torch_folder = Path(torch.__file__).parent
    options = [
        "-O3", "-march=native", "-std=c++20", "-fopenmp", "-shared", "-fPIC",
        "-DAT_PARALLEL_OPENMP=1",
    ]  # fmt: skip
    texts = [source.read_text() for source in sources]
    made_of = [*texts, *options, compiler(), torch.__version__, str(torch_folder), _processor()]
    digest = hashlib.sha256("\0".join(made_of).encode()).hexdigest()[:16]
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    library = Path(home) / "toto" / f"{name}-{digest}.so"
    if not library.is_file():
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            made = Path(folder) / library.name
            include = torch_folder / "include"
            command = [
                compiler(), *options, f"-I{include}", f"-I{include}/torch/csrc/api/include",
                *(str(source) for source in sources if source.suffix == ".cpp"),
                "-o", str(made), f"-L{torch_folder}/lib", "-ltorch_cpu", "-lc10",
            ]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                said = [line for line in done.stderr.splitlines() if "error" in line]
                wrong = (said or ["no message"])[0]
                raise ValueError(f"{compiler()} does not compile {name}: {wrong}; {instead}")
            made.replace(library)
    torch.ops.load_library(str(library))


def _processor() -> str:
    """What -march=native stands for; a home folder may be shared by machines."""
    capable = torch.cpu.get_capabilities()
    return " ".join(sorted(name for name, there in capable.items() if there is True))
