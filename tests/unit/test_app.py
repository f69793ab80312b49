"""From a configuration to objects, and what becomes of a configuration that changes."""

import json
import logging
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.peers import free_port, wait_until

from mercure.app import assembly
from mercure.app.assembly import TargetSet
from mercure.app.platform import SERVICES, Platform
from mercure.config.load import Loaded, parse
from mercure.config.store import ConfigStore
from mercure.core.errors import ConfigError, SpoolError
from mercure.core.events import EventKind
from mercure.core.plan import make_plan, plan_to_json
from mercure.core.stages import Stage
from mercure.core.tags import Tags
from mercure.core.task import Priority
from mercure.dicom.worker_settings import PeerPort
from mercure.journal.reader import JournalReader
from mercure.services.dispatch_settings import DispatcherSettings
from mercure.services.processing_settings import ProcessorSettings
from mercure.services.receiver import ReceiverSettings
from mercure.services.router import RouterSettings
from mercure.spool.layout import Layout
from mercure.targets.dicom import DicomTarget
from mercure.targets.dummy import DummyTarget
from mercure.targets.folder import FolderTarget

PACS = {"target_type": "dicom", "host": "192.0.2.1", "port": 104, "called_ae_title": "PACS"}


def loaded(**sections: Any) -> Loaded:
    return parse(json.dumps(sections).encode())


def platform(tmp_path: Path, names: tuple[str, ...] = SERVICES, **sections: Any) -> tuple[Platform, Path]:
    path = tmp_path / "mercure.json"
    write(path, tmp_path, **sections)
    return Platform(ConfigStore(path), names), path


def write(path: Path, tmp_path: Path, **sections: Any) -> None:
    mercure = {"data_folder": str(tmp_path / "data")} | sections.pop("mercure", {})
    path.write_text(json.dumps({"mercure": mercure, **sections}))


def events(tmp_path: Path) -> list[EventKind]:
    return [event.kind for event in JournalReader(tmp_path / "data" / "jobs" / "journal").read().events]


def test_every_folder_of_the_layout_can_be_named() -> None:
    config = loaded(mercure={"data_folder": "/data", "success_folder": "/far/success"}).config
    layout = assembly.layout_of(config)
    assert layout.success == Path("/far/success")
    assert layout.incoming == Path("/data/incoming")
    assert layout == Layout(**Layout.under(Path("/data")).folders() | {"success": Path("/far/success")})


def test_rules_keep_their_order_and_a_broken_one_stays_in() -> None:
    rules = [
        {"name": "one", "condition": "@Modality@ == 'CT'", "target": "pacs", "priority": "urgent"},
        {"name": "two", "condition": "this is no rule", "target": "pacs"},
        {"name": "three", "condition": "True", "action": "discard", "disabled": True, "fallback": True},
        {"name": "four", "condition": "True", "action": "nonsense"},
    ]
    found = assembly.routing_rules(loaded(rules=rules, targets={"pacs": PACS}))
    by_name = {rule.name: rule for rule in found}
    assert [rule.name for rule in found] == ["one", "two", "three", "four"]
    assert (by_name["one"].priority, by_name["one"].targets, by_name["one"].broken) == (Priority.URGENT, ("pacs",), "")
    assert by_name["two"].expression is None
    assert by_name["two"].broken
    assert (by_name["three"].disabled, by_name["three"].fallback) == (True, True)
    assert by_name["four"].expression is not None
    assert by_name["four"].broken


def test_a_broken_rule_that_is_disabled_puts_nothing_into_error() -> None:
    rules = [
        {"name": "off", "condition": "(", "target": "pacs", "disabled": True},
        {"name": "last", "condition": "(", "target": "pacs", "fallback": True},
        {"name": "ct", "condition": "@Modality@ == 'CT'", "target": "pacs"},
    ]
    found = loaded(rules=rules, targets={"pacs": PACS})
    plan = make_plan(Tags({"Modality": "CT"}), assembly.routing_rules(found), assembly.target_states(found))
    assert [job.stage for job in plan.jobs] == [Stage.OUTGOING]
    plan = make_plan(Tags({"Modality": "MR"}), assembly.routing_rules(found), assembly.target_states(found))
    assert [job.stage for job in plan.jobs] == [Stage.ERROR], "the broken fallback might have taken it"
    found = loaded(rules=rules[:1], targets={"pacs": PACS})
    plan = make_plan(Tags({"Modality": "CT"}), assembly.routing_rules(found), assembly.target_states(found))
    assert [job.stage for job in plan.jobs] == [Stage.DISCARD]


