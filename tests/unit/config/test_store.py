import json
import multiprocessing
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.unit.config.samples import FLAT, archive, good, route, text_of

from mercure.config.dump import dump
from mercure.config.problems import InvalidConfigError
from mercure.config.store import ConfigStore
from mercure.core.errors import ConfigError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "mercure.json"
    path.write_text(text_of(good()))
    return path


@pytest.fixture
def store(path: Path) -> ConfigStore:
    store = ConfigStore(path)
    store.load()
    return store


def _write(path: Path, value: Any) -> None:
    """Replace the file as an editor does that writes a new one, so that the signature surely changes."""
    draft = path.with_name("draft")
    draft.write_text(value if isinstance(value, str) else text_of(value))
    draft.rename(path)


def test_the_file_is_read_at_first_use(path: Path) -> None:
    store = ConfigStore(path)
    assert [rule.name for rule in store.current.config.rules] == ["ct"]
    assert store.current is store.current
    again = ConfigStore(path).poll()
    assert again is not None
    assert again.config == store.current.config


def test_a_first_file_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    store = ConfigStore(tmp_path / "mercure.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        store.load()
    with pytest.raises(ConfigError, match="cannot be read"):
        store.poll()
    (tmp_path / "mercure.json").write_text("{")
    with pytest.raises(ConfigError):
        _ = store.current


def test_at_the_start_entries_with_a_fault_are_set_aside(path: Path) -> None:
    _write(path, good(rules=[route(), route("bad", typo=1)]))
    loaded = ConfigStore(path).load()
    assert list(loaded.broken_rules) == ["bad"]


def test_a_good_new_file_becomes_current_once(store: ConfigStore, path: Path) -> None:
    assert store.poll() is None
    _write(path, good(mercure={"series_complete_trigger": 5}))
    loaded = store.poll()
    assert loaded is store.current
    assert loaded is not None
    assert loaded.config.mercure.series_complete_trigger == 5
    assert store.poll() is None
    assert store.poll() is None


def test_nothing_is_read_while_nothing_changes(store: ConfigStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.poll()
    looks: list[Any] = []
    real = os.stat

    def counted(*args: Any, **more: Any) -> os.stat_result:
        looks.append(args[0])
        return real(*args, **more)

    monkeypatch.setattr("builtins.open", lambda *_, **__: pytest.fail("the file was opened"))
    monkeypatch.setattr(os, "stat", counted)
    assert store.poll() is None
    assert looks == [path]


def test_a_touched_file_is_no_new_one(store: ConfigStore, path: Path) -> None:
    os.utime(path, (1, 1))
    before = store.current
    assert store.poll() is None
    assert store.current is before


@pytest.mark.requirement("S3")
@pytest.mark.parametrize(
    ("value", "words"),
    [
        (text_of(good())[:-20], "has no end"),
        ("", "is empty"),
        (good(receivr={}), "did you mean receiver"),
        (good(rules=[route(), route("bad", typo=1)]), r"rules\[1\].typo: unknown key"),
        (good(targets={"archive": archive(), "bad": {}}), r"targets\.bad\.target_type: is missing"),
        (good(rules=[route(condition="tags.Modality =")]), "column"),
    ],
)
def test_a_file_with_a_fault_keeps_the_last_good_one_and_is_told_once(
    store: ConfigStore, path: Path, value: Any, words: str
) -> None:
    before = store.current
    _write(path, value)
    assert store.poll() is None
    assert store.current is before
    rejected = store.rejected
    assert rejected is not None
    with pytest.raises(ConfigError, match=words):
        raise InvalidConfigError(rejected.problems)
    assert str(rejected.problems[0]) in str(rejected)
    assert rejected.at is not None
    assert rejected.at.timestamp() == int(path.stat().st_mtime)
    store.poll()
    os.utime(path, (5, 5))
    assert store.poll() is None
    assert store.rejected is rejected


def test_another_bad_file_is_told_anew_and_a_good_one_ends_it(store: ConfigStore, path: Path) -> None:
    _write(path, "{")
    store.poll()
    first = store.rejected
    _write(path, "[")
    store.poll()
    assert store.rejected is not None
    assert store.rejected is not first
    _write(path, good(mercure={"retention_days": 1}))
    assert store.poll() is not None
    assert store.rejected is None


def test_going_back_to_what_holds_ends_a_rejection(store: ConfigStore, path: Path) -> None:
    _write(path, "{")
    store.poll()
    _write(path, good())
    assert store.poll() is None
    assert store.rejected is None


def test_a_name_that_leads_nowhere_does_not_keep_a_file_out(store: ConfigStore, path: Path) -> None:
    _write(path, good(rules=[route(target="nowhere")]))
    loaded = store.poll()
    assert loaded is not None
    assert [problem.kind for problem in loaded.problems] == ["reference"]


def test_a_file_that_vanishes_is_told_once_and_taken_up_when_it_is_back(store: ConfigStore, path: Path) -> None:
    before = store.current
    path.rename(path.with_name("away"))
    assert store.poll() is None
    rejected = store.rejected
    assert rejected is not None
    assert "cannot be read" in str(rejected)
    assert store.poll() is None
    assert store.rejected is rejected
    assert store.current is before
    path.with_name("away").rename(path)
    assert store.poll() is None
    assert store.rejected is None


def test_an_edit_in_place_is_never_taken_half_written(store: ConfigStore, path: Path) -> None:
    text = text_of(good(mercure={"appliance_name": "after"}))
    before = store.current
    with path.open("w") as file:
        for start in range(0, len(text), 50):
            file.write(text[start : start + 50])
            file.flush()
            if start + 50 < len(text):
                assert store.poll() is None
                assert store.current is before
    loaded = store.poll() or store.poll()
    assert loaded is not None
    assert loaded.config.mercure.appliance_name == "after"


def test_a_change_that_leaves_time_and_size_as_they_were_is_seen_at_the_next_look(
    store: ConfigStore, path: Path
) -> None:
    """A write in the tick of the clock in which the file was read changes nothing that a stat could show."""
    old = path.read_text()
    new = old.replace("10.0.0.5", "10.0.0.6")
    path.write_text(new)
    found = path.stat()
    store._seen = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    store._is_confirmed = False
    loaded = store.poll()
    assert loaded is not None
    assert loaded.config.model_dump()["targets"]["archive"]["host"] == "10.0.0.6"


def test_a_saved_file_is_taken_up_and_its_revision_is_known(store: ConfigStore, path: Path) -> None:
    revision = store.save(good(mercure={"retention_days": 2}), store.current.revision)
    loaded = store.poll()
    assert loaded is not None
    assert loaded.revision == revision
    assert json.loads(path.read_text())["mercure"] == {"retention_days": 2}
    assert store.save(good(mercure={"retention_days": 2}), revision) == revision


def test_mode_of_a_saved_file_stays_and_a_new_one_is_private(store: ConfigStore, path: Path, tmp_path: Path) -> None:
    path.chmod(0o640)
    store.save(good(), store.current.revision)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    fresh = tmp_path / "new.json"
    ConfigStore(fresh).save(good(), "")
    assert stat.S_IMODE(fresh.stat().st_mode) == 0o600
    assert {entry.name for entry in tmp_path.iterdir() if "draft" in entry.name} == set()


@pytest.mark.requirement("S4")
def test_a_file_that_was_changed_in_between_is_not_overwritten(store: ConfigStore, path: Path) -> None:
    seen = store.current.revision
    store.save(good(mercure={"retention_days": 2}), seen)
    with pytest.raises(ConfigError, match="changed in between"):
        store.save(good(mercure={"retention_days": 3}), seen)
    assert json.loads(path.read_text())["mercure"] == {"retention_days": 2}
    with pytest.raises(ConfigError, match="changed in between"):
        store.save(good(), "")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (good(rules=[route(typo=1)]), "unknown key"),
        (good(receivr={}), "unknown key"),
        ({"mercure": {"retention_days": float("nan")}}, "as JSON"),
        ({"mercure": {"retention_days": {1, 2}}}, "as JSON"),
        (good(webgui={"auth_token_key": "********"}), "hidden secret"),
    ],
)
def test_nothing_with_a_fault_is_saved(store: ConfigStore, path: Path, value: Any, words: str) -> None:
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=words):
        store.save(value, store.current.revision)
    assert path.read_bytes() == before


