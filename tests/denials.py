"""What a container or an administrator may deny a process, denied to this one for good; needs no root.

python -c "from tests.denials import deny_io_uring; deny_io_uring(1); ..."
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# io_uring_setup, io_uring_enter, io_uring_register: the same numbers everywhere.
FIRST, LAST = 425, 427
CAP_IPC_LOCK = 14

_libc = ctypes.CDLL(None, use_errno=True)


def deny_io_uring(errno: int) -> None:
    """Makes the three system calls of io_uring fail with `errno`, by a seccomp filter like containers'."""
    load, at_least, above, equal, give = 0x20, 0x35, 0x25, 0x15, 0x06
    allowed, denied = 0x7FFF0000, 0x00050000 | errno
    program = [
        (load, 0, 0, 4),  # the architecture
        (equal, 0, 4, AUDIT_ARCH[platform.machine()]),
        (load, 0, 0, 0),  # the call's number
        (at_least, 0, 2, FIRST),
        (above, 1, 0, LAST),
        (give, 0, 0, denied),
        (give, 0, 0, allowed),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    filter_ = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    _prctl(38, 1)  # PR_SET_NO_NEW_PRIVS
    _prctl(22, 2, ctypes.create_string_buffer(filter_))  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def limit_locked_memory(limit: int) -> None:
    """No more bytes than that may be locked or registered, not by root either."""
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
    header = ctypes.create_string_buffer(struct.pack("II", 0x20080522, 0))
    sets = ctypes.create_string_buffer(24)
    _check(_libc.capget(header, sets))
    masks = list(struct.unpack("6I", sets.raw[:24]))
    masks[:3] = [mask & ~(1 << CAP_IPC_LOCK) for mask in masks[:3]]
    _check(_libc.capset(header, ctypes.create_string_buffer(struct.pack("6I", *masks))))


def _prctl(option: int, value: int, argument: object = None) -> None:
    _check(_libc.prctl(option, ctypes.c_ulong(value), argument, 0, 0))


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
