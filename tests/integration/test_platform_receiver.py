"""The receiver as it runs: real worker processes, real senders, limits, TLS, changes while it works, and deaths."""

import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests import peers
from tests.builders import small_series
from tests.certificates import Authority, Certificate
from tests.peers import free_port, wait_until
from tests.sender import associate_rq, called

from mercure.core.errors import SpoolError
from mercure.dicom import pdu
from mercure.dicom.worker_settings import TLSFiles, WorkerSettings, layout_folders
from mercure.services.receiver import Receiver, ReceiverSettings
from mercure.spool import sealing
from mercure.spool.layout import Layout

LOCAL_LIMIT, CONGESTION = (2, 3, 2), (2, 3, 1)
UNKNOWN_CALLER, UNKNOWN_CALLED = (1, 1, 3), (1, 1, 7)


class Running:
    """A receiver on a thread, and what its workers reported."""

    def __init__(self, layout: Layout, settings: ReceiverSettings) -> None:
        self.layout = layout
        self.settings = settings
        self.reports: list[dict[str, Any]] = []
        self.recovered: list[int] = []
        self.ends: list[tuple[str, ...]] = []
        self.receiver = Receiver(
            settings, on_association=self.reports.append, on_recovered=self.recovered.append, on_end=self._end
        )
        self.stop = threading.Event()
        self.failed: list[BaseException] = []
        self.thread = threading.Thread(target=self._run)

    def _end(self, *told: str) -> None:
        self.ends.append(told)

    def _run(self) -> None:
        try:
            self.receiver.run(self.stop)
        except BaseException as error:
            self.failed.append(error)

    @property
    def port(self) -> int:
        return self.receiver.ports[0]

    @property
    def pids(self) -> list[int]:
        return [worker.process.pid for worker in self.receiver._workers]

    def change(self, **values: Any) -> None:
        """Take other settings; those of the workers are named as they are there."""
        own = {key: values.pop(key) for key in list(values) if hasattr(self.settings, key)}
        self.settings = replace(self.settings, **own, worker=replace(self.settings.worker, **values))
        self.receiver.configure(self.settings)

    def open_associations(self) -> int:
        return sum(len(worker.connections) + len(worker.refused) for worker in self.receiver._workers)


@contextmanager
def receiving(
    tmp_path: Path, *, workers: int = 1, worker: dict[str, Any] | None = None, **values: Any
) -> Iterator[Running]:
    """A receiver on free ports of this machine."""
    layout = Layout.under(tmp_path / "data")
    layout.create()
    own = WorkerSettings(folders=layout_folders(layout), min_free_bytes=0, **(worker or {}))
    values.setdefault("port", free_port())
    running = Running(layout, ReceiverSettings(own, workers=workers, **{"host": "127.0.0.1", **values}))
    running.thread.start()
    try:
        assert running.receiver.listening.wait(30)
        yield running
    finally:
        running.stop.set()
        running.receiver.wake()
        running.thread.join(30)
    assert not running.thread.is_alive()
    assert running.failed == []


def answer(port: int, *, called_ae: str = "MERCURE", host: str = "127.0.0.1") -> tuple[int, ...] | str:
    """How an association request is answered: "accepted", or result, source and reason of the rejection."""
    with socket.create_connection((host, port), timeout=30) as connection:
        connection.sendall(associate_rq(called=called_ae))
        header = connection.recv(10, socket.MSG_WAITALL)
        return "accepted" if header[0] == pdu.PDUType.ASSOCIATE_AC else tuple(header[7:10])


def tls_files(own: Certificate, *, mutual: bool = False) -> TLSFiles:
    return TLSFiles(str(own.key), str(own.certificate), str(own.authority), mutual)


def dcmtk_tls(own: Certificate | None, authority: Path) -> list[str]:
    identity = ["+tls", str(own.key), str(own.certificate)] if own else ["+tla"]
    return [*identity, "+cf", str(authority)]


def received(running: Running) -> int:
    return len(list(running.layout.incoming.glob("*#*/*.dcm")))


