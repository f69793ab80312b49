"""Second step of a chain: measures the masks that the step before made, passes them on, and says who should know.

Settings: `alert_fraction` (default 0.05), the part of all pixels above which people are told; `alert_target` (default
none), where the result goes then, if the rule has `dynamic_routing`.
"""

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pydicom


def measure(taken: Path, made: Path) -> list[tuple[str, int, int]]:
    """Return, for each mask, its SOP Instance UID, the pixels that are marked, and all."""
    lines = []
    for path in sorted(taken.glob("*.dcm")):
        pixels = pydicom.dcmread(path)
        mask = pixels.pixel_array
        lines.append((str(pixels.SOPInstanceUID), int(np.count_nonzero(mask)), int(mask.size)))
        shutil.copyfile(path, made / path.name)
    return lines


def result_of(lines: list[tuple[str, int, int]], settings: dict[str, Any]) -> dict[str, Any]:
    """Return what Mercure is told: numbers, and wishes about notification and routing."""
    total = sum(size for _, _, size in lines)
    fraction = sum(count for _, count, _ in lines) / total if total else 0.0
    result: dict[str, Any] = {"masks": len(lines), "fraction": round(fraction, 6)}
    if fraction > float(settings.get("alert_fraction", 0.05)):
        text = f"{fraction:.1%} of all pixels are above the threshold"
        result["__mercure_notification"] = {"text": text, "requested": True}
        if settings.get("alert_target"):
            result["__mercure_routing"] = {"target": settings["alert_target"]}
    return result


def main() -> None:
    """Run once: settings and masks in; masks, a table and result.json out."""
    taken, made = Path(os.environ["MERCURE_IN_DIR"]), Path(os.environ["MERCURE_OUT_DIR"])
    settings = json.loads((taken / "task.json").read_text())["process"]["settings"]
    lines = measure(taken, made)
    with (made / "report.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("SOPInstanceUID", "marked", "pixels"), *lines])
    (made / "result.json").write_text(json.dumps(result_of(lines, settings)))


if __name__ == "__main__":
    main()
