"""Feeds damaged bytes to every decoder of the wire and of files, in a process whose memory is limited.

`python -m tests.torture.decoders SEED COUNT FOLDER` prints as JSON how many cases each decoder had, the longest time of
one case in seconds of CPU, and each case that ended in another way than with a value or a named error. A case that
takes more memory than `_MEMORY_BYTES` ends in a `MemoryError`, one that hangs in the time-out of the test.
"""

import json
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

from tests.builders import DEFLATED
from tests.torture import mutation
from tests.torture.mutation import SYNTAXES, mutate

from mercure.core.errors import SpoolError
from mercure.dicom import dimse, pdu
from mercure.dicom.commitment_data import CommitmentDataError, read_request
from mercure.dicom.framing import Framer
from mercure.dicom.header import HeaderError, read_placing_of
from mercure.dicom.part10 import NotDicomError, read_file_meta
from mercure.dicom.tags_reader import read_tags
from mercure.spool.layout import Origin, reception_name

_MEMORY_BYTES = 96 << 20
_EXPECTED = (pdu.ProtocolError, HeaderError, NotDicomError, CommitmentDataError, SpoolError)

Case = tuple[bytes, Callable[[bytes], object]]


def _frame(data: bytes, chance: Random) -> None:
    framer = Framer(4096)
    start = 0
    while start < len(data):
        size = chance.choice((1, 2, 5, 6, 100, 5000))
        framer.feed(memoryview(data)[start : start + size])
        start += size


def _place(data: bytes, syntax: str) -> None:
    placing = read_placing_of(lambda size: data[:size], len(data), syntax)
    name = reception_name(placing.study_instance_uid, placing.series_instance_uid, Origin("A", "B", "192.0.2.1"))
    if "/" in name or name.startswith("."):
        raise AssertionError(f"{name!r} would be a path")


def _read_file(data: bytes, path: Path) -> None:
    path.write_bytes(data)
    meta = read_file_meta(os.fspath(path))
    if not 0 <= meta.data_set_offset <= meta.size:
        raise AssertionError(f"data set at {meta.data_set_offset} of {meta.size}")
    if not all(isinstance(value, str) for value in read_tags(path, ["KVP", "Rows", "0009,1010"]).values()):
        raise AssertionError("a tag is no text")


def _case(kind: str, chance: Random, path: Path) -> Case:
    syntax = chance.choice(SYNTAXES)
    originals, decode = {
        "association request": (mutation.requests(), pdu.decode_associate_rq),
        "association acceptance": (mutation.acceptances(), pdu.decode_associate_ac),
        "rejection": ((b"\0\1\1\1",), pdu.decode_associate_rj),
        "abort": ((b"\0\0\2\1",), pdu.decode_abort),
        "command set": (mutation.commands(), dimse.decode),
        "PDUs": (mutation.pdus(), lambda data: _frame(data, chance)),
        "header": (mutation.data_sets(syntax), lambda data: _place(data, syntax)),
        "inflated header": (
            mutation.data_sets(SYNTAXES[0])[:2],
            lambda data: _place(mutation.deflated(data), SYNTAXES[3]),
        ),
        "file": (mutation.files(syntax), lambda data: _read_file(data, path)),
        "commitment": (mutation.commitments(syntax), lambda data: read_request(data, syntax)),
    }[kind]
    if kind == "header" and syntax == DEFLATED and chance.random() < 0.01:  # rare: each takes a second
        originals = mutation.bombs()
    original = chance.choice(originals)
    if chance.random() < 0.02:
        return chance.randbytes(chance.randrange(300)), decode
    return mutate(original, chance, chance.choice(originals)), decode


KINDS = (
    *("association request", "association acceptance", "rejection", "abort", "command set", "PDUs"),
    *("header", "header", "inflated header", "file", "file", "commitment"),
)


def _limit_memory() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY_BYTES, used + _MEMORY_BYTES))


def main() -> None:
    seed, count, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    mutation.bombs()  # made before the limit
    _limit_memory()
    cases, slowest, failures = Counter[str](), (0.0, ""), list[str]()
    for number in range(count):
        chance = Random(f"{seed}-{number}")
        kind = KINDS[number % len(KINDS)]
        data, decode = _case(kind, chance, folder / "case.dcm")
        if number < 2:
            kind, data, decode = "bomb", mutation.bombs()[number], lambda bomb: _place(bomb, DEFLATED)
        cases[kind] += 1
        started = time.thread_time()
        try:
            decode(data)
        except _EXPECTED:
            pass
        except Exception as error:
            failures.append(f"case {number} of seed {seed} ({kind}, {len(data)} bytes): {error!r}")
        slowest = max(slowest, (time.thread_time() - started, f"case {number} ({kind}, {len(data)} bytes)"))
    print(json.dumps({"cases": cases, "slowest": slowest, "failures": failures[:20]}))


if __name__ == "__main__":
    main()
