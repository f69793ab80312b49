"""Smooths grayscale images: a module in forty lines of code, to start your own from.

Settings: `passes` (default 1), how often each pixel becomes the mean of itself and its neighbours.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pydicom


def smooth(pixels: "np.ndarray[Any, Any]", passes: int) -> "np.ndarray[Any, Any]":
    """Return the images of an array (..., rows, columns), of the type that they had."""
    rows, columns = pixels.shape[-2:]
    for _ in range(passes):
        padded = np.pad(pixels, [(0, 0)] * (pixels.ndim - 2) + [(1, 1), (1, 1)], mode="edge")
        nine = [padded[..., y : y + rows, x : x + columns] for y in range(3) for x in range(3)]
        pixels = np.mean(nine, axis=0).astype(pixels.dtype)
    return pixels


def uid_from(*words: object) -> str:
    """The same words give the same UID (PS3.5 B.2): a job that runs again makes no second series."""
    return f"2.25.{int(hashlib.sha256(repr(words).encode()).hexdigest()[:32], 16)}"


def main() -> None:
    """Run once: settings and images in, images and result.json out."""
    taken, made = Path(os.environ["MERCURE_IN_DIR"]), Path(os.environ["MERCURE_OUT_DIR"])
    settings = json.loads((taken / "task.json").read_text())["process"]["settings"]
    passes, count = int(settings.get("passes", 1)), 0
    for path in sorted(taken.glob("*.dcm")):
        image = pydicom.dcmread(path)
        if "PixelData" not in image or image.SamplesPerPixel != 1:
            continue
        pixels = smooth(image.pixel_array, passes)
        image.set_pixel_data(pixels, image.PhotometricInterpretation, image.BitsStored, generate_instance_uid=False)
        image.ImageType = ["DERIVED", "SECONDARY", *list(image.get("ImageType") or [])[2:]]
        image.SeriesDescription = f"smoothed {image.get('SeriesDescription', '')}"[:64].strip()
        image.SeriesInstanceUID = uid_from("smooth", passes, image.SeriesInstanceUID)
        image.SOPInstanceUID = uid_from("smooth", passes, image.SOPInstanceUID)
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.save_as(made / f"{image.SeriesInstanceUID}#{image.SOPInstanceUID}.dcm", enforce_file_format=True)
        count += 1
    (made / "result.json").write_text(json.dumps({"images": count, "passes": passes}))


if __name__ == "__main__":
    main()
