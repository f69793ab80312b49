"""Synthetic DICOM data for tests, benches and the demo of a failure: made by code, with no patient in it.

Everything starts from the CT and the MR image that pydicom ships. Identities are replaced, private groups and sequences
are kept or added so that headers look like those of real scanners (about 100 elements), and the pixels are tiled up to
the size wanted. A series is written from one encoded template: per instance only values of fixed width are patched, so
that 2,000 CT files cost little more than writing their bytes.
"""

import copy
import os
import secrets
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import pydicom
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

Modality = Literal["CT", "MR"]

EXPLICIT_LITTLE = str(ExplicitVRLittleEndian)
IMPLICIT_LITTLE = str(ImplicitVRLittleEndian)
EXPLICIT_BIG = str(ExplicitVRBigEndian)
DEFLATED = str(DeflatedExplicitVRLittleEndian)
RLE = str(RLELossless)
JPEG_2000 = str(JPEG2000Lossless)

CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
MR_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
MULTIFRAME_WORD_STORAGE = "1.2.840.10008.5.1.4.1.1.7.3"

PATIENT = "TEST^SYNTHETIC"
CT_SIZE_BYTES = 525_000
MR_SIZE_BYTES = 130_000
SMALL_SIZE_BYTES = 4_000

_KEPT_PRIVATE_GROUPS = (0x0009, 0x0021, 0x0029)
_ENCODED_BY_PYDICOM = {RLE: "pydicom", JPEG_2000: "pylibjpeg"}


@dataclass(frozen=True)
class BuiltSeries:
    """One series on disk. `files[i]` holds the instance `sop_instance_uids[i]`, in order of instance number."""

    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uids: tuple[str, ...]
    files: tuple[Path, ...]

    @property
    def size_bytes(self) -> int:
        """The size of all files together."""
        return sum(os.path.getsize(file) for file in self.files)


def new_uid() -> str:
    """A fresh UID of always 44 characters: under 2.25 (PS3.5 B.2), even, so that no value needs padding."""
    low = 10**38
    return f"2.25.{low + secrets.randbelow(2**128 - low)}"


def ct_series(folder: Path, count: int = 100, *, size_bytes: int = CT_SIZE_BYTES, **elements: Any) -> BuiltSeries:
    """Write `count` CT instances of about `size_bytes` each to `folder`, which is made if needed.

    `elements` are set in each instance by keyword (StudyInstanceUID, SeriesDescription, ...); None removes an element.
    """
    return _write_series(folder, count, _sized("CT", size_bytes), EXPLICIT_LITTLE, elements)


def mr_series(folder: Path, count: int = 100, *, size_bytes: int = MR_SIZE_BYTES, **elements: Any) -> BuiltSeries:
    """Write `count` MR instances of about `size_bytes` each to `folder`; otherwise as `ct_series`."""
    return _write_series(folder, count, _sized("MR", size_bytes), EXPLICIT_LITTLE, elements)


def small_series(
    folder: Path,
    count: int = 20,
    *,
    size_bytes: int = SMALL_SIZE_BYTES,
    modality: Modality = "CT",
    transfer_syntax: str = EXPLICIT_LITTLE,
    **elements: Any,
) -> BuiltSeries:
    """Write instances of 2-10 KB without private groups: for tests that need many files and not many bytes."""
    dataset = _without_private(_sized(modality, size_bytes, spare_bytes=1_900))
    return _write_series(folder, count, dataset, transfer_syntax, elements)


def dicom_bytes(
    *,
    modality: Modality = "CT",
    transfer_syntax: str = EXPLICIT_LITTLE,
    part10: bool = True,
    undefined_lengths: bool = False,
    rows: int = 32,
    columns: int = 32,
    **elements: Any,
) -> bytes:
    """One instance as bytes, encoded in any transfer syntax that pydicom writes, RLE and JPEG 2000 lossless included.

    `part10=False` gives the data set alone, as it travels in a C-STORE. `undefined_lengths` writes every sequence and
    every item with undefined length (PS3.5 7.5.2). `elements` are set by keyword; None removes one.
    """
    dataset = _tiled(_template(modality), rows, columns)
    _identify(dataset)
    _apply(dataset, elements)
    if undefined_lengths:
        _use_undefined_lengths(dataset)
    return encode(dataset, transfer_syntax, part10=part10)


def dataset(modality: Modality = "CT", **elements: Any) -> FileDataset:
    """One small instance as a pydicom data set with fresh UIDs, for tests that change it in their own way."""
    made = _tiled(_template(modality), 32, 32)
    _identify(made)
    _apply(made, elements)
    return made