def planned(rules: list[Any], **tags: str) -> list[tuple[Stage, tuple[str, ...]]]:
    """Where the jobs of a series with these tags start, and of which rules they are."""
    found = loaded(rules=rules, targets={"pacs": PACS})
    plan = make_plan(Tags(tags), assembly.routing_rules(found), assembly.target_states(found))
    assert json.dumps(plan_to_json(plan)), "the router stores it"
    return [(job.stage, job.rules) for job in plan.jobs]


CT = {"name": "CT", "condition": "@Modality@ == 'CT'", "target": "pacs"}
MR = {"name": "MR", "condition": "@Modality@ == 'MR'", "target": "pacs"}
REST = {"name": "rest", "condition": "True", "target": "pacs", "fallback": True}


@pytest.mark.parametrize(
    "fault", [{"priority": "urgnt"}, {"acton": "route"}, {"action": "nonsense"}, {"disabled": "perhaps"}]
)
def test_a_fault_beside_the_condition_of_a_rule_concerns_only_the_series_that_the_rule_takes(
    fault: dict[str, str],
) -> None:
    rules = [CT | fault, MR, REST]
    assert planned(rules, Modality="CT") == [(Stage.ERROR, ("CT",))]
    assert planned(rules, Modality="MR") == [(Stage.OUTGOING, ("MR",))]
    assert planned(rules, Modality="US") == [(Stage.OUTGOING, ("rest",))]
    discard = {"name": "none", "condition": "True", "action": "discard"}
    assert planned([CT | fault, discard], Modality="CT") == [(Stage.ERROR, ("CT", "none"))]
    assert planned([CT | fault, discard], Modality="MR") == [(Stage.DISCARD, ("none",))]


def test_a_disabled_rule_with_a_fault_keeps_nothing() -> None:
    off = CT | {"priority": "urgnt", "disabled": True}
    assert planned([off, REST], Modality="CT") == [(Stage.OUTGOING, ("rest",))]
    assert planned([off], Modality="CT") == [(Stage.DISCARD, ())]


def test_a_rule_with_a_fault_that_cannot_be_evaluated_keeps_the_series() -> None:
    bad = {"name": "bad", "condition": "tags.Modality < 5", "target": "pacs", "priority": "urgnt"}
    assert planned([bad, MR], Modality="MR") == [(Stage.OUTGOING, ("MR",)), (Stage.ERROR, ("bad",))]
    assert planned([bad], Modality="US") == [(Stage.ERROR, ("bad",))]


def test_a_fallback_rule_with_a_fault_keeps_what_it_would_have_taken() -> None:
    bad = REST | {"priority": "urgnt"}
    assert planned([bad, MR], Modality="MR") == [(Stage.OUTGOING, ("MR",))]
    assert planned([bad, MR], Modality="US") == [(Stage.ERROR, ("rest",))]
    assert planned([bad | {"condition": "("}, MR], Modality="US") == [(Stage.ERROR, ("rest",))]
    only_us = bad | {"condition": "@Modality@ == 'US'"}
    assert planned([only_us, MR], Modality="US") == [(Stage.ERROR, ("rest",))]
    assert planned([only_us, MR], Modality="XA") == [(Stage.DISCARD, ())]


def test_two_rules_of_one_name_keep_what_either_of_them_takes() -> None:
    rules = [CT, MR | {"name": "CT"}, REST]
    assert planned(rules, Modality="CT") == [(Stage.ERROR, ("CT",))]
    assert planned(rules, Modality="MR") == [(Stage.ERROR, ("CT",))]
    assert planned(rules, Modality="US") == [(Stage.OUTGOING, ("rest",))]
    unreadable = [CT, MR | {"name": "CT", "condition": "("}, REST]
    assert planned(unreadable, Modality="US") == [(Stage.ERROR, ("CT",))]


