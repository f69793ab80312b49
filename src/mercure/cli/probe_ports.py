"""Whether a port can be opened, and who has it if not."""

import contextlib
import errno
import os
import re
import socket
from dataclasses import dataclass

_LISTENING = "0A"
_SOCKET = re.compile(r"socket:\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that listens on a port; `pid` is 0 when it cannot be seen."""

    pid: int
    program: str
    is_mercure: bool

    def __str__(self) -> str:
        """Name it."""
        return f"{self.program} (process {self.pid})" if self.pid else "a process of another user"


def why_not_free(host: str, port: int) -> tuple[int, str]:
    """Try to open a port and let it go again; return the number and the text of the error, (0, "") when it is free."""
    try:
        if host:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listener = socket.create_server((host, port), family=family)
        elif socket.has_dualstack_ipv6():
            listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
        else:
            listener = socket.create_server(("", port))
    except socket.gaierror as error:
        return errno.EADDRNOTAVAIL, f"host {host} is not known ({error.strerror})"
    except OSError as error:
        return error.errno or errno.EIO, os.strerror(error.errno) if error.errno else str(error)
    listener.close()
    return 0, ""


def holder_of(port: int) -> Holder:
    """Find who listens on a port, as far as this user may see it."""
    inodes = set(_listening_inodes(port))
    for pid in filter(str.isdecimal, os.listdir("/proc") if os.path.isdir("/proc") else ()):
        with contextlib.suppress(OSError):
            for number in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    found = _SOCKET.fullmatch(os.readlink(f"/proc/{pid}/fd/{number}"))
                    if found and found[1] in inodes:
                        return _holder(int(pid))
    return Holder(0, "", is_mercure=False)


def _listening_inodes(port: int) -> list[str]:
    inodes = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError), open(table, encoding="ascii") as file:
            for line in file.readlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.append(fields[9])
    return inodes


def _holder(pid: int) -> Holder:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        words = file.read(4096).decode("utf-8", "replace").split("\0")
    names = [os.path.basename(word) for word in words[:3]]
    is_mercure = "mercure" in names or any(word.startswith("mercure.") for word in words[:4])
    return Holder(pid, "mercure" if is_mercure else names[0], is_mercure)
