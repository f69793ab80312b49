"""Part 2: send a CT series from files, association included, against DCMTK's dcmsend in the same environment."""

from dataclasses import dataclass

from tests import peers

from bench import inputs
from bench.inputs import Load
from bench.mercure_send import send_series
from bench.receivers import Kind, orthanc, storescp
from bench.results import Goal, Report
from bench.size import Size
from bench.workplace import clean_folder


@dataclass(frozen=True)
class Case:
    """A target, and whether dcmsend goes to it with TCP_NODELAY or as shipped."""

    target: Kind
    tcp_nodelay: bool
    factor: float

    @property
    def client(self) -> str:
        """How dcmsend runs."""
        return "dcmsend, TCP_NODELAY" if self.tcp_nodelay else "dcmsend as shipped"


_CASES = (
    Case(storescp("storescp as shipped", tcp_nodelay=False), tcp_nodelay=False, factor=18),
    Case(storescp("storescp, TCP_NODELAY", tcp_nodelay=True), tcp_nodelay=True, factor=1.8),
    Case(orthanc("Orthanc as shipped", tcp_nodelay=False), tcp_nodelay=False, factor=8),
)
_ONE_INSTANCE_SHARE = 0.4


def measure(size: Size) -> Report:
    """All of part 2."""
    report = Report("send", "2. Send")
    series = inputs.ct(1, 20 if size.quick else 100)
    for load in (series, series.first(1)):
        for case in _CASES:
            if len(load.files) > 1 or case.target.name.startswith("storescp"):
                _compare(report, load, case, size)
    report.notes += [
        "dcmsend is a process per series, as the existing system runs it; its start belongs to its time.",
        "Mercure's time is that of the engine in a service that runs already, with a new association for each series.",
    ]
    return report


def _compare(report: Report, load: Load, case: Case, size: Size) -> None:
    theirs, ours = [], []
    for _ in range(size.runs):
        with clean_folder("send") as folder, case.target.start(folder) as target:
            sent = peers.dcmsend(target.port, *load.files, tcp_nodelay=case.tcp_nodelay)
            if sent.returncode != 0:
                raise RuntimeError(sent.output[-2000:])
            target.check(load)
        theirs.append(sent.seconds)
        if size.peers_only:
            continue
        with clean_folder("send") as folder, case.target.start(folder) as target:
            ours.append(send_series(load.files, target.port))
            target.check(load)
    count = len(load.files)
    base = f"{count} CT to {case.target.name}: "
    client = report.add(base + case.client, "s", theirs)
    if not ours:
        return
    mercure = report.add(base + "Mercure", "s", ours)
    if count > 1:
        report.goals.append(Goal("2", f"{base}{case.client} / Mercure", client.median / mercure.median, case.factor))
    else:
        share = mercure.median / client.median
        report.goals.append(Goal("2", f"{base}Mercure / {case.client}", share, _ONE_INSTANCE_SHARE, at_least=False))
