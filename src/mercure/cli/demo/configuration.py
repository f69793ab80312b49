"""What the demo sends, and what its configuration makes of it: the two belong together."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mercure.cli.demo.series import Wanted

CALLED_AE_TITLE = "MERCURE"
QUIET_SECONDS = 2
RETRY_SECONDS = 2

SERIES = (
    Wanted("CT1", "CT", "Thorax", ("archive",)),
    Wanted("MR1", "MR", "Brain", ("archive", "research")),
    Wanted("CT2", "CT", "Emergency", ("workstation",)),
    Wanted("MR2", "MR", "Phantom", ()),
    Wanted("MR3", "MR", "Knee", (), "smooth", ("archive",)),
)
IN_A_CONTAINER = Wanted("CT3", "CT", "Pelvis", ("archive",), "threshold", ("research",))
"""Sent too where a Docker engine answers."""

_RULES: tuple[dict[str, Any], ...] = (
    {
        "name": "CT to the archive",
        "condition": "@Modality@ == 'CT' and @SenderAET@ != 'CT2'",
        "target": "archive",
    },
    {
        "name": "Brains to archive and research",
        "condition": "@Modality@ == 'MR' and 'brain' in @SeriesDescription@.lower()",
        "target": ["archive", "research"],
    },
    {
        "name": "Emergency",
        "condition": "@SenderAET@ == 'CT2'",
        "target": "workstation",
        "priority": "urgent",
    },
    {
        "name": "Knees smoothed",
        "condition": "@Modality@ == 'MR' and 'knee' in @SeriesDescription@.lower()",
        "action": "both",
        "processing_module": "smooth",
        "processing_settings": {"passes": 2},
        "target": "archive",
    },
)
_RULE_IN_A_CONTAINER = {
    "name": "Bone marked",
    "condition": "@Modality@ == 'CT' and 'pelvis' in @SeriesDescription@.lower()",
    "action": "both",
    "processing_module": "threshold",
    "processing_settings": {"threshold": 300},
    "target": "research",
}


def platform(folder: Path, port: int, ports: Mapping[str, int], example: Path, image: str) -> dict[str, Any]:
    """Return the configuration of the platform. `ports` are those of the targets; no image: nothing in a container."""
    dicom = {"target_type": "dicom", "host": "127.0.0.1"}
    modules: dict[str, Any] = {"smooth": {"command": [sys.executable, str(example)]}}
    if image:
        modules["threshold"] = {"docker_tag": image, "pull": "never"}
    return {
        "mercure": {"data_folder": str(folder / "data"), "series_complete_trigger": QUIET_SECONDS},
        "receiver": {
            "host": "127.0.0.1",
            "port": port,
            "called_ae_titles": [CALLED_AE_TITLE],
            "min_free_space_gb": 0.1,
        },
        "processor": {"timeout": 60},
        "dispatcher": {"retry_delay": RETRY_SECONDS, "retry_max_delay": RETRY_SECONDS},
        "rules": [*_RULES, *([_RULE_IN_A_CONTAINER] if image else [])],
        "modules": modules,
        "targets": {
            "archive": {**dicom, "port": ports["archive"], "called_ae_title": "ARCHIVE"},
            "workstation": {**dicom, "port": ports["workstation"], "called_ae_title": "WORKSTATION"},
            "research": {"target_type": "folder", "folder": str(folder / "research")},
        },
    }


def node(home: Path, name: str, port: int) -> dict[str, Any]:
    """Return the configuration of a receiver that stands for a PACS node."""
    receiver = {
        "host": "127.0.0.1",
        "port": port,
        "called_ae_titles": [name.upper()],
        "workers": 1,
        "min_free_space_gb": 0.1,
    }
    return {"mercure": {"data_folder": str(home / "data")}, "receiver": receiver}
