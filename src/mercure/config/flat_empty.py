"""What empty values of the flat form stand for.

Existing files hold them, and worked: an empty value said "none" there, or no more than a missing key. An empty folder
of a stage is none of these: it was the folder in which the service happened to run, and is a fault.
"""

from typing import Any, Final

PORT: Final = 11112
PERSISTENCE_FOLDER: Final = "/opt/mercure/persistence"

_STANDS_FOR: Final[dict[tuple[str, str], Any]] = {
    ("mercure", "appliance_color"): "#FFF",
    ("mercure", "jobs_folder"): None,
    ("mercure", "persistence_folder"): PERSISTENCE_FOLDER,
    ("mercure", "server_time"): "UTC",
    ("mercure", "local_time"): "UTC",
    ("receiver", "port"): PORT,
    ("processor", "support_root_modules"): False,
    ("bookkeeper", "address"): None,
    ("bookkeeper", "api_key"): None,
    ("metrics", "influxdb_token"): None,
    ("notifications", "webhook_ca_file"): None,
    ("notifications", "include_patient_data"): False,
    ("logs", "module_logs_folder"): None,
}
_IN_ENTRIES: Final[dict[str, dict[str, tuple[str | None, ...]]]] = {
    "targets": {"aet_source": ("",), "contact": (None,)},
    "rules": {"notification_email_type": ("",)},
    "modules": dict.fromkeys(("additional_volumes", "environment", "docker_arguments"), (None, "", "false"))
    | dict.fromkeys(("docker_tag", "contact", "comment", "constraints", "resources", "requires_root"), (None,)),
}
"""With which values a key of an entry is as good as missing. `network_enabled` is not here: null must not open it."""


def filled(place: tuple[str, str], value: Any) -> Any:
    """Return what the value of a key outside of entries stands for. `place` is section and key in our form."""
    return _STANDS_FOR[place] if place in _STANDS_FOR and value in ("", None) else value


def says_nothing(collection: str, key: str, value: Any) -> bool:
    """Whether a key of a target, rule or module is as good as missing. Text counts in any case."""
    plain = value.strip().lower() if isinstance(value, str) else value
    return plain in _IN_ENTRIES[collection].get(key, ())
