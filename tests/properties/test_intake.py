"""The intake under any order of arrivals, duplicates, seals, deaths and recoveries: nothing lost, nothing twice."""

import shutil
import struct
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.builders import CT_STORAGE, EXPLICIT_LITTLE

from mercure.core.errors import SpoolError
from mercure.dicom import part10
from mercure.dicom.recovery import recover_drafts
from mercure.spool import layout as names
from mercure.spool.intake import Intake
from mercure.spool.layout import Layout, Origin
from mercure.spool.sealing import Sealed, seal

ORIGINS = (Origin("ONE", "MERCURE", "10.0.0.1"), Origin("TWO", "MERCURE", "10.0.0.1"))
SERIES = "1.2.9"

origins = st.sampled_from(ORIGINS)
sop_uids = st.sampled_from(("1.2.1", "1.2.2", "1.2.3"))
variants = st.sampled_from((b"CT", b"MR"))


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


def instance(uid: str, modality: bytes) -> bytes:
    data = element(0x00080018, b"UI", uid.encode()) + element(0x00080060, b"CS", modality)
    data += element(0x0020000D, b"UI", b"1.2") + element(0x0020000E, b"UI", SERIES.encode())
    return part10.encode_file_meta(CT_STORAGE, uid, EXPLICIT_LITTLE) + data


class Intakes(RuleBasedStateMachine):
    """Two workers that may die, one router that seals. `expected` holds what must be somewhere, by origin and UID."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="intake-"))
        self.layout = Layout.under(self.root)
        self.layout.create()
        self.intakes = [Intake(self.layout, fsync=True), Intake(self.layout, fsync=False)]
        self.sealed: list[tuple[Sealed, Origin, dict[str, bytes]]] = []
        self.gathering: dict[Origin, set[bytes]] = {origin: set() for origin in ORIGINS}

    def teardown(self) -> None:
        for sealed, _, _ in self.sealed:
            sealed.close()
        shutil.rmtree(self.root)

    @rule(worker=st.integers(0, 1), origin=origins, uid=sop_uids, modality=variants)
    def publish(self, worker: int, origin: Origin, uid: str, modality: bytes) -> None:
        content = instance(uid, modality)
        draft = self.intakes[worker].draft()
        draft.write([content])
        session = self.intakes[worker].session(origin)
        kind = session.publish(draft, "1.2", SERIES, uid, modality).kind
        session.close()
        there = self.gathering[origin]
        has_uid = any(instance(uid, other) in there for other in (b"CT", b"MR"))
        assert kind == ("identical" if content in there else "different" if has_uid else "new")
        there.add(content)

    @rule(origin=origins)
    def seal(self, origin: Origin) -> None:
        outcome = seal(self.layout, names.reception_name("1.2", SERIES, origin), datetime(2024, 1, 1, tzinfo=UTC))
        if not self.gathering[origin]:
            assert outcome == "gone"
            return
        assert isinstance(outcome, Sealed)
        listed = {path.name: path.read_bytes() for path in outcome.received.glob("*.dcm")}
        assert set(listed.values()) == self.gathering[origin]
        self.sealed.append((outcome, origin, listed))
        self.gathering[origin] = set()

    @rule(worker=st.integers(0, 1), origin=origins, uid=sop_uids, modality=variants, whole=st.booleans())
    def die(self, worker: int, origin: Origin, uid: str, modality: bytes, whole: bool) -> None:
        """A worker dies with one draft that is complete or cut off, and is recovered."""
        content = instance(uid, modality)
        intake = self.intakes[worker]
        draft = intake.draft()
        draft.write([content if whole else content[:-1]])
        if whole:
            draft.complete(origin)
        draft.close()
        intake.close()  # as the kernel does: the lock is free, the draft keeps the folder
        self.intakes[worker] = Intake(self.layout, fsync=intake.fsync)
        # The same bytes of the same sender that were sealed since: whatever was acknowledged is there.
        is_there = any(sender == origin and content in listed.values() for _, sender, listed in self.sealed)
        assert recover_drafts(self.layout, self.intakes[1 - worker]) == (whole and not is_there)
        if whole and not is_there:
            self.gathering[origin].add(content)

    @invariant()
    def everything_is_in_its_place(self) -> None:
        for origin in ORIGINS:
            folder = self.layout.incoming / names.reception_name("1.2", SERIES, origin)
            contents = [path.read_bytes() for path in folder.glob("*.dcm")]
            assert len(contents) == len(set(contents))
            assert set(contents) == self.gathering[origin]
        for sealed, _, listed in self.sealed:
            assert {path.name: path.read_bytes() for path in sealed.received.glob("*.dcm")} == listed

    @invariant()
    def no_draft_is_left(self) -> None:
        for intake in self.intakes:
            assert [path.name for path in intake.folder.iterdir()] == [".lock"]
        assert len(list(self.layout.drafts.iterdir())) == 2


Intakes.TestCase.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
TestIntakes = Intakes.TestCase


@given(study=st.text(max_size=70), series=st.text(max_size=70), sop=st.text(max_size=70))
def test_no_text_from_outside_becomes_a_path_unless_it_is_a_uid(study: str, series: str, sop: str) -> None:
    origin = Origin(study, series, sop)
    name = names.draft_name(1, 1, origin)
    assert "/" not in name
    assert "\0" not in name
    try:
        names.check_uid(sop, "SOPInstanceUID")
        reception = names.reception_name(study, series, origin)
    except SpoolError:
        return
    assert set(reception + names.instance_name(series, sop)) <= set("0123456789.#abcdefdcm")


@given(st.text(alphabet=st.characters(max_codepoint=255), max_size=16), st.integers(0, 1 << 40))
def test_a_draft_name_gives_back_its_size_and_its_origin(title: str, size: int) -> None:
    origin = Origin(title, title, "::1")
    assert names.parse_draft_name(names.draft_name(1, size, origin)) == (size, origin)


@given(st.text(max_size=100))
def test_any_file_name_is_a_draft_name_or_none(name: str) -> None:
    parsed = names.parse_draft_name(name)
    assert parsed is None or parsed[0] >= 0
