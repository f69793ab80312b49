"""What the environment of the process says about the configuration."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mercure.config.problems import InvalidConfigError, Problem
from mercure.config.sections import ProcessorSection

DEFAULT_FOLDER: Final = "/opt/mercure/config"
FILE_NAME: Final = "mercure.json"
_UNSET: Final = ("", "false")
_YES: Final = ("1", "true", "yes", "on")
_BETWEEN_VOLUMES: Final = re.compile("[;:,]")


def config_path(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the configuration file: MERCURE_CONFIG_FILE, else mercure.json in MERCURE_CONFIG_FOLDER."""
    if named := environment.get("MERCURE_CONFIG_FILE"):
        return Path(named)
    return Path(environment.get("MERCURE_CONFIG_FOLDER") or DEFAULT_FOLDER) / FILE_NAME


def with_tls_of_environment(nested: dict[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the sections with TLS as MERCURE_TLS_* ask for it, unless the file says anything about receiver.tls.

    As in existing installations, TLS then takes the port of the receiver, there is no port without TLS, and a sender
    must show a certificate when authorities are given.
    """
    receiver = nested.get("receiver", {})
    is_wanted = environment.get("MERCURE_TLS_ENABLED", "").strip().lower() in _YES
    if not is_wanted or not isinstance(receiver, dict) or "tls" in receiver:
        return nested
    key, cert = environment.get("MERCURE_TLS_KEY"), environment.get("MERCURE_TLS_CERT")
    if not key or not cert:
        raise InvalidConfigError([Problem("", "MERCURE_TLS_ENABLED needs MERCURE_TLS_KEY and MERCURE_TLS_CERT")])
    authority = environment.get("MERCURE_TLS_CA_CERT") or None
    tls = {
        "port": receiver.get("port", 11112),
        "key": key,
        "cert": cert,
        "ca_cert": authority,
        "require_client_certificate": authority is not None,
    }
    return nested | {"receiver": receiver | {"port": None, "tls": tls}}


def with_volumes_of_environment(nested: dict[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the sections with the folders of MERCURE_PROCESSOR_EXTRA_VOLUMES among the allowed roots of volumes.

    Several are separated by semicolons, as in existing installations, or by colons or commas. Empty or "false" says
    nothing, as there.
    """
    named = environment.get("MERCURE_PROCESSOR_EXTRA_VOLUMES", "").strip()
    processor = nested.get("processor", {})
    if named.lower() in _UNSET or not isinstance(processor, dict):
        return nested
    extra = [path.strip() for path in _BETWEEN_VOLUMES.split(named) if path.strip()]
    if not all(os.path.isabs(path) for path in extra):
        raise InvalidConfigError([Problem("", "MERCURE_PROCESSOR_EXTRA_VOLUMES must name absolute paths")])
    roots = processor.get("allowed_volume_roots", [str(root) for root in ProcessorSection().allowed_volume_roots])
    if not isinstance(roots, list):
        return nested
    return nested | {"processor": processor | {"allowed_volume_roots": [*roots, *extra]}}
