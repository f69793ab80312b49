"""What modules are told of an instance, and what is read of the instances they make."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mercure.core.errors import PermanentError
from mercure.core.tags import is_valid_uid
from mercure.core.task import MISSING, SeriesInfo
from mercure.dicom.completeness import check_whole
from mercure.dicom.header import read_placing_of
from mercure.dicom.part10 import read_file_meta
from mercure.dicom.tags_reader import read_tags, tag_names

_FIRST = ("SpecificCharacterSet", "SeriesInstanceUID", "SOPInstanceUID")


def tags_for_module(path: Path, series: SeriesInfo, additional: Sequence[str] = ()) -> Mapping[str, str]:
    """Return what stands in the `.tags` file beside an instance: texts by name, in the order that modules know.

    What the instance does not have is empty: modules ask for a name without asking whether it is there.
    """
    tags = {**dict.fromkeys(tag_names(additional), ""), **read_tags(path, additional)}
    sender = {
        "SenderAddress": series.peer_address or MISSING,
        "SenderAET": series.calling_ae_title or MISSING,
        "ReceiverAET": series.called_ae_title or MISSING,
    }
    first = {name: tags.pop(name, "") for name in _FIRST}
    return {**first, **sender, **tags, "Filename": path.name}


def identify(path: str) -> tuple[str, str]:
    """Return series and SOP instance UID of a file that a module made.

    Raises `PermanentError` when it cannot be read, is cut off, or something else stands behind its data set. The path
    is the module's own and stays out of the message.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise PermanentError(f"a file that the module made cannot be opened: {error.strerror}") from error
    try:
        meta = read_file_meta(descriptor)
        start = meta.data_set_offset
        placing = read_placing_of(
            lambda size: os.pread(descriptor, size, start), meta.data_set_size, meta.transfer_syntax_uid
        )
        check_whole(descriptor, meta)
    except PermanentError as error:
        raise PermanentError(f"an instance that the module made cannot be read: {error}") from error
    finally:
        os.close(descriptor)
    if placing.sop_instance_uid != meta.sop_instance_uid:
        raise PermanentError("an instance that the module made has two SOP Instance UIDs, in its data and before it")
    if not (is_valid_uid(placing.series_instance_uid) and is_valid_uid(placing.sop_instance_uid)):
        raise PermanentError("an instance that the module made has no valid Series or SOP Instance UID")
    return placing.series_instance_uid, placing.sop_instance_uid


def json_bytes(value: Any) -> bytes:
    """Encode JSON for a file."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