def encode(dataset: Dataset, transfer_syntax: str = EXPLICIT_LITTLE, *, part10: bool = True) -> bytes:
    """Encode an uncompressed little-endian data set in the given transfer syntax: as a file, or the data set alone."""
    dataset = copy.deepcopy(dataset)
    dataset.file_meta = _file_meta(dataset, EXPLICIT_LITTLE)
    if transfer_syntax in _ENCODED_BY_PYDICOM:
        dataset.compress(
            UID(transfer_syntax),
            encoding_plugin=_ENCODED_BY_PYDICOM[transfer_syntax],
            generate_instance_uid=False,
        )
    elif transfer_syntax == EXPLICIT_BIG and "PixelData" in dataset:
        dataset.PixelData = _swapped_words(dataset.PixelData)
    dataset.file_meta.TransferSyntaxUID = UID(transfer_syntax)
    buffer = BytesIO()
    dcmwrite(buffer, _bare(dataset), enforce_file_format=True)
    return buffer.getvalue() if part10 else without_file_meta(buffer.getvalue())


def without_file_meta(file_bytes: bytes) -> bytes:
    """The data set of a Part 10 file: what follows the preamble and the group 2 elements (PS3.10 7.1)."""
    group_length: int = struct.unpack_from("<I", file_bytes, 140)[0]
    return file_bytes[144 + group_length :]


