"""The anonymizer as an image: built by its own Dockerfile, and run by the platform as a module."""

import io
import subprocess
import sys
import sysconfig
import tarfile
import uuid
import zipfile
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pydicom
import pytest
from tests import builders
from tests.addons.anonymizer.samples import SECRET, screen
from tests.docker_engine import Engine, engine_fixture
from tests.unit.cli.site import Site

from mercure.cli.exits import Exit

__all__ = ["engine_fixture"]

ADDON = Path(__file__).parents[2] / "addons" / "anonymizer"
DECODERS = ("pylibjpeg", "pylibjpeg-openjpeg", "python-gdcm")
BUILD_REQUIREMENT = "setuptools>=77"
RULE = {"Modality": "US", "rectangles": [[0, 0, 64, 8]]}


def files_of(package: str) -> dict[str, bytes]:
    """The files of an installed package, by their path in a folder of packages; no programs."""
    found = distribution(package).files or ()
    inside = [file for file in found if ".." not in file.parts and file.suffix != ".pyc"]
    return {str(file): Path(str(file.locate())).read_bytes() for file in inside}


def wheel_of(package: str, folder: Path) -> None:
    """Make a wheel of an installed package, so that no index is needed."""
    files = files_of(package)
    (told,) = (content for path, content in files.items() if path.endswith(".dist-info/WHEEL"))
    kind = next(line.split()[1] for line in told.decode().splitlines() if line.startswith("Tag:"))
    name = f"{package.replace('-', '_')}-{distribution(package).version}-{kind}.whl"
    with zipfile.ZipFile(folder / name, "w") as wheel:
        for path, content in files.items():
            wheel.writestr(path, content)


def fetch_build_requirement(folder: Path) -> None:
    """Put what builds the package into the folder, from the index of this machine: the one thing not installed here."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, BUILD_REQUIREMENT]
    subprocess.run(list(map(str, command)), check=True, timeout=120)


def context(wheels: Path) -> io.BytesIO:
    """The folder of the addon, with wheels beside its Dockerfile, as the Dockerfile says."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name in ("Dockerfile", "pyproject.toml", "README.md", "src"):
            tar.add(ADDON / name, name, filter=lambda entry: None if "__pycache__" in entry.name else entry)
        tar.add(wheels, "wheels")
    made.seek(0)
    return made


@pytest.fixture(scope="module")
def image(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    wheels = tmp_path_factory.mktemp("wheels")
    for package in DECODERS:
        wheel_of(package, wheels)
    fetch_build_requirement(wheels)
    packages = f"usr/local/lib/python{sysconfig.get_python_version()}/site-packages"
    base = engine.make_image(
        engine.python(), {f"{packages}/{path}": content for path, content in files_of("pip").items()}
    )
    name = f"mercure-test-{uuid.uuid4().hex[:12]}:latest"
    try:
        engine.client.images.build(
            fileobj=context(wheels),
            custom_context=True,
            tag=name,
            rm=True,
            forcerm=True,
            network_mode="none",
            buildargs={"BASE": base, "PIP_OPTIONS": "--no-index --find-links=/anonymizer/wheels"},
        )
        yield name
    finally:
        engine.remove_image(name)
        engine.remove_image(base)


def test_a_series_is_anonymized_by_the_image_that_the_dockerfile_builds(
    image: str, engine: Engine, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    seen = screen(rows=64, columns=64, PatientName="SMITH^JANE", PatientID="MRN5550199", StudyDescription="of SMITH")
    (images / "a.dcm").write_bytes(builders.encode(seen, builders.JPEG_2000))
    module = {"docker_tag": image, "pull": "never", "settings": {"secret": SECRET, "pixel_rules": [RULE]}}
    site = Site(tmp_path, processor={"docker_host": engine.host}, modules={"anonymizer": module})
    made = tmp_path / "made"
    found = site.process("modules", "test", "anonymizer", "--input", images, "--output", made, "--json")
    assert found.status == Exit.OK, found
    (path,) = made.glob("*.dcm")
    assert b"SMITH" not in path.read_bytes()
    assert b"MRN5550199" not in path.read_bytes()
    written = pydicom.dcmread(path)
    assert written.PatientIdentityRemoved == "YES"
    assert written.SOPInstanceUID != seen.SOPInstanceUID
    assert not written.pixel_array[:8].any()
    assert written.pixel_array[8:].all()
