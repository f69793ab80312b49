"""A command in whose process no file gets a second name, as on a file system without hard links (vfat, some shares).

Run as a program, it has the kernel refuse the system calls (seccomp), and becomes the command.
"""

import ctypes
import errno
import os
import platform
import struct
import sys

WITHOUT_HARD_LINKS = (sys.executable, os.path.abspath(__file__))
"""Put before a command."""

_CALLS = {"x86_64": (86, 265), "aarch64": (37,)}
"""Numbers of link and linkat; only the second where there is no first."""

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _FILTER = 22, 38, 2
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def _refuse_links() -> None:
    calls = _CALLS[platform.machine()]
    steps = [(_LOAD, 0, 0, 0)]
    steps += [(_JUMP_IF_EQUAL, len(calls) - place, 0, number) for place, number in enumerate(calls)]
    steps += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE)]
    program = _Program(len(steps), b"".join(struct.pack("HBBI", *step) for step in steps))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    arguments = ((_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (_PR_SET_SECCOMP, _FILTER, ctypes.byref(program), 0, 0))
    for first, *others in arguments:
        if prctl(first, *(ctypes.c_ulong(one) if isinstance(one, int) else one for one in others)):
            raise OSError(ctypes.get_errno(), "the kernel takes no filter")


if __name__ == "__main__":
    _refuse_links()
    os.execvp(sys.argv[1], sys.argv[1:])
