"""What jobs share: what is free, what is kept for others, and what comes back."""

import os
from pathlib import Path

import pytest

from mercure.core.processing import ModuleSpec
from mercure.services.processing_settings import ProcessorSettings
from mercure.services.processing_slots import Needs, Slots, needs_of

LIMITED = ModuleSpec("limited", "process", max_parallel=2)
ONE_GPU = ModuleSpec("one", "process", gpu_count=1)
TAKES_ALL = ModuleSpec("all", "docker", takes_all_gpus=True)
KEEPS = ModuleSpec("keeps", "process", persistence="cache")


@pytest.fixture
def settings(tmp_path: Path) -> ProcessorSettings:
    return ProcessorSettings(gpus=("0", "1"), persistence_folder=str(tmp_path / "persistence"))


def test_a_job_needs_what_is_scarce_and_the_most_of_it_that_a_step_needs() -> None:
    specs = (LIMITED, ONE_GPU, ModuleSpec("two", "process", gpu_count=2), KEEPS, ModuleSpec("plain", "process"))
    needs = needs_of(specs, ProcessorSettings(gpus=("0", "1")))
    assert needs == Needs(2, frozenset({"limited"}), frozenset({"cache"}))
    assert needs_of(specs, ProcessorSettings(gpus=("0", "1"), shared_gpus=True)).gpus == 0


def test_two_jobs_share_a_gpu_a_limited_module_or_a_folder() -> None:
    one, module, folder = Needs(gpus=1), Needs(modules=frozenset("m")), Needs(folders=frozenset("f"))
    for needs in (one, module, folder):
        assert needs.shares_with(needs)
    assert not one.shares_with(module)
    assert not module.shares_with(folder)
    assert not Needs().shares_with(Needs())


@pytest.mark.parametrize(
    ("spec", "kept", "has_room"),
    [
        (ONE_GPU, [Needs(gpus=1)], True),
        (ONE_GPU, [Needs(gpus=1), Needs(gpus=1)], False),
        (ONE_GPU, [Needs(gpus=2)], False),
        (ONE_GPU, [Needs(folders=frozenset({"cache"}))], True),
        (LIMITED, [Needs(gpus=2)], True),
        (LIMITED, [Needs(modules=frozenset({"limited"}))], True),
        (LIMITED, 2 * [Needs(modules=frozenset({"limited"}))], False),
        (KEEPS, [Needs(folders=frozenset({"cache"}))], False),
        (KEEPS, [Needs(folders=frozenset({"other"}))], True),
    ],
)
def test_what_is_kept_for_others_is_not_free(
    settings: ProcessorSettings, spec: ModuleSpec, kept: list[Needs], has_room: bool
) -> None:
    assert Slots().has_room([spec], settings, kept) is has_room


@pytest.mark.parametrize(("spec", "times"), [(LIMITED, 2), (ONE_GPU, 2), (KEEPS, 1)])
def test_what_was_given_back_can_be_taken_again(settings: ProcessorSettings, spec: ModuleSpec, times: int) -> None:
    slots = Slots()
    for _ in range(2):
        taken = [slot for _ in range(3) if (slot := slots.take([spec], settings)) is not None]
        assert len(taken) == slots.count == times
        for slot in taken:
            slots.give_back(slot)
        assert slots.count == 0


def test_a_folder_that_another_processor_has_is_not_taken_and_no_descriptor_stays(settings: ProcessorSettings) -> None:
    other, slots = Slots(), Slots()
    held = other.take([KEEPS], settings)
    assert held is not None
    before = len(os.listdir("/proc/self/fd"))
    assert slots.has_room([KEEPS], settings)
    assert slots.take([KEEPS], settings) is None
    assert len(os.listdir("/proc/self/fd")) == before
    other.give_back(held)
    again = slots.take([KEEPS], settings)
    assert again is not None
    slots.give_back(again)


def test_a_job_that_was_begun_has_its_place_and_gpus_in_any_case(settings: ProcessorSettings) -> None:
    slots, full = Slots(), ModuleSpec("full", "process", max_parallel=0, gpu_count=1)
    assert slots.take([full], settings) is None
    slot = slots.take([full], settings, ["1"])
    assert slot is not None
    assert slot.gpus == ("1",)
    slots.give_back(slot)


def test_a_module_that_gets_gpus_unchosen_has_all_of_them_and_waits_for_all(settings: ProcessorSettings) -> None:
    slots = Slots()
    assert needs_of([TAKES_ALL, ONE_GPU], settings).gpus == 2
    one = slots.take([ONE_GPU], settings)
    assert one is not None
    assert slots.take([TAKES_ALL], settings) is None
    slots.give_back(one)
    every = slots.take([TAKES_ALL], settings)
    assert every is not None
    assert every.gpus == ("0", "1")
    assert slots.take([ONE_GPU], settings) is slots.take([TAKES_ALL], settings) is None
    assert slots.has_room([LIMITED], settings)
    slots.give_back(every)
    assert slots.has_room([ONE_GPU], settings)


def test_without_named_gpus_one_job_at_a_time_has_those_of_the_machine() -> None:
    slots, settings = Slots(), ProcessorSettings()
    held = slots.take([TAKES_ALL], settings)
    assert held is not None
    assert slots.take([TAKES_ALL], settings) is None
    assert slots.has_room([LIMITED], settings)
    slots.give_back(held)
    assert slots.has_room([TAKES_ALL], settings)


@pytest.mark.parametrize("gpus", [(), ("0", "1")])
def test_where_gpus_are_shared_nobody_waits_for_all_of_them(gpus: tuple[str, ...]) -> None:
    slots, settings = Slots(), ProcessorSettings(gpus=gpus, shared_gpus=True)
    assert needs_of([TAKES_ALL], settings) == Needs()
    assert all(slots.take([TAKES_ALL], settings) for _ in range(4))


def test_gpus_that_get_names_while_a_job_has_all_stay_its_own_until_it_ends(settings: ProcessorSettings) -> None:
    slots, unnamed = Slots(), ProcessorSettings()
    for before, after, first in ((unnamed, settings, TAKES_ALL), (settings, unnamed, ONE_GPU)):
        held = slots.take([first], before)
        assert held is not None
        assert not slots.has_room([TAKES_ALL], after)
        slots.give_back(held)
        assert slots.has_room([TAKES_ALL], after)


def test_a_job_that_was_begun_with_all_gpus_has_them_whatever_the_machine_has_now(settings: ProcessorSettings) -> None:
    slots = Slots()
    for begun_with in ([""], ["0"], ["0", "1", "2"]):
        slot = slots.take([TAKES_ALL], settings, begun_with)
        assert slot is not None
        assert slot.gpus == tuple(begun_with)
        assert not slots.has_room([TAKES_ALL], settings)
        slots.give_back(slot)
    counted = slots.take([ONE_GPU], settings, [""])
    assert counted is not None
    assert counted.gpus == ("0",)
    slots.give_back(counted)