def test_a_series_arrives_whole_over_several_workers(tmp_path: Path) -> None:
    series = small_series(tmp_path / "series", 20)
    with receiving(tmp_path, workers=2) as running:
        for _ in range(2):
            assert peers.dcmsend(running.port, *series.files).returncode == 0
        wait_until(lambda: len(running.reports) == 2, "both associations are reported")
        assert [report["stored"] for report in running.reports] == [20, 20]
        assert running.reports[1]["identical"] == 20
        assert received(running) == 20
        assert peers.echoscu(running.port).returncode == 0


def test_associations_beyond_the_limit_are_told_so_and_get_in_later(tmp_path: Path) -> None:
    with receiving(tmp_path, maximum_associations=2) as running:
        with called(running.port), called(running.port):
            assert answer(running.port) == LOCAL_LIMIT
        wait_until(lambda: running.open_associations() == 0, "both are over")
        assert answer(running.port) == "accepted"


def test_one_peer_cannot_take_all_places(tmp_path: Path) -> None:
    with receiving(tmp_path, maximum_associations=10, maximum_associations_per_peer=1) as running:
        with called(running.port):
            assert answer(running.port) == LOCAL_LIMIT
        wait_until(lambda: running.open_associations() == 0, "it is over")
        assert answer(running.port) == "accepted"


def test_many_connections_at_once_are_never_more_than_a_bounded_number(tmp_path: Path) -> None:
    with receiving(tmp_path, maximum_associations=1) as running:
        connections = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(80)]
        try:
            wait_until(lambda: running.open_associations() == 5, "one, and those that are told so")
            last = connections[-1]
            last.settimeout(30)
            assert last.recv(1) == b"", "the rest is closed"
        finally:
            for connection in connections:
                connection.close()
        wait_until(lambda: running.open_associations() == 0, "all are over")


def test_only_allowed_networks_and_ae_titles_get_in(tmp_path: Path) -> None:
    with receiving(tmp_path, worker={"called_ae_titles": ("OURS",)}) as running:
        assert answer(running.port, called_ae="OURS") == "accepted"
        assert answer(running.port, called_ae="THEIRS") == UNKNOWN_CALLED
        running.change(networks=(ipaddress.ip_network("198.51.100.0/24"),))
        wait_until(lambda: answer(running.port, called_ae="OURS") == UNKNOWN_CALLER, "the network is not allowed")
        running.change(networks=(ipaddress.ip_network("198.51.100.0/24"), ipaddress.ip_network("127.0.0.0/8")))
        wait_until(lambda: answer(running.port, called_ae="OURS") == "accepted", "now it is")
        running.change(calling_ae_titles=("NOBODY",))
        wait_until(lambda: answer(running.port, called_ae="OURS") == UNKNOWN_CALLER, "the caller is not allowed")


def test_who_was_rejected_and_why_is_told_for_each_cause(tmp_path: Path) -> None:
    def ended(running: Running, count: int) -> tuple[str, ...]:
        wait_until(lambda: len(running.ends) == count, f"{count} connections have ended")
        return running.ends[-1]

    who = ("SENDER", "THEIRS")
    with receiving(tmp_path, networks=(ipaddress.ip_network("198.51.100.0/24"),)) as running:
        assert answer(running.port, called_ae="THEIRS") == UNKNOWN_CALLER
        why = "rejected: its address is in none of receiver.networks (result 1, source 1, reason 3)"
        assert ended(running, 1) == ("127.0.0.1", why, *who)
    with receiving(tmp_path, worker={"calling_ae_titles": ("NOBODY",)}) as running:
        assert answer(running.port, called_ae="THEIRS") == UNKNOWN_CALLER
        why = "rejected: the calling AE title is not in receiver.calling_ae_titles (result 1, source 1, reason 3)"
        assert ended(running, 1) == ("127.0.0.1", why, *who)
    with receiving(tmp_path, maximum_associations_per_peer=1) as running, called(running.port):
        assert answer(running.port, called_ae="THEIRS") == LOCAL_LIMIT
        assert "receiver.maximum_associations_per_peer is reached" in ended(running, 1)[1]
    with receiving(tmp_path, maximum_associations=1) as running, called(running.port):
        assert answer(running.port, called_ae="THEIRS") == LOCAL_LIMIT
        assert "receiver.maximum_associations is reached" in ended(running, 1)[1]


