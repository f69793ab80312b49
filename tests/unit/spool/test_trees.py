"""Folders that a hostile program made: removed whole, copied only when a job could hold them."""

import errno
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mercure.core.errors import SpoolError
from mercure.spool import trees
from mercure.spool.trees import copy_tree, remove_tree


def dig(folder: Path, depth: int, name: str = "d", locked_at: frozenset[int] = frozenset()) -> None:
    """Make folders within folders, each with a file; far deeper than a path can name."""
    folder.mkdir(exist_ok=True)
    here = os.open(folder, os.O_PATH)
    for level in range(depth):
        os.mkdir(name, 0o755, dir_fd=here)
        deeper = os.open(name, os.O_PATH, dir_fd=here)
        os.close(os.open("file", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=deeper))
        if level in locked_at:
            os.chmod(name, 0, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)


@contextmanager
def few_descriptors(more: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(name) for name in os.listdir("/proc/self/fd")) + 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(("name", "depth"), [("d", 3000), ("x" * 255, 50)])
def test_a_tree_deeper_than_any_path_is_removed_with_few_descriptors(tmp_path: Path, name: str, depth: int) -> None:
    dig(tmp_path / "tree", depth, name, frozenset({5, depth // 2, depth - 1}))
    with few_descriptors(8):
        remove_tree(tmp_path / "tree")
    assert os.listdir(tmp_path) == []


def test_a_tree_with_branches_is_removed_whole(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for branch in ("a", "b", "c"):
        for twig in ("1", "2"):
            (tree / branch / twig / "leaf").mkdir(parents=True)
            (tree / branch / twig / "file").write_text("x")
        dig(tree / branch / "deep", 40)
    os.mkfifo(tree / "a" / "pipe")
    remove_tree(tree)
    assert os.listdir(tmp_path) == []


def test_links_out_of_a_tree_are_removed_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "below").mkdir(parents=True)
    (outside / "below" / "kept").write_text("kept")
    os.chmod(outside / "below", 0o500)
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "link").symlink_to(outside)
    (tree / "a" / "b" / "link").symlink_to("../../../outside/below")
    os.chmod(tree / "a", 0)
    remove_tree(tree)
    assert not tree.exists()
    assert (outside / "below" / "kept").read_text() == "kept"
    assert (outside / "below").stat().st_mode & 0o777 == 0o500


def test_what_stands_in_the_place_of_a_folder_is_removed_and_nothing_is_no_error(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "link").symlink_to(outside)
    (tmp_path / "file").write_text("x")
    for name in ("link", "file", "none", "none/below", "outside/none"):
        remove_tree(tmp_path / name)
    assert os.listdir(tmp_path) == ["outside"]


def test_modes_do_not_keep_an_ordinary_user_from_removing_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COVERAGE_PROCESS_START", raising=False)  # that user may not write there
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from mercure.spool.trees import remove_tree\n"
        "if os.geteuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "tree = Path(sys.argv[1]) / 'tree'\n"
        "(tree / 'a' / 'b' / 'c').mkdir(parents=True)\n"
        "(tree / 'a' / 'b' / 'file').write_text('x')\n"
        "for path in ('a/b/c', 'a/b', 'a', '.'): os.chmod(tree / path, 0)\n"
        "remove_tree(tree)\n"
    )
    with tempfile.TemporaryDirectory() as place:  # the folders of pytest are closed to others
        os.chmod(place, 0o777)  # whoever the program becomes
        done = subprocess.run([sys.executable, "-c", program, place], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert os.listdir(place) == []


def test_a_folder_that_is_moved_away_while_it_is_removed_takes_nothing_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, outside = tmp_path / "tree", tmp_path / "outside"
    (tree / "a" / "b").mkdir(parents=True)
    (outside / "b").mkdir(parents=True)
    remove_files = trees._remove_files

    def moved_after_it_was_entered(here: int) -> list[str]:
        found = remove_files(here)
        if found == []:  # the innermost one
            os.rename(tree / "a" / "b", outside / "elsewhere")
        return found

    monkeypatch.setattr(trees, "_remove_files", moved_after_it_was_entered)
    with pytest.raises(OSError, match="moved while") as trouble:
        remove_tree(tree)
    assert trouble.value.errno == errno.ESTALE
    assert sorted(os.listdir(outside)) == ["b", "elsewhere"]


def test_a_copy_has_everything_and_keeps_links_as_links(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "a" / "empty").mkdir(parents=True)
    (source / "a" / "file").write_bytes(b"content")
    os.chmod(source / "a" / "file", 0o440)
    os.utime(source / "a", (5, 5))
    (source / "link").symlink_to("/etc")
    files, folders = copy_tree(source, tmp_path / "target")
    assert sorted(files) == [f"{tmp_path}/target/a/file", f"{tmp_path}/target/link"]
    assert {os.path.normpath(one) for one in folders} == {
        str(tmp_path / "target" / below) for below in (".", "a", "a/empty")
    }
    assert (tmp_path / "target" / "a" / "file").read_bytes() == b"content"
    assert os.stat(tmp_path / "target" / "a" / "file").st_mode & 0o777 == 0o440
    assert os.stat(tmp_path / "target" / "a").st_mtime == 5
    assert os.readlink(tmp_path / "target" / "link") == "/etc"


def test_a_tree_that_no_job_holds_is_not_copied(tmp_path: Path) -> None:
    dig(tmp_path / "deep", 102)
    dig(tmp_path / "long", 12, "x" * 255)
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "pipe")
    with pytest.raises(SpoolError, match="too deep to be copied"):
        copy_tree(tmp_path / "deep", tmp_path / "copy of deep")
    with pytest.raises(SpoolError, match="too deep to be copied"):
        copy_tree(tmp_path / "long", tmp_path / "copy of long")
    with pytest.raises(SpoolError, match="neither a file nor a folder"):
        copy_tree(tmp_path / "pipe", tmp_path / "copy of pipe")
    for name in os.listdir(tmp_path):  # pytest itself cannot remove them
        remove_tree(tmp_path / name)
