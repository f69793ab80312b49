"""Fixtures of the command line."""

from pathlib import Path

import pytest
from tests.unit.cli.site import Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """An installation with rules for CT and MR, and a folder target that exists."""
    (tmp_path / "out").mkdir()
    return Site(
        tmp_path,
        targets={
            "pacs": {"target_type": "dicom", "host": "127.0.0.1", "port": 9, "called_ae_title": "PACS"},
            "store": {"target_type": "folder", "folder": str(tmp_path / "out")},
        },
        rules=[
            {"name": "ct", "condition": "tags.Modality == 'CT'", "target": ["pacs"]},
            {"name": "thick", "condition": "float(tags.SliceThickness) > 4", "target": ["store"]},
        ],
    )
