"""What a series says about itself: the tags that the rules are asked about, and what a job keeps of it."""

from collections import Counter
from collections.abc import Mapping, Sequence

from mercure.core.errors import MercureError
from mercure.core.tags import Tags
from mercure.core.task import MISSING, SeriesInfo
from mercure.dicom.tags_reader import read_tags, tag_names
from mercure.spool.sealing import Contents, Sealed


def representative_tags(sealed: Sealed, contents: Contents, additional: Sequence[str]) -> Tags:
    """Return the tags that the rules are asked about. Raises `MercureError` when no header can be read.

    Instances of one kind are alike in what rules look at, so the first one that can be read speaks for all. A mixed
    series (a localizer among slices, a report among images) is read whole, and the kind with the most instances
    speaks, by its lowest instance number: never whichever file a folder happens to list first.
    """
    headers = []
    problem: MercureError | None = None
    for name in contents.instances:
        try:
            headers.append({**read_tags(sealed.received / name, additional), "Filename": name})
        except MercureError as error:
            problem = error
        if headers and contents.kinds <= 1:
            break
    if not headers:
        raise problem or MercureError("no instance")
    counts = Counter(map(_kind, headers))
    tags = min(headers, key=lambda tags: (-counts[_kind(tags)], _kind(tags), _instance_number(tags)))
    tags["SenderAddress"] = contents.origin.peer_address
    tags["SenderAET"] = contents.origin.calling_ae_title
    tags["ReceiverAET"] = contents.origin.called_ae_title
    return Tags(tags, tag_names(additional))


def _kind(tags: Mapping[str, str]) -> tuple[str, str, str]:
    return tags.get("Modality", ""), tags.get("MediaStorageSOPClassUID", ""), tags.get("ImageType", "")


def _instance_number(tags: Mapping[str, str]) -> tuple[int, str]:
    number = tags.get("InstanceNumber", "").strip()
    return (int(number), "") if number.isdecimal() and len(number) < 12 else (1 << 62, tags.get("SOPInstanceUID", ""))


def series_info(tags: Mapping[str, str], contents: Contents) -> SeriesInfo:
    """Return what a job keeps of its series."""
    origin = contents.origin
    return SeriesInfo(
        series_uid=contents.series_uid or tags.get("SeriesInstanceUID", ""),
        study_uid=contents.study_uid or tags.get("StudyInstanceUID", ""),
        calling_ae_title=origin.calling_ae_title,
        called_ae_title=origin.called_ae_title,
        peer_address=origin.peer_address,
        patient_name=tags.get("PatientName") or MISSING,
        patient_id=tags.get("PatientID") or MISSING,
        accession_number=tags.get("AccessionNumber") or MISSING,
        device_serial_number=tags.get("DeviceSerialNumber") or None,
    )
