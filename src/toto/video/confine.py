"""What the decode child gives up before it touches a file: see docs/architecture, isolation.

FFmpeg parses untrusted bytes in C. The child therefore holds no network, opens no file, writes
none, and dies with its parent; what the system does not grant is reported, not assumed.
"""

import ctypes
import os
import resource
import signal
import sys
import tempfile
import time

# Numbers from linux/prctl.h, linux/sched.h and linux/landlock.h; Python's `os` lacks them in 3.11.
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWNET = 0x40000000
_CLONE_NEWUSER = 0x10000000
_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_RESTRICT_SELF = 446
_LANDLOCK_FS_RIGHTS_V1 = (1 << 13) - 1


def confine(*, parent_pid: int, memory_bytes: int) -> dict[str, bool]:
    """Give up rights for good; to be called once, after every import.

    Args:
        parent_pid: the process to die with.
        memory_bytes: limit of the address space.

    Returns:
        `no_network` and `no_files`: whether the kernel holds these two, by a network namespace
        of its own and by Landlock. Resource limits always hold.

    Raises:
        SystemExit: if the parent is gone already.
    """
    empty = tempfile.mkdtemp(prefix="toto-decode-")
    os.chdir(empty)
    # The deleted folder stays the working directory, and nothing can ever be made in it.
    os.rmdir(empty)
    os.set_blocking(2, False)
    for kind, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_AS, memory_bytes),
    ):
        _, hard = resource.getrlimit(kind)
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))
    held = {"no_network": False, "no_files": False}
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        # Root may leave the network alone; others need a user namespace to be allowed to.
        held["no_network"] = any(
            libc.unshare(flags) == 0 for flags in (_CLONE_NEWNET, _CLONE_NEWUSER | _CLONE_NEWNET)
        )
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        held["no_files"] = _deny_files(libc)
        # After unshare: a change of credentials clears this one.
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        raise SystemExit("the parent process is gone")
    return held


def allow_cpu(seconds: float) -> None:
    """Let the process use `seconds` more of CPU time before the kernel kills it.

    Counted in the process itself, so that neither a busy machine nor a stopped parent matters; the
    kernel counts in whole seconds.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(time.process_time() + seconds) + 2
    soft = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def _deny_files(libc: ctypes.CDLL) -> bool:
    """Handle every file right and grant none, so that no path can be opened any more."""
    rights = ctypes.c_uint64(_LANDLOCK_FS_RIGHTS_V1)
    ruleset = libc.syscall(
        _LANDLOCK_CREATE_RULESET, ctypes.byref(rights), ctypes.c_size_t(ctypes.sizeof(rights)), 0
    )
    if ruleset < 0:
        return False
    held = libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0
    os.close(ruleset)
    return held