def test_ipv6_and_ipv4_are_served_by_one_port_and_count_as_what_they_are(tmp_path: Path) -> None:
    with receiving(tmp_path, host="", networks=(ipaddress.ip_network("127.0.0.1/32"),)) as running:
        assert answer(running.port) == "accepted"
        assert answer(running.port, host="::1") == UNKNOWN_CALLER
        running.change(networks=(ipaddress.ip_network("::1/128"),))
        wait_until(lambda: answer(running.port, host="::1") == "accepted", "the IPv6 address is allowed")
        assert answer(running.port) == UNKNOWN_CALLER


def test_ipv6_alone(tmp_path: Path) -> None:
    with receiving(tmp_path, host="::1") as running:
        assert answer(running.port, host="::1") == "accepted"
        with pytest.raises(ConnectionRefusedError):
            answer(running.port)


def test_the_plain_port_and_the_tls_port_serve_at_the_same_time(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki")
    tls = tls_files(authority.issue("receiver"))
    series = small_series(tmp_path / "series", 4)
    with receiving(tmp_path, tls_port=free_port(), worker={"tls": tls}) as running:
        plain, secure = running.receiver.ports
        arguments = dcmtk_tls(None, authority.path)
        assert peers.dcmsend(plain, *series.files[:2]).returncode == 0
        assert peers.storescu(secure, *series.files[2:], extra_args=arguments).returncode == 0
        wait_until(lambda: received(running) == 4, "all are there")
        assert peers.echoscu(secure).returncode != 0, "no plain association on the TLS port"
        assert peers.echoscu(plain, extra_args=arguments).returncode != 0
        assert peers.echoscu(plain).returncode == 0


def test_mutual_tls_lets_in_only_whom_the_authority_signed(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path / "pki"), Authority(tmp_path / "other", "stranger")
    tls = tls_files(authority.issue("receiver"), mutual=True)
    with receiving(tmp_path, tls_port=free_port(), worker={"tls": tls}) as running:
        secure = running.receiver.ports[1]
        known, unknown = authority.issue("sender"), stranger.issue("sender")
        assert peers.echoscu(secure, extra_args=dcmtk_tls(known, authority.path)).returncode == 0
        assert peers.echoscu(secure, extra_args=dcmtk_tls(unknown, authority.path)).returncode != 0
        wait_until(lambda: any("handshake failed: certificate of the peer" in end[1] for end in running.ends), "why")
        assert peers.echoscu(secure, extra_args=dcmtk_tls(None, authority.path)).returncode != 0


def test_tls_files_that_cannot_be_used_leave_the_plain_port_and_the_old_files_at_work(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki")
    good = tls_files(authority.issue("receiver"))
    bad = replace(good, cert=str(tmp_path / "missing.pem"))
    with receiving(tmp_path, tls_port=free_port(), worker={"tls": good}) as running:
        plain, secure = running.receiver.ports
        before = running.pids
        running.change(tls=bad, called_ae_titles=("OURS",))
        wait_until(lambda: answer(plain) == UNKNOWN_CALLED, "the rest of the change is taken")
        arguments = [*dcmtk_tls(None, authority.path), "-aec", "OURS"]
        assert peers.echoscu(secure, extra_args=arguments).returncode == 0
        assert running.pids == before
    with receiving(tmp_path, tls_port=free_port(), worker={"tls": bad}) as running:
        assert peers.echoscu(running.receiver.ports[0]).returncode == 0
        assert peers.echoscu(running.receiver.ports[1], extra_args=dcmtk_tls(None, authority.path)).returncode != 0


def test_a_renewed_certificate_is_used_for_the_next_association(tmp_path: Path) -> None:
    old, new = Authority(tmp_path / "pki"), Authority(tmp_path / "new", "new")
    own = old.issue("receiver")
    with receiving(tmp_path, tls_port=free_port(), worker={"tls": tls_files(own)}) as running:
        secure = running.receiver.ports[1]
        pids = running.pids
        assert peers.echoscu(secure, extra_args=dcmtk_tls(None, old.path)).returncode == 0
        renewed = new.issue("receiver")
        shutil.copyfile(renewed.key, own.key)
        shutil.copyfile(renewed.certificate, own.certificate)
        assert peers.echoscu(secure, extra_args=dcmtk_tls(None, new.path)).returncode == 0
        assert peers.echoscu(secure, extra_args=dcmtk_tls(None, old.path)).returncode != 0
        assert running.pids == pids


def test_a_receiver_with_tls_only_and_without_its_files_says_so_and_takes_them_up_when_they_come(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    authority = Authority(tmp_path / "pki")
    own = authority.issue("receiver")
    aside = shutil.move(own.key, tmp_path / "aside")
    with receiving(tmp_path, workers=2, port=None, tls_port=free_port(), worker={"tls": tls_files(own)}) as running:
        (secure,) = running.receiver.ports
        said = f"NO TLS association can be accepted until this is mended: key {own.key}: No such file"
        wait_until(lambda: said in caplog.text, "it is said at the start")
        assert peers.echoscu(secure, extra_args=dcmtk_tls(None, authority.path)).returncode != 0
        assert caplog.text.count(said) == 1, "and not by each worker"
        shutil.move(aside, own.key)
        assert peers.echoscu(secure, extra_args=dcmtk_tls(None, authority.path)).returncode == 0
        wait_until(lambda: "TLS files can be used now" in caplog.text, "it is said")


def test_ports_change_while_associations_go_on(tmp_path: Path) -> None:
    with receiving(tmp_path) as running:
        old = running.port
        with called(old) as caller:
            running.change(port=free_port())
            wait_until(lambda: running.port != old, "the port has changed")
            assert answer(running.port) == "accepted"
            with pytest.raises(ConnectionRefusedError):
                answer(old)
            caller.release()


def test_a_port_that_is_taken_changes_nothing_and_is_said_loudly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with receiving(tmp_path) as running, socket.create_server(("127.0.0.1", 0)) as other:
        old = running.port
        running.change(port=other.getsockname()[1], called_ae_titles=("OURS",))
        wait_until(lambda: answer(old) == UNKNOWN_CALLED, "the rest of the change is taken")
        assert "stays where it is" in caplog.text
        assert running.receiver.ports == (old,)
        running.change(port=old)
        wait_until(lambda: answer(old, called_ae="OURS") == "accepted", "it goes on")


def test_the_address_changes_and_the_port_stays(tmp_path: Path) -> None:
    with receiving(tmp_path) as running:
        port = running.port
        running.change(host="")
        wait_until(lambda: _answers(port, "::1"), "it listens on all addresses")
        assert running.port == port
        assert answer(port) == "accepted"
        running.change(host="192.0.2.1")  # not an address of this machine
        wait_until(lambda: running.receiver._wanted.host == "192.0.2.1", "the change is seen")
        assert answer(port) == "accepted"


def _answers(port: int, host: str) -> bool:
    try:
        return answer(port, host=host) == "accepted"
    except ConnectionRefusedError:
        return False


def test_workers_can_become_more_and_fewer(tmp_path: Path) -> None:
    with receiving(tmp_path, workers=1) as running:
        running.change(workers=3)
        wait_until(lambda: len(running.pids) == 3, "there are three")
        with called(running.port) as caller:
            running.change(workers=1)
            wait_until(lambda: len(running.pids) <= 2, "those without an association end")
            caller.release()
        wait_until(lambda: len(running.pids) == 1, "there is one")
        assert answer(running.port) == "accepted"


def test_a_killed_worker_is_replaced_and_its_senders_see_the_end(tmp_path: Path) -> None:
    with receiving(tmp_path) as running:
        (pid,) = running.pids
        with called(running.port) as caller:
            os.kill(pid, signal.SIGKILL)
            assert caller.pdu()[0] == 0
        wait_until(lambda: running.pids and running.pids != [pid], "another worker is there")
        wait_until(lambda: _answers(running.port, "127.0.0.1"), "it serves")
        assert running.open_associations() <= 1


def test_a_stop_lets_open_associations_end_by_themselves(tmp_path: Path) -> None:
    with receiving(tmp_path) as running:
        with called(running.port) as caller:
            running.stop.set()
            running.receiver.wake()
            wait_until(lambda: not peers.listens(running.port), "nobody new gets in")
            caller.release()
        running.thread.join(10)
        assert not running.thread.is_alive()


def test_a_port_that_is_taken_at_the_start_is_a_clear_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        layout = Layout.under(tmp_path / "data")
        layout.create()
        port = other.getsockname()[1]
        settings = ReceiverSettings(WorkerSettings(folders=layout_folders(layout)), host="127.0.0.1", port=port)
        with pytest.raises(SpoolError, match=f"port {port} cannot be opened: Address already in use"):
            Receiver(settings).run(threading.Event())


def test_workers_end_with_a_receiver_that_is_killed(tmp_path: Path) -> None:
    layout = Layout.under(tmp_path / "data")
    layout.create()
    port = free_port()
    code = f"""
import threading
from pathlib import Path
from mercure.dicom.worker_settings import WorkerSettings, layout_folders
from mercure.services.receiver import Receiver, ReceiverSettings
from mercure.spool.layout import Layout
worker = WorkerSettings(folders=layout_folders(Layout.under(Path({str(tmp_path / "data")!r}))), min_free_bytes=0)
receiver = Receiver(ReceiverSettings(worker, host="127.0.0.1", port={port}, workers=2))
threading.Thread(target=receiver.run, args=(threading.Event(),)).start()
receiver.listening.wait(30)
print(*[worker.process.pid for worker in receiver._workers], flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert answer(port) == "accepted"
        parent.kill()
        parent.wait()
    wait_until(lambda: not any(_runs(pid) for pid in pids), "the workers have ended")


def _runs(pid: int) -> bool:
    try:
        return "mercure.dicom.worker" in Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_what_a_killed_worker_left_is_recovered_by_the_next(tmp_path: Path) -> None:
    series = small_series(tmp_path / "series", 1)
    with receiving(tmp_path) as running:
        (pid,) = running.pids
        wait_until(lambda: len(list(running.layout.drafts.iterdir())) == 1, "the worker has its folder of drafts")
        (drafts,) = running.layout.drafts.iterdir()
        content = series.files[0].read_bytes()
        (drafts / f"7#{len(content)}#SCANNER#MERCURE#192.0.2.7.dcm").write_bytes(content)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: received(running) == 1, "it is in its reception")
        wait_until(lambda: running.recovered == [1], "and that is said")


def test_a_data_folder_that_vanishes_and_comes_back_is_used_again(tmp_path: Path) -> None:
    series = small_series(tmp_path / "series", 2)
    with receiving(tmp_path) as running:
        assert peers.dcmsend(running.port, series.files[0]).returncode == 0
        aside = tmp_path / "aside"
        os.rename(running.layout.incoming, aside)
        assert answer(running.port) == CONGESTION
        running.layout.incoming.mkdir()
        assert peers.dcmsend(running.port, series.files[1]).returncode == 0
        assert received(running) == 1
        assert len(sealing.receptions(running.layout)) == 1
        os.rename(running.layout.incoming, tmp_path / "second")
        os.rename(aside, running.layout.incoming)
        assert answer(running.port) == "accepted"
        assert received(running) == 1


def test_a_worker_without_a_data_folder_waits_for_it(tmp_path: Path) -> None:
    with receiving(tmp_path) as running:
        (pid,) = running.pids
        os.rename(running.layout.incoming, tmp_path / "aside")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: running.pids and running.pids != [pid], "another worker is there")
        with socket.create_connection(("127.0.0.1", running.port), timeout=30) as connection:
            connection.sendall(associate_rq())
            assert connection.recv(10) == b""
        os.rename(tmp_path / "aside", running.layout.incoming)
        assert answer(running.port) == "accepted"
        assert len(running.pids) == 1


def test_connections_that_may_not_call_take_no_place_from_those_that_may(tmp_path: Path) -> None:
    with receiving(tmp_path, maximum_associations=3, networks=(ipaddress.ip_network("127.0.0.1/32"),)) as running:
        idle = []
        try:
            for _ in range(80):
                connection = socket.create_connection(
                    ("127.0.0.1", running.port), timeout=10, source_address=("127.0.0.2", 0)
                )
                idle.append(connection)
            assert answer(running.port, called_ae="OURS") == "accepted"
        finally:
            for connection in idle:
                connection.close()


def test_a_port_that_was_taken_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mercure.services.receiver._PORTS_AGAIN_SECONDS", 0.2)
    with receiving(tmp_path) as running, socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        running.change(port=taken)
        wait_until(lambda: answer(running.port, called_ae="OURS") == "accepted", "the receiver stays where it is")
        other.close()
        wait_until(lambda: running.receiver.ports == (taken,), "the receiver has moved")
        assert answer(taken, called_ae="OURS") == "accepted"
