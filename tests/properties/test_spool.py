"""The life of a data folder, in any order: arrivals, seals, crashes, mends, retries, cancels, deliveries.

The invariant: every acknowledged instance is in exactly one gathering or sealed folder, or in the jobs that its plan
gave it: one for each target that its rules name, and for what cannot be done yet one in `error/`.
"""

import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests import arrivals
from tests.builders import dicom_bytes
from tests.fake_clock import FakeClock, Recorded
from tests.peers import wait_until

from mercure.core.errors import SpoolError
from mercure.core.retry import RetryPolicy
from mercure.core.stages import Stage
from mercure.services.dispatch_settings import DispatcherSettings, TargetSetup
from mercure.services.dispatcher import Dispatcher
from mercure.services.router import Router
from mercure.spool import controls
from mercure.spool.job_files import read_task
from mercure.spool.jobs import job_ids
from mercure.spool.layout import Layout
from mercure.targets.folder import FolderTarget

TARGETS = ("archive", "research", "late")
SERIES = ("1.2.1", "1.2.2", "1.2.3")


class Crash(BaseException):
    """The process dies here: nothing of ours may catch it."""


class LifeOfASpool(RuleBasedStateMachine):
    """The data folder, and beside it what was promised to whom."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="spool-"))
        self.layout = Layout.under(self.folder / "data")
        self.layout.create()
        self.clock = FakeClock()
        self.is_mended = False
        self.sent: list[str] = []
        self.cancelled: set[str] = set()
        for name in TARGETS:
            (self.folder / name).mkdir()

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            try:
                self.nothing_is_left_when_everybody_has_worked()
            finally:
                shutil.rmtree(self.folder)

    def router(self) -> Router:
        rules = [arrivals.rule(name, targets=(name,)) for name in TARGETS]
        known = TARGETS if self.is_mended else TARGETS[:2]
        return Router(self.layout, arrivals.settings(*rules, targets=known), self.clock, Recorded())

    @rule(series=st.sampled_from(SERIES), count=st.integers(1, 3))
    def an_association_brings_instances(self, series: str, count: int) -> None:
        with arrivals.Sender(self.layout) as sender:
            for _ in range(count):
                uid = f"{series}.{len(self.sent) + 1}"
                sender.publish(
                    dicom_bytes(rows=8, columns=8, StudyInstanceUID="1.2", SeriesInstanceUID=series, SOPInstanceUID=uid)
                )
                self.sent.append(uid)

    @rule()
    def the_router_works(self) -> None:
        self.clock.advance(11.0)
        router = self.router()
        while router.step():
            pass

    @rule(step=st.integers(0, 60), call=st.sampled_from(("rename", "link", "mkdir", "fsync", "unlink", "rmdir")))
    def the_router_dies(self, step: int, call: str) -> None:
        self.clock.advance(11.0)
        router = self.router()
        real: Any = getattr(os, call)
        left = iter(range(step))

        def change(*arguments: Any, **keywords: Any) -> Any:
            if next(left, None) is None:
                raise Crash
            return real(*arguments, **keywords)

        held = _held_locks(self.layout)
        setattr(os, call, change)
        try:
            while router.step():
                pass
        except Crash:
            pass
        finally:
            setattr(os, call, real)
        _free_locks(self.layout, held)

    @rule()
    def the_configuration_is_mended_or_broken_again(self) -> None:
        self.is_mended = not self.is_mended

    @precondition(lambda self: any(job_ids(self.layout, Stage.ERROR)))
    @rule(data=st.data())
    def an_operator_retries(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(job_ids(self.layout, Stage.ERROR))))
        try:
            controls.retry(self.layout, job_id, self.clock.now())
        except SpoolError as error:
            raise AssertionError(f"it can always be retried here: {error}") from error
        self.cancelled.discard(job_id)

    @precondition(lambda self: any(job_ids(self.layout, Stage.OUTGOING)))
    @rule(data=st.data())
    def an_operator_cancels(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(job_ids(self.layout, Stage.OUTGOING))))
        assert controls.cancel(self.layout, job_id, self.clock.now()) == "is cancelled"
        self.cancelled.add(job_id)

    @rule()
    def the_dispatcher_works(self) -> None:
        setups = {name: TargetSetup(FolderTarget(str(self.folder / name)), RetryPolicy(1.0, 1.0)) for name in TARGETS}
        dispatcher = Dispatcher(self.layout, DispatcherSettings(setups), self.clock, Recorded())
        self.clock.advance(3.0)

        def done() -> bool:
            dispatcher.step()
            return dispatcher.is_idle and not any(job_ids(self.layout, Stage.OUTGOING))

        wait_until(done, "everything is delivered", interval=0.001)

    @invariant()
    def every_instance_is_where_its_plan_put_it(self) -> None:
        found = arrivals.census(self.layout)
        wanted: dict[str, list[str]] = {uid: [] for uid in self.sent}
        waiting: Counter[str] = Counter()
        for stage, jobs in found.jobs.items():
            for job_id, uids in jobs.items():
                targets = [delivery.target for delivery in read_task(self.layout.stage(stage) / job_id).deliveries]
                for uid in uids:
                    wanted[uid] += targets
                    waiting[uid] += not targets
        loose = Counter(uid for uids in found.loose.values() for uid in uids)
        for uid, targets in wanted.items():
            is_loose = loose[uid] > 0
            assert is_loose or waiting[uid] or targets, f"{uid} is lost"
            assert max(Counter(targets).values(), default=0) <= 1, f"{uid} is twice on its way to one target"
            assert loose[uid] + waiting[uid] <= 1, f"{uid} waits twice"
            if not any(self.layout.sealed.iterdir()):  # else a dead router has not made all of them yet
                complete = set(targets) == set(TARGETS) or (set(targets) == set(TARGETS[:2]) and waiting[uid] == 1)
                assert is_loose or complete, f"{uid} is with {targets} only"
        for name in TARGETS:
            copies = Counter(path.name for path in (self.folder / name).glob("*/*.dcm"))
            assert max(copies.values(), default=0) <= 1

    def nothing_is_left_when_everybody_has_worked(self) -> None:
        """The end of every life: all is mended, retried and delivered."""
        self.is_mended = True
        self.the_router_works()
        for _ in range(2):
            for job_id in sorted(job_ids(self.layout, Stage.ERROR)):
                controls.retry(self.layout, job_id, self.clock.now())
            self.the_router_works()
            self.the_dispatcher_works()
        found = arrivals.census(self.layout)
        assert found.loose == {}
        assert found.jobs[Stage.ERROR] == {}
        for name in TARGETS:
            delivered = {path.name.split("#")[1].removesuffix(".dcm") for path in (self.folder / name).glob("*/*.dcm")}
            assert delivered == set(self.sent)


def _held_locks(layout: Layout) -> set[int]:
    """The descriptors of this process that point into the data folder."""
    root = os.path.realpath(layout.incoming.parent)
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith(root):
                found.add(int(name))
        except OSError:
            continue
    return found


def _free_locks(layout: Layout, before: set[int]) -> None:
    """Do what the kernel does when a process dies: close what it had open there."""
    for descriptor in _held_locks(layout) - before:
        os.close(descriptor)


TestLifeOfASpool = LifeOfASpool.TestCase
TestLifeOfASpool.settings = settings(
    max_examples=50, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
