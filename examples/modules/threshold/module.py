"""First step of a chain: marks every pixel above a threshold, as a series of masks (Secondary Capture, PS3.3 A.8.1).

Settings: `threshold` (default 300), in the units of the image after rescaling: Hounsfield units for CT.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

KEPT = (
    *("SpecificCharacterSet", "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber"),
    *("ReferringPhysicianName", "PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("Laterality", "InstanceNumber", "Modality"),
)
"""What a mask has from its image: patient, study, and the place among the others."""


def uid_from(*words: object) -> UID:
    """The same words give the same UID (PS3.5 B.2): a job that runs again makes no second series."""
    return UID(f"2.25.{int(hashlib.sha256(repr(words).encode()).hexdigest()[:32], 16)}")


def marked(image: Dataset, threshold: float) -> "np.ndarray[Any, Any]":
    """Return 255 where the image is above the threshold, else 0."""
    values = image.pixel_array * float(image.get("RescaleSlope", 1)) + float(image.get("RescaleIntercept", 0))
    return np.where(values > threshold, 255, 0).astype(np.uint8)


def mask_of(image: Dataset, threshold: float) -> FileDataset:
    """Return the mask of one image, as an instance of its own."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = uid_from("threshold", threshold, image.SOPInstanceUID)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    mask = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    for keyword in KEPT:
        if keyword in image:
            mask[keyword] = image[keyword]
    mask.PatientOrientation = image.get("PatientOrientation", "")
    mask.SOPClassUID, mask.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    mask.SeriesInstanceUID = uid_from("threshold", threshold, image.SeriesInstanceUID)
    mask.SeriesNumber = int(image.get("SeriesNumber") or 0) + 1000
    mask.SeriesDescription = f"above {threshold:g}"
    mask.ImageType = ["DERIVED", "SECONDARY"]
    mask.ConversionType = "WSD"
    source = Dataset()
    source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    mask.SourceImageSequence = [source]
    mask.set_pixel_data(marked(image, threshold), "MONOCHROME2", 8, generate_instance_uid=False)
    return mask


def main() -> None:
    """Run once: settings and images in, masks and result.json out."""
    taken, made = Path(os.environ["MERCURE_IN_DIR"]), Path(os.environ["MERCURE_OUT_DIR"])
    settings = json.loads((taken / "task.json").read_text())["process"]["settings"]
    threshold = float(settings.get("threshold", 300))
    count = 0
    for path in sorted(taken.glob("*.dcm")):
        image = pydicom.dcmread(path)
        if "PixelData" not in image or image.SamplesPerPixel != 1 or int(image.get("NumberOfFrames") or 1) != 1:
            continue
        mask = mask_of(image, threshold)
        mask.save_as(made / f"{mask.SeriesInstanceUID}#{mask.SOPInstanceUID}.dcm", enforce_file_format=True)
        count += 1
    (made / "result.json").write_text(json.dumps({"masks": count, "threshold": threshold}))


if __name__ == "__main__":
    main()
