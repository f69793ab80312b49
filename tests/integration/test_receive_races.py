"""Processes that publish while another seals: every instance is in exactly one place, and no sealed folder grows."""

import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from tests.publisher import ORIGIN

from mercure.spool import layout as names
from mercure.spool.layout import Layout
from mercure.spool.sealing import Sealed, seal

SERIES = "1.2.9"


def publishers(stack: ExitStack, layout: Layout, arguments: Sequence[Sequence[str]]) -> list[subprocess.Popen[str]]:
    """Start processes and let them begin at the same time."""
    started = [
        stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", "tests.publisher", str(layout.incoming.parent), SERIES, *one],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={"PYTHONPATH": "src:."},
            )
        )
        for one in arguments
    ]
    for process in started:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    return started


def outcomes(processes: Sequence[subprocess.Popen[str]]) -> list[list[str]]:
    lines: list[list[str]] = []
    for process in processes:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        lines += [line.split() for line in output.splitlines()]
    return lines


def made_layout(tmp_path: Path) -> Layout:
    layout = Layout.under(tmp_path / "data")
    layout.create()
    return layout


def test_instances_are_sealed_exactly_once_and_never_after_their_folder_was_listed(tmp_path: Path) -> None:
    layout = made_layout(tmp_path)
    reception = names.reception_name("1.2", SERIES, ORIGIN)
    count, listed, held = 400, {}, []
    with ExitStack() as stack:
        processes = publishers(stack, layout, [(str(1000 * n), str(count)) for n in range(1, 5)])
        while any(process.poll() is None for process in processes):
            outcome = seal(layout, reception, datetime.now(UTC))
            if isinstance(outcome, Sealed):
                held.append(outcome)
                listed[outcome.received] = {path.name for path in outcome.received.glob("*.dcm")}
        published = [uid for uid, kind in outcomes(processes) if kind == "new"]
    assert len(published) == 4 * count
    assert listed
    for folder, instances in listed.items():
        assert {path.name for path in folder.glob("*.dcm")} == instances
    gathering = [path.name for path in (layout.incoming / reception).glob("*.dcm")]
    everywhere = gathering + [name for instances in listed.values() for name in instances]
    assert sorted(everywhere) == sorted(names.instance_name(SERIES, uid) for uid in published)
    assert list(layout.drafts.iterdir()) == []
    for sealed in held:
        sealed.close()


def test_processes_that_publish_the_same_instances_make_one_of_each(tmp_path: Path) -> None:
    layout = made_layout(tmp_path)
    with ExitStack() as stack:
        lines = outcomes(publishers(stack, layout, [("1", "200", "the same bytes")] * 3))
    kinds = [kind for _, kind in lines]
    assert (kinds.count("new"), kinds.count("identical")) == (200, 400)
    assert len(list((layout.incoming / names.reception_name("1.2", SERIES, ORIGIN)).glob("*.dcm"))) == 200


def test_processes_that_publish_different_bytes_under_one_uid_lose_none(tmp_path: Path) -> None:
    layout = made_layout(tmp_path)
    with ExitStack() as stack:
        lines = outcomes(publishers(stack, layout, [("1", "100", content) for content in ("a", "bb", "ccc")]))
    assert [kind for _, kind in lines].count("new") == 100
    folder = layout.incoming / names.reception_name("1.2", SERIES, ORIGIN)
    for number in range(1, 101):
        contents = sorted(path.read_text() for path in folder.glob(f"{SERIES}#1.2.{number}[.#]*dcm"))
        assert contents == ["a", "bb", "ccc"]
