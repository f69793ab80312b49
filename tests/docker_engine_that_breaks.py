"""A peer that speaks as a Docker engine does, and breaks off where a test wants it to.

No real engine can be told to die at a certain byte; what a whole one does is tested with a real one.
"""

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from tests.peers import DEADLINE_SECONDS

Answer = Callable[[socket.socket], bool]
"""Sends an answer; False: hangs up then."""


def gives(content: object, status: str = "200 OK") -> Answer:
    """Answer in order, with JSON."""
    body = json.dumps(content).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"

    def answer(link: socket.socket) -> bool:
        link.sendall(head.encode() + body)
        return True

    return answer


def streams(content: bytes, *, whole: bool, content_type: str = "application/json") -> Answer:
    """Send a stream; without its end when it is not `whole`."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    chunk = b"%x\r\n%b\r\n" % (len(content), content) if content else b""

    def answer(link: socket.socket) -> bool:
        link.sendall(head + chunk + (b"0\r\n\r\n" if whole else b""))
        return whole

    return answer


def hangs_up(_: socket.socket) -> bool:
    """Say nothing."""
    return False


def in_turn(*answers: Answer) -> Answer:
    """Give one answer after the other, and the last one for good."""
    left = list(answers)

    def answer(link: socket.socket) -> bool:
        return (left.pop(0) if len(left) > 1 else left[0])(link)

    return answer


class BreakingEngine:
    """Answers by method and end of the path, as in "GET /json"; anything else is not there."""

    def __init__(self, path: Path, answers: Mapping[str, Answer]) -> None:
        """Listen at once."""
        self.host = f"unix://{path}"
        self.asked: list[str] = []
        self.answers = {"GET /version": gives({"ApiVersion": "1.44"}), **answers}
        self._links: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        """Hang up everywhere."""
        for link in (self._listener, *self._links):
            with suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(DEADLINE_SECONDS)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                link, _ = self._listener.accept()
                self._links.append(link)
                self._threads.append(threading.Thread(target=self._serve, args=(link,)))
                self._threads[-1].start()

    def _serve(self, link: socket.socket) -> None:
        with link, suppress(OSError), link.makefile("rb") as requests:
            while head := _head(requests):
                length = re.search(r"^content-length: *(\d+)", head, re.IGNORECASE | re.MULTILINE)
                requests.read(int(length[1]) if length else 0)
                asked = re.sub(r"[?].*|(?<= )/v[0-9.]+", "", " ".join(head.split(" ")[:2]))
                self.asked.append(asked)
                method, _, path = asked.partition(" ")
                fitting = [answer for key, answer in self.answers.items() if _fits(key, method, path)]
                if not (fitting[0] if fitting else gives({"message": "no such thing"}, "404 Not Found"))(link):
                    return


def _head(requests: BinaryIO) -> str:
    lines = []
    while (line := requests.readline()) not in {b"", b"\r\n"}:
        lines.append(line)
    return b"".join(lines).decode()


def _fits(key: str, method: str, path: str) -> bool:
    wanted, _, end = key.partition(" ")
    return method == wanted and path.endswith(end)


@contextmanager
def engine_that(folder: Path, answers: Mapping[str, Answer]) -> Iterator[BreakingEngine]:
    """An engine that answers so, until the end of the block."""
    engine = BreakingEngine(folder / "breaking.sock", answers)
    try:
        yield engine
    finally:
        engine.close()
