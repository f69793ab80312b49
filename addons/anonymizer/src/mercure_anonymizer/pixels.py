"""Pixels: images with burned-in text are refused, or blackened where a rule says that text stands."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.pixels.utils import get_expected_length, pack_bits, pixel_array
from pydicom.uid import ExplicitVRLittleEndian

from mercure_anonymizer import graphics
from mercure_anonymizer.codestreams import clean_codestreams
from mercure_anonymizer.encapsulation import drop_extended_tables, settle_tables
from mercure_anonymizer.errors import InstanceError
from mercure_anonymizer.pixel_rules import PixelRule, Rectangle
from mercure_anonymizer.settings import Settings
from mercure_anonymizer.tables import clean_tables

_SCREEN_MODALITIES = frozenset("US IVUS BDUS ES XC GM OT SC HC DG DMS EPS HD LS OAM OPV TG XRAY".split())
"""Modalities whose images come from a screen, a camera or a digitizer, where text is often part of the image."""
_SCREEN_CLASSES = ("1.2.840.10008.5.1.4.1.1.3", "1.2.840.10008.5.1.4.1.1.6", "1.2.840.10008.5.1.4.1.1.7")
"""Ultrasound and secondary capture, with all their newer classes."""
_SCREEN_TYPES = ("SCREEN", "DOSE", "REPORT", "SECONDARY CAPTURE")
"""What Image Type of a scanner says when the image is a page of text."""


def clean_pixels(dataset: FileDataset, settings: Settings) -> bool:
    """Refuse an image that may show text, or blacken it by the first rule that fits; True when pixels are now clean.

    The pixels are decompressed when they have to change. Tables beside them lose what is no table, unless a command
    keeps them. Raises `InstanceError`.
    """
    if settings.preset == "default":
        clean_tables(dataset, {tag for tag, one in settings.assignments.items() if one.command in {"keep", "safe"}})
    if "PixelData" not in dataset:
        drop_extended_tables(dataset)
        return False
    rule = next((one for one in settings.pixel_rules if one.matches(dataset)), None)
    rectangles = _rectangles(rule, dataset) if rule else ()
    if not settings.accept_burned_in and not rectangles:
        _refuse_text(dataset, knows_device=rule is not None)
    if rectangles or graphics.hides_in_pixels(dataset, settings):
        _rewrite(dataset, rectangles)
    else:
        _cut_off_what_follows(dataset)
        clean_codestreams(dataset)
    # With text that was accepted in spite of the rule nobody can say that there is none.
    return bool(rectangles) or (rule is not None and not _says_text(dataset))


def _cut_off_what_follows(dataset: FileDataset) -> None:
    """Remove bytes behind the last pixel, which no viewer shows."""
    if not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        size = get_expected_length(dataset)
        if len(dataset.PixelData) < size:
            raise InstanceError("the pixel data is cut off")
        dataset.PixelData = dataset.PixelData[: size + size % 2]


def _says_text(dataset: Dataset) -> bool:
    return str(dataset.get("BurnedInAnnotation", "")).strip().upper() == "YES"


def _refuse_text(dataset: Dataset, *, knows_device: bool) -> None:
    """Refuse an image that may show text and in which nothing is blackened. A rule without places knows the device."""
    if _says_text(dataset):
        raise InstanceError("text is burned into the image (BurnedInAnnotation YES) and no pixel rule says where")
    said_none = str(dataset.get("BurnedInAnnotation", "")).strip().upper() == "NO"
    if not knows_device and not said_none and is_from_screen(dataset):
        raise InstanceError("images of this kind often show text: neither a pixel rule nor BurnedInAnnotation NO")


def is_from_screen(dataset: Dataset) -> bool:
    """Tell whether the image is of a kind that often shows text."""
    sop_class = str(dataset.get("SOPClassUID", ""))
    if any(sop_class == known or sop_class.startswith(f"{known}.") for known in _SCREEN_CLASSES):
        return True
    image_type = str(dataset.get("ImageType", "")).upper().replace("_", " ")
    if any(word in image_type for word in _SCREEN_TYPES) or dataset.get("ConversionType"):
        return True
    return str(dataset.get("Modality", "")).strip().upper() in _SCREEN_MODALITIES


def _rectangles(rule: PixelRule, dataset: Dataset) -> tuple[Rectangle, ...]:
    """Return what is blackened. Raises `InstanceError` when a rectangle is not inside of the image.

    Such a rule was made for images of another size: its text stands elsewhere in this one.
    """
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if any(one.x + one.width > columns or one.y + one.height > rows for one in rule.rectangles):
        raise InstanceError(
            "a rectangle of the pixel rule is not inside of the image: the rule is for images of another size"
        )
    return rule.rectangles + (_outside_regions(dataset, rows, columns) if rule.outside_ultrasound_regions else ())


def _outside_regions(dataset: Dataset, rows: int, columns: int) -> tuple[Rectangle, ...]:
    shown = np.zeros((rows, columns), dtype=bool)
    for region in dataset.get("SequenceOfUltrasoundRegions") or []:
        left, right = int(region.RegionLocationMinX0), int(region.RegionLocationMaxX1)
        top, bottom = int(region.RegionLocationMinY0), int(region.RegionLocationMaxY1)
        shown[max(top, 0) : bottom + 1, max(left, 0) : right + 1] = True
    if not shown.any():
        raise InstanceError("the pixel rule needs ultrasound regions, and the image has none")
    return tuple(_rows_outside(shown))


def _rows_outside(shown: NDArray[np.bool_]) -> list[Rectangle]:
    """Return rectangles, one row high, over all pixels that are not shown."""
    found = []
    for y, line in enumerate(shown):
        edges = np.flatnonzero(np.diff(np.concatenate(([0], (~line).astype(np.int8), [0]))))
        found += [Rectangle(int(a), y, int(b - a), 1) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return found


def _rewrite(dataset: FileDataset, rectangles: tuple[Rectangle, ...]) -> None:
    """Blacken rectangles in all frames and clear bits that no pixel uses; the result is not compressed."""
    try:
        if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
            settle_tables(dataset)
            dataset.decompress(as_rgb=True, generate_instance_uid=False)
        drop_extended_tables(dataset)
        _edit(dataset, rectangles)
    except InstanceError:
        raise
    except Exception as error:  # noqa: BLE001  # decoders raise what they like, with what they like in the text
        raise InstanceError(f"the pixels cannot be decoded ({type(error).__name__})") from None


def _edit(dataset: FileDataset, rectangles: tuple[Rectangle, ...]) -> None:
    frames = max(1, int(dataset.get("NumberOfFrames") or 1))
    samples = int(dataset.SamplesPerPixel)
    shape = (frames, int(dataset.Rows), int(dataset.Columns), samples)
    pixels = np.array(pixel_array(dataset, raw=True)).reshape(shape)
    black = _black(dataset)
    for one in rectangles:
        pixels[:, one.y : one.y + one.height, one.x : one.x + one.width, :] = black
    _store(dataset, pixels, samples)


def _store(dataset: FileDataset, pixels: NDArray[Any], samples: int) -> None:
    allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
    if allocated == 1:
        content = pack_bits(pixels.reshape(-1))
    else:
        if stored < allocated and pixels.dtype.kind == "u":
            pixels = pixels & pixels.dtype.type((1 << stored) - 1)
        content = np.ascontiguousarray(pixels).tobytes()
    dataset.PixelData = content + b"\0" * (len(content) % 2)
    if samples > 1:
        dataset.PlanarConfiguration = 0
        if dataset.PhotometricInterpretation == "YBR_FULL_422":
            dataset.PhotometricInterpretation = "YBR_FULL"  # every pixel has a colour of its own now
    dataset["PixelData"].VR = "OB" if allocated <= 8 else "OW"
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.set_original_encoding(is_implicit_vr=False, is_little_endian=True)


def _black(dataset: Dataset) -> NDArray[np.int64]:
    """Return the darkest value for each sample of a pixel."""
    kind = str(dataset.PhotometricInterpretation)
    stored, signed = int(dataset.BitsStored), int(dataset.get("PixelRepresentation", 0)) == 1
    if kind.startswith("YBR"):
        middle = 1 << (stored - 1)
        return np.array([0, middle, middle])
    if kind == "PALETTE COLOR":
        return np.array([_darkest_entry(dataset)])
    lowest, highest = (-(1 << (stored - 1)), (1 << (stored - 1)) - 1) if signed else (0, (1 << stored) - 1)
    return np.array([highest if kind == "MONOCHROME1" else lowest] * int(dataset.SamplesPerPixel))


def _darkest_entry(dataset: Dataset) -> int:
    """Return the pixel value whose colour in the palette is darkest."""
    bits = int(dataset.RedPaletteColorLookupTableDescriptor[2])
    width = "<u2" if bits == 16 else "u1"
    tables = [
        np.frombuffer(dataset[f"{colour}PaletteColorLookupTableData"].value, dtype=width).astype(np.int64)
        for colour in ("Red", "Green", "Blue")
    ]
    length = min(len(one) for one in tables)
    first = int(dataset.RedPaletteColorLookupTableDescriptor[1])
    return first + int(np.argmin(sum(one[:length] for one in tables)))
