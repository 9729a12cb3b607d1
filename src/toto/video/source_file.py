"""The one way to a stranger's bytes: an open regular file, or one made of an upload."""

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from toto.video.limits import DecodeLimits
from toto.video.refused import VideoRefusedError


@contextlib.contextmanager
def regular_file(path: Path, limits: DecodeLimits) -> Iterator[int]:
    """Open a file for reading, without ever waiting for it or touching a device.

    Raises:
        VideoRefusedError: if it cannot be opened, is no regular file or is too large.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise VideoRefusedError(path, "open", "it is not a regular file")
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise VideoRefusedError(path, "open", error.strerror or repr(error)) from error
    except ValueError as error:
        if isinstance(error, VideoRefusedError):
            raise
        raise VideoRefusedError(path, "open", str(error)) from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise VideoRefusedError(path, "open", "it is not a regular file")
        if status.st_size > limits.max_file_bytes:
            reason = f"{status.st_size} bytes, max_file_bytes is {limits.max_file_bytes}"
            raise VideoRefusedError(path, "limits", reason)
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def uploaded(data: bytes) -> Iterator[Path]:
    """Give bytes that came in some other way a path, so that they use the same door as files.

    The path is good in this process and within the `with` only. Where the system can, the bytes
    stay in memory and have no name on any disk.
    """
    if not hasattr(os, "memfd_create"):
        with tempfile.NamedTemporaryFile(prefix="toto-upload-") as file:
            file.write(data)
            file.flush()
            yield Path(file.name)
        return
    with open(os.memfd_create("toto-upload"), "wb") as file:
        file.write(data)
        file.flush()
        yield Path(f"/proc/self/fd/{file.fileno()}")