def test_a_broken_file_can_be_mended_by_saving(store: ConfigStore, path: Path) -> None:
    _write(path, "{")
    store.poll()
    assert store.rejected is not None
    store.save(good(mercure={"retention_days": 2}), store.rejected.revision)
    assert store.poll() is not None


def test_secrets_survive_a_round_by_a_page_that_never_saw_them(path: Path) -> None:
    _write(path, FLAT)
    store = ConfigStore(path)
    edited = dump(store.current.config)
    edited["mercure"]["appliance_name"] = "renamed"
    store.save(edited, store.current.revision)
    again = ConfigStore(path).load()
    assert again.form == "nested"
    assert again.config.modules["segment"].environment["TOKEN"].reveal() == "module-Geheim"
    assert again.config.mercure.appliance_name == "renamed"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    store = ConfigStore(tmp_path / "missing" / "mercure.json")
    with pytest.raises(ConfigError, match="cannot be saved"):
        store.save(good(), "")
    (tmp_path / "mercure.json").mkdir()
    with pytest.raises(ConfigError, match="cannot be saved"):
        ConfigStore(tmp_path / "mercure.json").save(good(), "")


def test_a_failed_rename_leaves_the_file_and_no_draft(
    store: ConfigStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(ConfigError, match="busy"):
        store.save(good(mercure={"retention_days": 2}), store.current.revision)
    assert path.read_bytes() == before
    assert not path.with_name(".mercure.json.draft").exists()


def test_a_draft_of_a_dead_process_is_in_nobodys_way(store: ConfigStore, path: Path) -> None:
    path.with_name(".mercure.json.draft").write_text("half")
    store.save(good(mercure={"retention_days": 2}), store.current.revision)
    assert store.poll() is not None


def test_a_link_to_the_file_stays_a_link(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.json"
    link.symlink_to(path)
    store = ConfigStore(link)
    store.save(good(mercure={"retention_days": 2}), store.current.revision)
    assert link.is_symlink()
    assert json.loads(path.read_text())["mercure"] == {"retention_days": 2}
    assert store.poll() is not None


def _save_in_a_process(path: str, days: int, revision: str, start: Any, results: Any) -> None:
    start.wait(30)
    try:
        ConfigStore(Path(path)).save(good(mercure={"retention_days": days}), revision)
    except ConfigError as error:
        results.put((days, str(error)))
    else:
        results.put((days, ""))


@pytest.mark.requirement("S4")
def test_of_several_processes_that_save_at_once_one_wins(store: ConfigStore, path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(3), context.Queue()
    revision = store.current.revision
    workers = [
        context.Process(target=_save_in_a_process, args=(str(path), days, revision, start, results))
        for days in range(1, 4)
    ]
    for worker in workers:
        worker.start()
    answers = dict(results.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join(30)
    winners = [days for days, reason in answers.items() if not reason]
    assert len(winners) == 1
    assert all("changed in between" in reason for reason in answers.values() if reason)
    assert json.loads(path.read_text())["mercure"] == {"retention_days": winners[0]}


def test_of_several_threads_that_save_at_once_one_wins(store: ConfigStore) -> None:
    revision, failures = store.current.revision, []

    def save(days: int) -> None:
        try:
            store.save(good(mercure={"retention_days": days}), revision)
        except ConfigError:
            failures.append(days)

    threads = [threading.Thread(target=save, args=(days,)) for days in range(1, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(failures) == 4
