"""An image for the demo, from what this machine has: its Python, two packages and an example module. No registry."""

import hashlib
import io
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Collection, Iterable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from mercure.core.errors import MercureError, PermanentError
from mercure.runners.docker_engine import DockerEngine, EngineAwayError, MissingError, remove_container

_PACKAGES = ("numpy", "pydicom")
_PREFIX = "usr/local"
_LIBRARIES = f"{_PREFIX}/lib/machine"
_NOT_NEEDED = frozenset({"site-packages", "dist-packages", "test", "tests", "test_files", "idlelib", "tkinter"})
_QUICK_SECONDS = 5.0
_LDD_SECONDS = 30.0


class DemoImage:
    """An image with one example module, under a name that belongs to the folder of the demo."""

    def __init__(self, folder: Path) -> None:
        """Ask no engine yet."""
        self.name = f"mercure-demo-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}:latest"
        self._engine = DockerEngine()

    def make(self, program: Path) -> str:
        """Make the image, in place of that of an earlier demo. Returns why there is none, or ""."""
        asked = DockerEngine(timeout_seconds=_QUICK_SECONDS)
        try:
            with asked.asked("asking the engine") as api:
                api.ping()
            self._make(program)
        except EngineAwayError:
            return "no Docker engine answers"
        except MercureError as error:
            return str(error)
        except (OSError, subprocess.SubprocessError, tarfile.TarError) as error:
            return f"no image can be made of this machine's Python ({type(error).__name__})"
        finally:
            asked.close()
        return ""

    def remove(self) -> None:
        """Remove the image, with what still runs of it; none, or no engine, is no error."""
        with suppress(MercureError):
            self._remove()
        self._engine.close()

    def _remove(self) -> None:
        with self._engine.asked("listing what runs of the demo") as api:
            running = api.containers(all=True, filters={"ancestor": self.name})
        for container in running:  # a platform that stops leaves them, for the one that starts next
            remove_container(self._engine, container["Id"])
        with suppress(MissingError), self._engine.asked("removing the image of the demo") as api:
            api.remove_image(self.name, force=True)

    def _make(self, program: Path) -> None:
        self._remove()
        repository, _, tag = self.name.partition(":")
        variables = f"ENV PATH=/{_PREFIX}/bin LD_LIBRARY_PATH=/{_LIBRARIES}"
        with tempfile.TemporaryFile() as file:
            with tarfile.open(fileobj=file, mode="w") as tar:
                _write_tree(tar, program)
            file.seek(0)
            with self._engine.asked("making an image") as api:
                api.import_image_from_data(file, repository, tag, [variables, 'CMD ["python3", "/module.py"]'])


def _write_tree(tar: tarfile.TarFile, program: Path) -> None:
    """Write the interpreter, its library, the packages, the shared libraries that they need, and the module."""
    interpreter, library = Path(sys.executable).resolve(), Path(sysconfig.get_path("stdlib"))
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    place = f"{_PREFIX}/{sys.platlibdir}/{version}"
    _add_folder(tar, "tmp", 0o1777)
    tar.add(program, "module.py", filter=_of_root)
    tar.add(interpreter, f"{_PREFIX}/bin/python3", filter=_of_root)
    tar.add(library, place, filter=_of_library)
    packages = dict(_package_files())
    for path, name in packages.items():
        tar.add(path, f"{_PREFIX}/lib/{version}/site-packages/{name}", recursive=False, filter=_of_root)
    native = [interpreter, *library.glob("lib-dynload/*.so"), *(path for path in packages if path.suffix == ".so")]
    for needed in _shared_libraries(native, packages.keys()):
        is_loader = needed.name.startswith("ld-")
        tar.add(
            needed.resolve(), str(needed).lstrip("/") if is_loader else f"{_LIBRARIES}/{needed.name}", filter=_of_root
        )


def _package_files() -> Iterator[tuple[Path, str]]:
    """Yield the files of the packages, each with its place among them."""
    for package in _PACKAGES:
        try:
            files = distribution(package).files
        except PackageNotFoundError:
            files = None
        if not files:
            raise PermanentError(f"nothing says which files the Python package {package} has")
        for file in files:
            if ".." not in file.parts and not _NOT_NEEDED.intersection(file.parts):
                path = Path(str(file.locate())).resolve()
                if path.is_file():
                    yield path, file.as_posix()


def _shared_libraries(programs: Iterable[Path], packages: AbstractSet[Path]) -> Collection[Path]:
    """Return what the loader of this machine takes for these programs, but for what the packages bring."""
    command = ["ldd", *map(str, programs)]
    told = subprocess.run(command, capture_output=True, check=True, text=True, timeout=_LDD_SECONDS).stdout
    found = {Path(path).name: Path(path) for path in re.findall(r"(?:=> |^\s+)(/\S+) \(0x", told, re.MULTILINE)}
    return [path for path in found.values() if path.resolve() not in packages]


def _add_folder(tar: tarfile.TarFile, path: str, mode: int) -> None:
    entry = tarfile.TarInfo(path)
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    tar.addfile(entry, io.BytesIO())


def _of_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mode |= 0o444
    return entry


def _of_library(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    last = entry.name.rpartition("/")[2]
    return None if last in _NOT_NEEDED or last.startswith("config-") else _of_root(entry)