def multiframe_file(path: Path, *, frames: int, rows: int = 1024, columns: int = 1024) -> BuiltSeries:
    """Write one 16-bit multi-frame instance of `frames * rows * columns * 2` bytes of pixels, frame by frame.

    1,024 frames of 1,024 x 1,024 are 2 GiB: little memory is used, whatever the size.
    """
    total = frames * rows * columns * 2
    if total >= 2**32 - 1:
        message = f"{total} bytes do not fit in one native Pixel Data element"
        raise ValueError(message)
    dataset = _tiled(_template("CT"), rows, columns)
    _identify(dataset)
    frame = dataset.PixelData
    _apply(dataset, {"SOPClassUID": MULTIFRAME_WORD_STORAGE, "NumberOfFrames": frames, "PixelData": b""})
    header = encode(dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(header[:-4] + struct.pack("<I", total))
        for _ in range(frames):
            file.write(frame)
    return BuiltSeries(
        dataset.StudyInstanceUID,
        dataset.SeriesInstanceUID,
        MULTIFRAME_WORD_STORAGE,
        (dataset.SOPInstanceUID,),
        (path,),
    )


def _write_series(
    folder: Path, count: int, dataset: FileDataset, transfer_syntax: str, elements: Mapping[str, Any]
) -> BuiltSeries:
    _identify(dataset)
    _apply(dataset, elements)
    patch = _patcher(dataset, transfer_syntax)
    folder.mkdir(parents=True, exist_ok=True)
    uids = [new_uid() for _ in range(count)]
    files = []
    for number, uid in enumerate(uids, start=1):
        file = folder / f"{dataset.Modality}{number:05d}.dcm"
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            os.writev(descriptor, patch(number, uid))
        finally:
            os.close(descriptor)
        files.append(file)
    return BuiltSeries(
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPClassUID, tuple(uids), tuple(files)
    )


def _patcher(dataset: FileDataset, transfer_syntax: str) -> Callable[[int, str], Sequence[bytes]]:
    """How to get the bytes of instance `number`: values of fixed width are cut out of one encoded file."""
    # None of them can stand in a UID, whose digits are random.
    number, position, location = "+91827", "7777.777777", "8888.888888"
    uid = dataset.SOPInstanceUID
    dataset.InstanceNumber = number
    dataset.ImagePositionPatient = ["-158.135803", "-179.035797", position]
    dataset.SliceLocation = location
    if transfer_syntax == DEFLATED:
        return lambda index, sop_uid: [_deflated_instance(dataset, index, sop_uid)]
    whole = encode(dataset, transfer_syntax)
    split = _after_last(whole, location.encode(), number.encode(), uid.encode())
    head, rest = whole[:split], whole[split:]

    def patched(index: int, sop_uid: str) -> Sequence[bytes]:
        z = f"{-1000 + 1.25 * index:011.6f}"
        here = head.replace(uid.encode(), sop_uid.encode()).replace(number.encode(), f"{index:06d}".encode(), 1)
        return [here.replace(position.encode(), z.encode()).replace(location.encode(), z.encode()), rest]

    return patched


def _deflated_instance(dataset: FileDataset, index: int, sop_uid: str) -> bytes:
    dataset.InstanceNumber = index
    dataset.SOPInstanceUID = UID(sop_uid)
    return encode(dataset, DEFLATED)


def _after_last(whole: bytes, *values: bytes) -> int:
    return max(whole.index(value) + len(value) for value in values)


def _sized(modality: Modality, size_bytes: int, spare_bytes: int = 5_000) -> FileDataset:
    """The template with square pixels, so that the file comes close to `size_bytes`; its header has `spare_bytes`."""
    template = _template(modality)
    side = max(8, int(((size_bytes - spare_bytes) / 2) ** 0.5) // 2 * 2)
    if 500 <= side <= 516:
        side = 512
    return _tiled(template, side, side)


@cache
def _loaded(modality: Modality) -> FileDataset:
    path = get_testdata_file(f"{modality}_small.dcm")
    if not isinstance(path, str):
        message = f"pydicom does not ship {modality}_small.dcm"
        raise TypeError(message)
    dataset = pydicom.dcmread(path)
    for element in list(dataset):
        if element.tag.is_private and element.tag.group not in _KEPT_PRIVATE_GROUPS:
            del dataset[element.tag]
    del dataset[0xFFFC, 0xFFFC]
    dataset.PatientName = PATIENT
    dataset.PatientID = f"SYNTH-{modality}"
    dataset.InstitutionName = "SYNTHETIC HOSPITAL"
    if "OtherPatientIDsSequence" in dataset:
        del dataset.OtherPatientIDsSequence
    for keyword in ("NameOfPhysiciansReadingStudy", "OperatorsName"):
        if keyword in dataset:
            dataset[keyword].value = "READER^SYNTHETIC"
    _add_sequences(dataset)
    _add_private_block(dataset)
    return dataset


def _template(modality: Modality) -> FileDataset:
    return copy.deepcopy(_loaded(modality))


def _add_sequences(dataset: Dataset) -> None:
    code = _item(CodeValue="CTHEAD", CodingSchemeDesignator="99SYN", CodeMeaning="Synthetic procedure")
    request = _item(
        RequestedProcedureID="RP1",
        ScheduledProcedureStepID="SPS1",
        RequestedProcedureDescription="Synthetic",
        ScheduledProtocolCodeSequence=DicomSequence([copy.deepcopy(code)]),
    )
    reference = _item(ReferencedSOPClassUID=dataset.SOPClassUID, ReferencedSOPInstanceUID=new_uid())
    dataset.ProcedureCodeSequence = DicomSequence([code])
    dataset.RequestAttributesSequence = DicomSequence([request])
    dataset.ReferencedImageSequence = DicomSequence([reference, copy.deepcopy(reference)])
    dataset["ReferencedImageSequence"].is_undefined_length = True


def _item(**elements: Any) -> Dataset:
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item


def _add_private_block(dataset: Dataset) -> None:
    block = dataset.private_block(0x0051, "MERCURE TEST", create=True)
    block.add_new(0x01, "LO", "synthetic")
    block.add_new(0x02, "DS", ["1.5", "2.5"])
    block.add_new(0x03, "OB", bytes(range(256)) * 4)
    block.add_new(0x04, "UN", b"opaque to everyone")
    block.add_new(0x05, "SQ", [_item(CodeValue="P1", CodeMeaning="inside a private sequence")])


def _tiled(dataset: FileDataset, rows: int, columns: int) -> FileDataset:
    """Repeat the image until it has `rows` x `columns` 16-bit pixels."""
    width = int(dataset.Columns) * 2
    pixels = dataset.PixelData
    lines = [pixels[start : start + width] for start in range(0, len(pixels), width)]
    repeat = -(-columns * 2 // width)
    wide = [(line * repeat)[: columns * 2] for line in lines]
    dataset.PixelData = b"".join(wide[row % len(wide)] for row in range(rows))
    dataset.Rows, dataset.Columns = rows, columns
    return dataset


def _identify(dataset: Dataset) -> None:
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"):
        setattr(dataset, keyword, UID(new_uid()))


def _apply(dataset: Dataset, elements: Mapping[str, Any]) -> None:
    for keyword, value in elements.items():
        if value is None:
            if keyword in dataset:
                delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)


def _without_private(dataset: FileDataset) -> FileDataset:
    dataset.remove_private_tags()
    return dataset


def _use_undefined_lengths(dataset: Dataset) -> None:
    for element in dataset:
        if element.VR == "SQ":
            element.value.is_undefined_length = True
            element.is_undefined_length = True
            for item in element.value:
                item.is_undefined_length_sequence_item = True
                _use_undefined_lengths(item)


def _file_meta(dataset: Dataset, transfer_syntax: str) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(dataset.get("SOPClassUID", CT_STORAGE))
    meta.MediaStorageSOPInstanceUID = UID(dataset.get("SOPInstanceUID", "2.25.1"))
    meta.TransferSyntaxUID = UID(transfer_syntax)
    return meta


def _bare(dataset: Dataset) -> FileDataset:
    """The same elements without memory of how they were encoded, so that pydicom encodes them anew."""
    bare = FileDataset("", dict(dataset.items()), file_meta=dataset.file_meta, preamble=bytes(128))
    bare.set_original_encoding(is_implicit_vr=None, is_little_endian=None, character_encoding="iso8859")
    return bare


def _swapped_words(pixels: bytes) -> bytes:
    swapped = bytearray(pixels)
    swapped[0::2], swapped[1::2] = pixels[1::2], pixels[0::2]
    return bytes(swapped)
