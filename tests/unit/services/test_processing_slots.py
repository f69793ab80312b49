"""What jobs share: what is free, what is kept for others, and what comes back."""

import os
from pathlib import Path

import pytest

from mercure.core.processing import ModuleSpec
from mercure.services.processing_settings import ProcessorSettings
from mercure.services.processing_slots import Needs, Slots, needs_of

LIMITED = ModuleSpec("limited", "process", max_parallel=2)
ONE_GPU = ModuleSpec("one", "process", gpu_count=1)
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
