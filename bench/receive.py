"""Part 1: receive CT and MR instances, against DCMTK, Orthanc and the plain copy."""

from tests import peers

from bench import inputs, processes
from bench.inputs import Load
from bench.mercure_services import start_receiver
from bench.receivers import Kind, check_placed, limit, mercure, orthanc, storescp
from bench.results import Goal, Report
from bench.sender import Sent, send
from bench.size import Size
from bench.workplace import clean_folder

_NULL = limit("sender alone (bytes thrown away)", "--null")
_COPY = limit("copy")
_COPY_FSYNC = limit("copy, fsync", "--fsync")
_STORESCP = storescp("storescp, TCP_NODELAY", tcp_nodelay=True)
_STORESCP_FORK = storescp("storescp --fork, TCP_NODELAY", "--fork", tcp_nodelay=True)
_STORESCP_STOCK = storescp("storescp as shipped", tcp_nodelay=False)
_ORTHANC = orthanc("Orthanc, TCP_NODELAY", tcp_nodelay=True)
_MERCURE = mercure("Mercure, no fsync", fsync=False)
_MERCURE_FSYNC = mercure("Mercure", fsync=True)

_STOCK_SHARE = 0.25
"""Of the load, for DCMTK's senders as shipped, which are the bottleneck."""

_ORTHANC_SHARE = 0.25
"""Of the load; it takes ten times as long as the others, and slows down with what it holds."""


def measure(size: Size) -> Report:
    """All of part 1."""
    report = Report("receive", "1. Receive")
    for load in _loads(size):
        _with_nagle(report, load, size)
        _fast_sender(report, load, size)
        _durable(report, load, size)
    if not size.peers_only:
        _goals(report)
        _memory(report, size)
    report.notes += [
        "CT are 2,000 instances of 0.53 MB in 20 series, MR 4,000 of 0.13 MB in 20 series; with --quick a tenth.",
        "`copy` is `bench/native/limit.c`, the other receivers get the same files from `bench/native/sender.c`.",
        "DCMTK's senders as shipped send 60 instances to storescp and a quarter of all to Mercure.",
        "Orthanc gets a quarter of the instances, for its figure would only fall with more.",
        "Before each measurement memory is used and freed: no receiver pays a virtual machine's host for new pages.",
        "The sender's share says how many cores it used while it ran: it is not the bottleneck while it waits.",
    ]
    return report


def _loads(size: Size) -> list[Load]:
    """The instances of the requirement, or a tenth of them."""
    return [inputs.ct(4, 50), inputs.mr(4, 100)] if size.quick else [inputs.ct(), inputs.mr()]


def _kinds(size: Size, *kinds: Kind) -> list[Kind]:
    """The receivers to measure: ours is left out when only the peers are wanted."""
    return [kind for kind in kinds if not (size.peers_only and kind.name.startswith("Mercure"))]


def _with_nagle(report: Report, load: Load, size: Size) -> None:
    """1a: DCMTK's senders as shipped. 60 instances are enough for a receiver that takes 40 ms for each of them."""
    few, some = load.first(20 if size.quick else 60), load.part(1 if size.quick else _STOCK_SHARE)
    for client in (peers.dcmsend, peers.storescu):
        runs: dict[str, list[float]] = {}
        for _ in range(size.runs):
            for kind, part in ((_STORESCP_STOCK, few), (_MERCURE_FSYNC, some)):
                if size.peers_only and kind is _MERCURE_FSYNC:
                    continue
                folders = [series.files[0].parent for series in part.series] if part is some else part.files
                with clean_folder("receive") as folder, kind.start(folder) as receiver:
                    sent = client(receiver.port, *folders, tcp_nodelay=False)
                    if sent.returncode != 0:
                        raise RuntimeError(sent.output[-2000:])
                    receiver.check(part)
                runs.setdefault(kind.name, []).append(len(part.files) / sent.seconds)
        for name, values in runs.items():
            report.add(f"{load.name}, {client.__name__} as shipped: {name}", "instances/s", values)


