"""Weights files from elsewhere, read without running anything that they ask for.

What `torch.save` writes is a pickle beside the bytes of the tensors. The pickle is read as data
(`toto.tokenizers.inert`), and the tensors of the state that it describes are cut out of the bytes.
"""

import io
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from toto.tokenizers.inert import Reader, Storage, Stub, View, kind_of

LONGEST_PICKLE = 16 * 2**20
"""Bytes of the pickle itself, without its tensors; the largest we know of has 0.3 MB."""
MOST_NAMES = 100_000
LONGEST_NAME = 1000
"""Characters of a tensor's name; bounds how deep modules nest, too."""
TORCH_MAGIC = 0x1950A86A20F9469CFC6C
"""What the first of the pickles in torch's format before 1.6 holds."""


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a weights file by name: the one door for weights from elsewhere.

    Reads safetensors, and what `torch.save` wrote in either of its formats: a state dict, a
    dict that holds one as `state_dict` or `model` (Lightning, LlamaGen), or a whole module. The
    kind is told from the content, never from the file's name.

    Returns:
        CPU tensors by their full names, in the file's order and types; they may share memory.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is something else, is damaged, or asks for anything that weights do
            not need; the message names the file and what was wrong.
    """
    with path.open("rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        head = file.read(512)
        file.seek(0)
        if other := _not_weights(head):
            raise ValueError(f"{path}: not weights but {other}")
        try:
            if head.startswith(b"PK\x03\x04"):
                return _read_zip(file, size_bytes)
            if _is_safetensors(head):
                return load_file(path)
            return _read_legacy(file, size_bytes)
        except (ValueError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ValueError(f"{path}: refused: {reason}") from error


def _not_weights(head: bytes) -> str | None:
    """Say what a file is that someone took for weights; None if it may be weights."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "an empty file; the download did not happen"
    if start.startswith(b"<"):
        return "a web page; the link that it came from is dead or asks for a login"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer; `git lfs pull` brings the file that it points to"
    if head[257:262] == b"ustar":
        return "a tar archive; torch before 0.4 wrote those, save it again with a newer one"
    for magic, what in ((b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ", "xz")):
        if head.startswith(magic):
            return f"a {what} archive; unpack it first"
    if head.startswith((b"PK\x03\x04", b"\x80")) or _is_safetensors(head):
        return None
    return f"something that torch.save and safetensors never write; it begins with {head[:24]!r}"


def _is_safetensors(head: bytes) -> bool:
    # The length of the JSON header in 8 bytes, then the header.
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= 100_000_000


def _read_zip(file: BinaryIO, size_bytes: int) -> dict[str, Tensor]:
    """Read what `torch.save` has written since 1.6: a zip archive of `data.pkl` and storages."""
    try:
        archive = zipfile.ZipFile(file)
        members = archive.infolist()
    except Exception as error:  # zipfile fails in many ways
        raise ValueError(f"a cut or damaged zip archive, download it again ({error})") from error
    # Stored without compression, and no byte twice: reading all can never take more than the
    # file's own size.
    if sum(member.file_size for member in members) > size_bytes:
        raise ValueError("its members are larger than the file: not an archive of torch.save's")
    by_name = {member.filename: member for member in members}
    pickles = [name for name in by_name if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1 or len(by_name) != len(members):
        raise ValueError("a zip archive without a single data.pkl: not one of torch.save's")
    folder = pickles[0].removesuffix("data.pkl")

    def member(name: str) -> bytes:
        info = by_name.get(folder + name)
        if info is None:
            raise ValueError(f"there is no {name} in the archive: it is damaged or incomplete")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise ValueError(f"{name} is compressed, which torch.save never does")
        if name == "data.pkl" and info.file_size > LONGEST_PICKLE:
            raise ValueError(f"its pickle has {info.file_size} bytes, weights need fewer")
        try:
            return archive.read(info)
        except Exception as error:  # as above; a wrong checksum comes here too
            raise ValueError(f"{name} is damaged, download the file again ({error})") from error

    if folder + "byteorder" in by_name and member("byteorder") != b"little":
        raise ValueError("written on a big-endian machine; save it again on a little-endian one")
    root = Reader().read(io.BytesIO(member("data.pkl")))
    return _cut_out(_find_state(root), lambda storage: member(f"data/{storage.key}"))


def _read_legacy(file: BinaryIO, size_bytes: int) -> dict[str, Tensor]:
    """Read what `torch.save` wrote before 1.6: five pickles in a row, then the storages."""
    stream = io.BytesIO(file.read(LONGEST_PICKLE))
    reader = Reader()
    if reader.read(stream) != TORCH_MAGIC:
        raise ValueError("a pickle, but not of weights: torch.save did not write it")
    reader.read(stream)  # The format's version: there has been but one.
    system = reader.read(stream)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("written on a big-endian machine; save it again on a little-endian one")
    root = reader.read(stream)
    keys = reader.read(stream)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("its list of storages is damaged")
    places: dict[str, int] = {}
    place = stream.tell()
    for key in keys:
        if key in places or key not in reader.storages:
            raise ValueError("its list of storages does not fit its tensors: it is damaged")
        storage = reader.storages[key]
        file.seek(place)
        if int.from_bytes(file.read(8), "little") != storage.count:
            raise ValueError("a storage has not the size that its tensors say: it is damaged")
        places[key] = place + 8
        place = places[key] + storage.count * storage.dtype.itemsize
        if place > size_bytes:
            raise ValueError(f"{size_bytes} bytes are too few for its storages: it was cut short")

    def read(storage: Storage) -> bytes:
        if storage.key not in places:
            raise ValueError("a tensor's storage is not in the file: it is damaged")
        file.seek(places[storage.key])
        return file.read(storage.count * storage.dtype.itemsize)

    return _cut_out(_find_state(root), read)


def _find_state(root: Any) -> dict[str, View]:
    """Find the named tensors in what a file holds."""
    for key in ("state_dict", "model"):
        if isinstance(root, dict) and isinstance(root.get(key), dict | Stub):
            root = root[key]
            break
    found = dict(_walk(root)) if isinstance(root, Stub) else root
    if not isinstance(found, dict) or not found:
        raise ValueError(f"it holds a {kind_of(root)}, no state dict and no module with weights")
    for name, view in found.items():
        if not isinstance(name, str) or len(name) > LONGEST_NAME:
            raise ValueError(f"{name!r:.50} is not the name of a weight")
        if not isinstance(view, View):
            raise ValueError(f"{name!r:.200} is a {kind_of(view)}, not a tensor")
    return found


def _walk(module: Stub) -> Iterator[tuple[str, Any]]:
    """Name the tensors of a whole module as its `state_dict` would."""
    waiting: list[tuple[str, Any]] = [("", module)]
    seen = 0
    while waiting:
        path, part = waiting.pop()
        if part is None:  # A module that was taken out, as `self.norm = None` does.
            continue
        prefix = f"{path}." if path else ""
        for kind in ("_parameters", "_buffers", "_modules"):
            state = part.state if isinstance(part, Stub) else None
            held = state.get(kind) if isinstance(state, dict) else None
            if not isinstance(held, dict):
                name = path or "what it holds"
                raise ValueError(f"{name!r:.200} is a {kind_of(part)}, not a module")
            # A few bytes can describe modules without end, since one may be part of many.
            seen += 1 + len(held)
            if seen > MOST_NAMES:
                raise ValueError(f"its modules have more than {MOST_NAMES} parts: not weights")
            named = [(_name_in(prefix, name), value) for name, value in held.items()]
            if kind == "_modules":
                waiting += reversed(named)
            else:
                yield from ((name, view) for name, view in named if view is not None)


def _name_in(prefix: str, name: Any) -> str:
    if not isinstance(name, str) or len(prefix) + len(name) > LONGEST_NAME:
        raise ValueError(f"{prefix[:50]!r}: a part has no name, or its name has no end")
    return prefix + name


def _cut_out(state: dict[str, View], read: Callable[[Storage], bytes]) -> dict[str, Tensor]:
    """Make the described tensors, reading each storage once."""
    storages: dict[str, Tensor] = {}
    for view in state.values():
        storage = view.storage
        if storage.key in storages:
            continue
        data = bytearray(read(storage))
        if len(data) != storage.count * storage.dtype.itemsize:
            raise ValueError(
                f"storage {storage.key!r:.50} has {len(data)} bytes, its tensors need "
                f"{storage.count * storage.dtype.itemsize}: it is damaged"
            )
        whole = torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0).byte()
        storages[storage.key] = whole.view(storage.dtype)
    return {
        name: torch.empty(view.size, dtype=view.storage.dtype)
        if 0 in view.size
        else storages[view.storage.key].as_strided(view.size, view.stride, view.offset)
        for name, view in state.items()
    }