@pytest.mark.parametrize("entry", [7, {"name": "r"}, {"name": "r", "condition": 5}, {"name": "r", "condition": "("}])
def test_a_rule_without_a_condition_that_can_be_read_may_take_every_series(entry: Any) -> None:
    assert [stage for stage, _ in planned([entry, MR], Modality="MR")] == [Stage.OUTGOING, Stage.ERROR]
    assert [stage for stage, _ in planned([entry, REST], Modality="US")] == [Stage.ERROR]


def test_the_rules_of_the_flat_form_keep_their_conditions_when_they_are_set_aside() -> None:
    rules = {
        "CT": {"rule": "@Modality@ == 'CT'", "target": "pacs", "priority": "urgnt"},
        "none": {"rule": "", "target": "pacs", "priority": "urgnt"},
    }
    by_name = {rule.name: rule for rule in assembly.routing_rules(loaded(port=11112, rules=rules))}
    assert by_name.keys() == {"CT", "none"}
    assert all(rule.broken for rule in by_name.values())
    for rule, is_taken in ((by_name["CT"], True), (by_name["none"], False)):
        assert rule.expression is not None
        assert rule.expression.evaluate(Tags({"Modality": "CT"})).matched == is_taken


def test_the_guides_form_of_a_processing_rule_names_its_module_by_the_target() -> None:
    found = assembly.routing_rules(
        loaded(
            targets={"ai": {"processing_module": ["one", "two"]}, "pacs": PACS},
            modules={"one": {"docker_tag": "a/one"}, "two": {"docker_tag": "a/two"}},
            rules=[{"name": "r", "condition": "True", "action": "both", "target": ["ai", "pacs"]}],
        )
    )
    assert (found[0].modules, found[0].targets) == (("one", "two"), ("pacs",))


@pytest.mark.requirement("D8")
def test_targets_that_cannot_be_used_say_why_and_are_no_silent_dummies() -> None:
    found = loaded(
        targets={
            "pacs": PACS,
            "dummy": {"target_type": "dummy"},
            "cloud": {
                "target_type": "s3",
                "region": "r",
                "bucket": "b",
                "prefix": "p",
                "access_key_id": "i",
                "secret_access_key": "k",
            },
            "no type": {"host": "192.0.2.1", "port": 104},
            "broken": {**PACS, "port": "many"},
        }
    )
    states = assembly.target_states(found)
    assert states["pacs"] == ""
    assert "features.dummy_target" in states["dummy"]
    assert "not built yet" in states["cloud"]
    assert states["no type"]
    assert states["broken"]
    settings = assembly.dispatcher_settings(found, TargetSet())
    assert settings.targets.keys() == {"pacs"}
    assert settings.unusable.keys() == states.keys() - {"pacs"}


def test_each_kind_of_target_is_built_as_configured() -> None:
    found = loaded(
        features={"dummy_target": True},
        dispatcher={"connect_timeout": 3, "response_timeout": 0, "calling_ae_title": "US", "retry_delay": 7},
        targets={
            "pacs": {**PACS, "timeout": 9, "retry_max": 0, "max_parallel": 5, "forward_calling_ae_title": True},
            "tls": {**PACS, "target_type": "dicomtls", "tls_key": "/k", "tls_cert": "/c", "ca_cert": "/a"},
            "folder": {"target_type": "folder", "folder": "/out", "exclude": "*.txt"},
            "dummy": {"target_type": "dummy"},
        },
    )
    setups = TargetSet().of(found)
    pacs, tls = setups["pacs"].target, setups["tls"].target
    assert isinstance(pacs, DicomTarget)
    assert isinstance(tls, DicomTarget)
    assert pacs._node.calling_ae_title == "US"
    assert (pacs._node.connect_timeout_seconds, pacs._node.response_timeout_seconds) == (3.0, 9.0)
    assert pacs._node.forward_calling_ae_title
    assert tls._node.response_timeout_seconds > 1e6, "0 means no end"
    assert tls._node.tls is not None
    assert tls._node.tls.authorities == "/a"
    assert (setups["pacs"].retry.first_delay_seconds, setups["pacs"].retry.maximum_attempts) == (7.0, 0)
    assert (setups["pacs"].max_parallel, setups["tls"].max_parallel) == (5, 1)
    assert setups["folder"].target == FolderTarget("/out", ("*.txt",))
    assert isinstance(setups["dummy"].target, DummyTarget)
    with pytest.raises(ConfigError, match="not built yet"):
        assembly.build_target(loaded(targets={"x": {"processing_module": "m"}}).config.targets["x"], found.config)


