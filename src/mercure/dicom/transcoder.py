"""The transcoder as a process of its own, which lives as long as one delivery needs it.

pydicom, numpy and the decoders are big, and what they decode is a stranger's: neither their memory nor their crashes
become ours.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, Self

from mercure.core.errors import TransientError
from mercure.dicom.reencode import TranscodeError

LIMIT_SECONDS = 900.0
"""An instance that takes longer to convert is given up."""

_ONE_ANSWER_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Transcoded:
    """A data set in another transfer syntax: all of `file`, which has no name any more and which the caller closes."""

    file: BinaryIO
    transfer_syntax_uid: str
    size: int


class Transcoder:
    """Converts instances. The process is started by the first call and ended by `close` or the end of the block."""

    def __init__(self, limit_seconds: float = LIMIT_SECONDS) -> None:
        """Start nothing yet."""
        self._limit_seconds = limit_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def transcode(self, path: str, accepted: Sequence[str]) -> Transcoded:
        """Return the data set of a file in one of the accepted transfer syntaxes, as `transcode.convert` does it.

        Raises `TranscodeError` when that cannot be done or takes too long, `TransientError` when there is no process
        or no space for it, or when `close` was called.
        """
        descriptor, output = tempfile.mkstemp(prefix="mercure-transcode-")
        file = os.fdopen(descriptor, "rb")
        try:
            syntax = self._ask(path, accepted, output)
        except BaseException:
            file.close()
            raise
        finally:
            os.unlink(output)
        return Transcoded(file, syntax, os.fstat(descriptor).st_size)

    def close(self) -> None:
        """End the process, from any thread; a call that waits for it raises `TransientError`."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.kill()

    def _ask(self, path: str, accepted: Sequence[str], output: str) -> str:
        process = self._running()
        question = json.dumps({"path": path, "accepted": list(accepted), "output": output}) + "\n"
        line = b""
        with contextlib.suppress(BrokenPipeError):
            _write_all(process, question.encode("ascii"))
            line = self._answer_of(process)
        if not line:
            self._end()
            if self._closed:
                raise TransientError("the transcoder was stopped")
            raise TranscodeError("the decoder crashed on this instance, or took too long")
        answer = json.loads(line)
        if answer["kind"] == "transient":
            raise TransientError(answer["detail"])
        if answer["kind"] == "permanent":
            raise TranscodeError(answer["detail"])
        return str(answer["transfer_syntax"])

    def _running(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._closed:
                raise TransientError("the transcoder was stopped")
            if self._process is None:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "mercure.dicom.transcode_worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    bufsize=0,
                    start_new_session=True,  # a Ctrl-C at the terminal is for us to handle
                )
            return self._process

    def _answer_of(self, process: subprocess.Popen[bytes]) -> bytes:
        """Return one line, or nothing when the process ended or took too long."""
        if process.stdout is None:
            return b""
        line = b""
        while not line.endswith(b"\n") and len(line) < _ONE_ANSWER_BYTES:
            ready, _, _ = select.select([process.stdout], [], [], self._limit_seconds)
            part = os.read(process.stdout.fileno(), _ONE_ANSWER_BYTES) if ready else b""
            if not part:
                return b""
            line += part
        return line

    def _end(self) -> None:
        with self._lock:
            process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _write_all(process: subprocess.Popen[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view and process.stdin is not None:
        view = view[os.write(process.stdin.fileno(), view) :]
