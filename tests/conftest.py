"""Fixtures for all tests: real peers, and an environment in which no setting of the developer's shell takes part."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from tests import peers

from mercure.spool.layout import Layout

# A shell lets what it starts in the background ignore SIGINT, nohup lets it ignore SIGHUP, and what the tests start
# would inherit that.
for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

# A busy machine is no bug, and CI asks the same questions each time; other runs look for new ones.
hypothesis.settings.register_profile(
    "mercure",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large],
)
hypothesis.settings.load_profile("mercure")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests choose their configuration; only the switch for long campaigns comes from outside."""
    for name in list(os.environ):
        if name.startswith("MERCURE_") and name not in {"MERCURE_TORTURE", "MERCURE_NO_INSTALL"}:
            monkeypatch.delenv(name)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A data folder with nothing in it."""
    made = Layout.under(tmp_path / "data")
    made.create()
    return made


@pytest.fixture
def free_port() -> int:
    """A TCP port that is free now."""
    return peers.free_port()


@pytest.fixture
def storescp(tmp_path: Path) -> Iterator[peers.Server]:
    """DCMTK's storescp with TCP_NODELAY, accepting every transfer syntax, keeping bytes as they came."""
    with peers.storescp(tmp_path / "storescp", extra_args=("+xa", "+B")) as server:
        yield server


@pytest.fixture(scope="session")
def _orthanc_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[peers.Orthanc]:
    with peers.orthanc(tmp_path_factory.mktemp("orthanc")) as server:
        yield server


@pytest.fixture
def orthanc(_orthanc_of_the_session: peers.Orthanc) -> peers.Orthanc:
    """A stock Orthanc without any instance in it."""
    _orthanc_of_the_session.clear()
    return _orthanc_of_the_session