def test_targets_that_stay_as_they_are_keep_their_associations() -> None:
    targets = TargetSet()
    other = {**PACS, "port": 105}
    first = targets.of(loaded(targets={"a": PACS, "b": PACS}))
    second = targets.of(loaded(targets={"a": PACS, "b": other}))
    assert second["a"] is first["a"]
    assert second["b"] is not first["b"]
    third = targets.of(loaded(targets={"a": PACS}, dispatcher={"connect_timeout": 1}))
    assert third["a"] is not first["a"]


def test_the_receiver_follows_its_section(tmp_path: Path) -> None:
    found = loaded(
        targets={"pacs": PACS, "back": {**PACS, "host": "sender", "called_ae_title": "BACK"}},
        receiver={
            "port": 104,
            "networks": ["192.0.2.0/24"],
            "called_ae_titles": ["US"],
            "min_free_space_gb": 2,
            "idle_timeout": 0,
            "storage_commitment": {"ports": {"CT1": {"ip": "192.0.2.9", "port": 105}}},
            "tls": {"port": 2762, "key": "/k", "cert": "/c", "ca_cert": "/a", "require_client_certificate": True},
        },
        mercure={"series_complete_on_release": True},
    )
    layout = Layout.under(tmp_path)
    settings = assembly.receiver_settings(found, layout)
    assert (settings.port, settings.tls_port, [str(n) for n in settings.networks]) == (104, 2762, ["192.0.2.0/24"])
    worker = settings.worker
    assert worker.layout == layout
    assert worker.min_free_bytes == 2_000_000_000
    assert worker.hold_open
    assert worker.idle_timeout_seconds > 1e6
    assert worker.tls is not None
    assert (worker.tls.ca_cert, worker.tls.require_client_certificate) == ("/a", True)
    assert worker.commitment_ports == {"PACS": PeerPort("192.0.2.1", 104), "CT1": PeerPort("192.0.2.9", 105)}
    plain = assembly.receiver_settings(loaded(), layout)
    assert (plain.tls_port, plain.worker.tls) == (None, None)
    assert worker.decode(json.loads(worker.encode())) == worker


def test_the_router_follows_the_section_mercure_and_the_additional_tags() -> None:
    settings = assembly.router_settings(
        loaded(
            mercure={"series_complete_trigger": 5, "appliance_name": "here", "router_scan_interval": 2},
            receiver={"additional_tags": {"SliceLocation": "1.5"}},
        )
    )
    assert (settings.completion.trigger_seconds, settings.appliance, settings.scan_interval_seconds) == (5.0, "here", 2)
    assert settings.additional_tags == ("SliceLocation",)


def test_a_service_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no service 'web'"):
        platform(tmp_path, ("web",))


def test_a_configuration_that_cannot_be_used_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "mercure.json").write_text("{")
    with pytest.raises(ConfigError):
        Platform(ConfigStore(tmp_path / "mercure.json"))


def test_a_data_folder_that_cannot_be_made_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file is in the way")
    with pytest.raises(SpoolError, match="cannot make the folder"):
        platform(tmp_path)