def _fast_sender(report: Report, load: Load, size: Size) -> None:
    """1b: the sender that is not the bottleneck, no fsync on either side."""
    kinds = _kinds(size, _NULL, _COPY, _STORESCP, _STORESCP_FORK, _MERCURE)
    for associations in (1, 2, 4):
        # Without --fork, storescp serves one association after the other.
        chosen = [kind for kind in kinds if associations == 1 or kind is not _STORESCP]
        _compare(report, load, chosen, associations, size)


def _durable(report: Report, load: Load, size: Size) -> None:
    """1c: fsync before each acknowledgement, and Orthanc as it is."""
    for associations in (1, 4):
        _compare(report, load, _kinds(size, _COPY_FSYNC, _ORTHANC, _MERCURE_FSYNC), associations, size)


def _compare(report: Report, load: Load, kinds: list[Kind], associations: int, size: Size) -> None:
    """Send to each receiver in turn, `runs` times over, so that a slow minute of the machine hits all of them."""
    sent: dict[str, list[Sent]] = {kind.name: [] for kind in kinds}
    for run in range(size.runs):
        for kind in kinds:
            if kind is _NULL and run > 0:
                continue  # it is compared with nothing; it shows that the sender is not the bottleneck
            sent_to_it = load.part(_ORTHANC_SHARE) if kind is _ORTHANC else load
            with clean_folder("receive") as folder, kind.start(folder) as receiver:
                result = send(sent_to_it.files, receiver.port, protocol=kind.protocol, associations=associations)
                receiver.check(sent_to_it)
            sent[kind.name].append(result)
    for name, results in sent.items():
        what = _label(load.name, associations, name)
        report.add(what, "instances/s", [one.per_second for one in results])
        report.add(f"{what}: sender's share", "cores", [one.sender_share for one in results])


def _label(load: str, associations: int, receiver: str) -> str:
    return f"{load}, {associations} association{'s' if associations > 1 else ''}: {receiver}"


def _goals(report: Report) -> None:
    for load, factor in (("CT", 20), ("MR", 60)):
        for client in ("dcmsend", "storescu"):
            base = f"{load}, {client} as shipped: "
            _ratio(report, "1a", base + _MERCURE_FSYNC.name, base + _STORESCP_STOCK.name, factor)
        for associations in (1, 2, 4):
            ours = _label(load, associations, _MERCURE.name)
            _ratio(report, "1b", ours, _label(load, associations, _STORESCP_FORK.name), 1.2)
            _ratio(report, "1b", ours, _label(load, associations, _COPY.name), 0.75)
        for associations in (1, 4):
            ours = _label(load, associations, _MERCURE_FSYNC.name)
            _ratio(report, "1c", ours, _label(load, associations, _COPY_FSYNC.name), 0.8)
            _ratio(report, "1c", ours, _label(load, associations, _ORTHANC.name), 2)


def _ratio(report: Report, requirement: str, ours: str, theirs: str, at_least: float) -> None:
    value = report.median(ours) / report.median(theirs)
    report.goals.append(Goal(requirement, f"{ours} / {theirs.rpartition(': ')[2]}", value, at_least))


def _memory(report: Report, size: Size) -> None:
    """1d: the peak of the receiver's processes after one very large instance, against small ones."""
    large = inputs.multiframe(200 if size.quick else 2048)
    peaks = []
    for what, load in (("20 CT instances", inputs.ct(1, 20)), ("one multi-frame instance", large)):
        port = peers.free_port()
        with clean_folder("receive") as folder, start_receiver(folder / "data", port, fsync=True) as process:
            send(load.files, port)
            check_placed(folder / "data", load)
            peaks.append(processes.peak_resident_kb(process.pid) / 1024)
        report.add(f"largest peak of a receiver's process: {what} ({load.size_bytes / 1e6:,.0f} MB)", "MB", peaks[-1:])
    report.goals.append(
        Goal("1d", "peak memory, large instance / small ones", peaks[1] / peaks[0], 1.1, at_least=False)
    )
