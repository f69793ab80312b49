"""An instance in another transfer syntax, for peers that refuse the stored one. Nothing is lost on the way.

Compressed images are decompressed, uncompressed ones change their encoding; nothing is ever compressed with loss.
"""

import contextlib
import tempfile
import zlib
from collections.abc import Sequence
from typing import BinaryIO

from mercure.dicom import uids
from mercure.dicom.decompress import pixel_format, plan_decompression
from mercure.dicom.part10 import FileMeta, read_file_meta
from mercure.dicom.reencode import ENCODINGS, Encoding, Reencoder, Sink, TranscodeError

_MOST_INFLATED_BYTES = 1 << 33
_CHUNK_BYTES = 1 << 20
_PREFERENCE = (
    uids.EXPLICIT_VR_LITTLE_ENDIAN,
    uids.IMPLICIT_VR_LITTLE_ENDIAN,
    uids.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    uids.EXPLICIT_VR_BIG_ENDIAN,
)
_EXPLICIT_LITTLE = ENCODINGS[uids.EXPLICIT_VR_LITTLE_ENDIAN]


def convert(path: str, accepted: Sequence[str], sink: BinaryIO) -> str:
    """Write the data set of a file to `sink` in one of the accepted transfer syntaxes, and return which.

    Raises `TranscodeError` or another `PermanentError` when that cannot be done, `OSError` when a file cannot be used.
    """
    meta = read_file_meta(path)
    target = next((syntax for syntax in _PREFERENCE if syntax in accepted), "")
    if not target:
        raise TranscodeError(
            f"target accepts neither {meta.transfer_syntax_uid} nor uncompressed for SOP class {meta.sop_class_uid}"
        )
    if target == uids.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        deflating = _Deflating(sink)
        _rewrite(path, meta, deflating, _EXPLICIT_LITTLE)
        deflating.finish()
    else:
        _rewrite(path, meta, sink, ENCODINGS[target])
    return target


def _rewrite(path: str, meta: FileMeta, sink: Sink, write: Encoding) -> None:
    syntax = meta.transfer_syntax_uid
    read = ENCODINGS.get(syntax, _EXPLICIT_LITTLE)
    bits_allocated, is_signed = 16, False
    if not read.explicit or read.big != write.big:
        bits_allocated, is_signed = pixel_format(path)
    plan = None
    if syntax not in ENCODINGS and syntax != uids.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        plan = plan_decompression(path, syntax)
    with contextlib.ExitStack() as files:
        source: BinaryIO = files.enter_context(open(path, "rb"))
        source.seek(meta.data_set_offset)
        end = meta.size
        if syntax == uids.DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
            inflated = files.enter_context(tempfile.TemporaryFile())
            end = _inflate(source, inflated)
            inflated.seek(0)
            source = inflated
        Reencoder(
            source,
            end,
            sink,
            read=read,
            write=write,
            bits_allocated=bits_allocated,
            is_signed=is_signed,
            pixel_plan=plan,
        ).run()


class _Deflating:
    """Compresses what is written to it as the deflated transfer syntax wants it (PS3.5 A.5)."""

    def __init__(self, sink: BinaryIO) -> None:
        self._sink = sink
        self._compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        self._size = 0

    def write(self, data: bytes) -> None:
        self._put(self._compressor.compress(data))

    def finish(self) -> None:
        self._put(self._compressor.flush())
        self._put(bytes(self._size % 2))

    def _put(self, data: bytes) -> None:
        self._size += len(data)
        self._sink.write(data)


def _inflate(file: BinaryIO, sink: Sink) -> int:
    """Return how many bytes it is."""
    inflating = zlib.decompressobj(-zlib.MAX_WBITS)
    size = 0
    try:
        while not inflating.eof:
            data = inflating.unconsumed_tail or file.read(_CHUNK_BYTES)
            part = inflating.decompress(data, _CHUNK_BYTES)
            if not data and not part:
                raise TranscodeError("the deflated data set is cut off")
            size += len(part)
            if size > _MOST_INFLATED_BYTES:
                raise TranscodeError("the deflated data set is too large")
            sink.write(part)
    except zlib.error as error:
        raise TranscodeError(f"the data set cannot be inflated: {error}") from None
    return size