class Changes:
    """A platform that does not run; what its services are told is kept."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **sections: Any) -> None:
        self.tmp_path = tmp_path
        self.platform, self.path = platform(tmp_path, **sections)
        self.told: dict[str, Any] = {}
        for name in SERVICES:
            monkeypatch.setattr(self.platform.service(name), "configure", self._keep(name))

    def _keep(self, name: str) -> Callable[[Any], None]:
        return lambda settings: self.told.__setitem__(name, settings)

    def write(self, **sections: Any) -> None:
        write(self.path, self.tmp_path, **sections)
        self.platform.poll_config()
        self.platform.poll_config()


def test_a_changed_configuration_is_taken_by_every_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = Changes(tmp_path, monkeypatch)
    changes.platform.poll_config()
    assert changes.told == {}
    changes.write(receiver={"port": 4242}, targets={"pacs": PACS}, mercure={"series_complete_trigger": 3})
    assert [*changes.told][:3] == ["dispatcher", "processor", "router"], "each before those that give it jobs"
    receiver, router, processor, dispatcher = (changes.told[name] for name in SERVICES)
    assert isinstance(receiver, ReceiverSettings)
    assert receiver.port == 4242
    assert isinstance(router, RouterSettings)
    assert router.completion.trigger_seconds == 3.0
    assert isinstance(processor, ProcessorSettings)
    assert processor.targets == {"pacs"}
    assert isinstance(dispatcher, DispatcherSettings)
    assert dispatcher.targets.keys() == {"pacs"}
    assert events(tmp_path) == [EventKind.CONFIG_LOADED] * 2


@pytest.mark.requirement("S3")
@pytest.mark.parametrize("bad", ["{", '{"mercure": {"no_such_key": 1}}', '{"receiver": {"port": "many"}}'])
def test_a_bad_configuration_keeps_the_last_good_one_and_says_so_once_and_loudly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, bad: str
) -> None:
    changes = Changes(tmp_path, monkeypatch)
    changes.path.write_text(bad)
    for _ in range(4):
        changes.platform.poll_config()
    assert changes.told == {}
    assert caplog.text.count("is NOT used, the last good one goes on") == 1
    assert events(tmp_path).count(EventKind.CONFIG_REJECTED) == 1
    changes.write(receiver={"port": 4242})
    assert changes.told["receiver"].port == 4242
    changes.path.unlink()
    changes.platform.poll_config()
    assert events(tmp_path).count(EventKind.CONFIG_REJECTED) == 2
    assert caplog.text.count("is NOT used") == 2


def test_a_bad_configuration_that_is_put_back_as_it_was_is_said_to_be_good_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    running, path = platform(tmp_path)
    good = path.read_text()
    path.write_text("{")
    running.poll_config()
    path.write_text(good)
    with caplog.at_level(logging.INFO):
        caplog.clear()
        for _ in range(3):
            running.poll_config()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert said[0].startswith("the configuration file is good again")
    running.events.close()
    assert events(tmp_path)[-2:] == [EventKind.CONFIG_REJECTED, EventKind.CONFIG_LOADED]


def test_a_broken_rule_is_logged_and_the_rest_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    platform(tmp_path, rules=[{"name": "bad", "condition": "(", "target": "nowhere"}])
    assert "rule" in caplog.text
    assert events(tmp_path) == [EventKind.CONFIG_LOADED]


def test_data_folders_that_cannot_be_used_change_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    changes = Changes(tmp_path, monkeypatch)
    (tmp_path / "file").touch()
    layout = changes.platform.layout
    changes.write(mercure={"data_folder": str(tmp_path / "file" / "data"), "series_complete_trigger": 3})
    assert "the old ones go on" in caplog.text
    assert changes.platform.layout == layout
    assert changes.told["receiver"].worker.layout == layout
    assert changes.told["router"].completion.trigger_seconds == 3.0


def test_services_alone_have_a_journal_of_their_own(tmp_path: Path) -> None:
    for names in (("router",), ("dispatcher", "receiver"), SERVICES):
        platform(tmp_path, names)[0].events.close()
    files = sorted(path.name for path in (tmp_path / "data" / "jobs" / "journal").iterdir())
    assert len(files) == 3
    assert any("dispatcher-receiver" in name for name in files)


def test_a_platform_runs_and_ends_in_order(tmp_path: Path) -> None:
    receiver = {"host": "127.0.0.1", "port": free_port(), "workers": 1}
    running, _ = platform(tmp_path, receiver=receiver)
    thread = threading.Thread(target=running.run)
    thread.start()
    assert running.service("receiver").listening.wait(30)
    running.stop()
    thread.join(30)
    assert not thread.is_alive()
    kinds = events(tmp_path)
    assert kinds.count(EventKind.SERVICE_STARTED) == kinds.count(EventKind.SERVICE_STOPPED) == len(SERVICES)


def test_signals_end_a_platform(tmp_path: Path) -> None:
    running, _ = platform(tmp_path, ("router",))
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        running.stop_on_signals()
        signal.raise_signal(signal.SIGTERM)
        wait_until(running._stop.is_set, "it is told to stop")
        running.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
