"""The machine: limits, clock, Python and what it can decode."""

import importlib.util
import platform
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime

from mercure.cli.doctor_findings import Finding
from mercure.config.schema import Config

_FILES_PER_ASSOCIATION = 20
"""Socket, draft, and the receptions that an association keeps at hand."""

_FILES_BESIDE = 256
_OLDEST_YEAR = 2025
_PYTHON = (3, 11)
_DECODERS = {"gdcm": "python-gdcm", "openjpeg": "pylibjpeg-openjpeg", "pylibjpeg": "pylibjpeg"}


def machine_findings(config: Config) -> Iterator[Finding]:
    """Examine what does not depend on folders or the network."""
    yield _open_files(config)
    yield from _clock(config)
    yield _python()
    missing = [package for module, package in _DECODERS.items() if importlib.util.find_spec(module) is None]
    if missing:
        message = f"not installed: {', '.join(missing)}; images cannot be decompressed for targets that need it"
        yield Finding("python", "warning", message, f"pip install {' '.join(missing)}")


def _open_files(config: Config) -> Finding:
    receiver = config.receiver
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _FILES_BESIDE + _FILES_PER_ASSOCIATION * -(-receiver.maximum_associations // receiver.workers)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return Finding("limits", "ok", f"{'unlimited' if soft == resource.RLIM_INFINITY else soft} open files")
    message = (
        f"{soft} open files are allowed; {receiver.maximum_associations} associations on {receiver.workers} workers "
        f"may need {needed}"
    )
    return Finding("limits", "warning", message, "LimitNOFILE=65536 in the systemd unit, or ulimit -n 65536.")


def _clock(config: Config) -> Iterator[Finding]:
    now = datetime.now(config.mercure.zone)
    shown = f"{now:%Y-%m-%d %H:%M} in local_time {config.mercure.local_time}"
    if now.year < _OLDEST_YEAR:
        yield Finding("clock", "error", f"the clock is wrong: {shown}", "Set it, best by NTP.")
        return
    synchronised = _is_synchronised()
    if synchronised is False:
        yield Finding("clock", "warning", f"{shown}, not synchronised", "timedatectl set-ntp true, or run chronyd.")
    else:
        yield Finding("clock", "ok", shown + (", synchronised" if synchronised else ""))


def _is_synchronised() -> bool | None:
    """Ask systemd whether the clock follows a time server; None when it cannot tell."""
    program = shutil.which("timedatectl")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "show", "--property=NTPSynchronized", "--value"],
            capture_output=True,
            text=True,
            timeout=3,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return {"yes": True, "no": False}.get(done.stdout.strip())


def _python() -> Finding:
    version = platform.python_version()
    if sys.version_info < _PYTHON:  # the package could be forced onto an older one
        return Finding("python", "error", f"Python {version} is too old", "Use Python 3.11 or newer.")
    return Finding("python", "ok", f"Python {version}")
