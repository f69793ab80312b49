from pathlib import Path

from mercure.core.stages import Stage
from mercure.spool.inventory import find_copies, find_instances
from mercure.spool.layout import Layout


def put(folder: Path, name: str) -> str:
    folder.mkdir(parents=True)
    (folder / name).write_text("")
    return str(folder / name)


def test_instances_are_found_wherever_they_stand(layout: Layout) -> None:
    expected = {
        "1.2.1": put(layout.incoming / "1.9#abc", "1.9#1.2.1.dcm"),
        "1.2.2": put(layout.sealed / "seal" / "received", "1.9#1.2.2#2.dcm"),
    }
    for number, stage in enumerate(set(Stage) - {Stage.DISCARD}, start=3):
        expected[f"1.2.{number}"] = put(layout.stage(stage) / "job" / "received", f"1.9#1.2.{number}.dcm")
    assert find_instances(layout, [*expected, "1.2.99"]) == expected


def test_what_is_discarded_is_not_kept_but_a_copy_elsewhere_is(layout: Layout) -> None:
    name = "1.9#1.2.1.dcm"
    discarded = put(layout.discard / "job" / "received", name)
    assert find_instances(layout, ["1.2.1"]) == {}
    assert list(find_copies(layout, "1.9", "1.2.1")) == [discarded], "recovery must know it all the same"
    sent = put(layout.success / "job" / "received", name)
    assert find_instances(layout, ["1.2.1"]) == {"1.2.1": sent}


def test_other_names_are_no_instances(layout: Layout) -> None:
    put(layout.error / "job" / "received", "unreadable.dcm")
    put(layout.incoming / "1.9#abc", "reception.json")
    put(layout.drafts / "1-a", "1#5#1.2.1#B#C.dcm")
    (layout.incoming / "a file").write_text("")
    (layout.outgoing / "a job without instances").mkdir()
    assert find_instances(layout, {"", "1.2.1", "5", "unreadable"}) == {}


def test_nothing_is_looked_for_when_nothing_is_asked(layout: Layout) -> None:
    assert find_instances(layout, []) == {}
