"""The flat form of existing files, translated into ours. Only this file and `flat_empty` know its keys.

`translate` keeps everything that the flat form can say. Defaults that differ from ours are written out, so that an
installation behaves as before: `DEFAULTS`. Values are not checked here, only moved, renamed and converted in unit; the
schema checks them afterwards, and `Translation.origin` leads from its findings back to the keys of the file.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from mercure.config.flat_empty import PERSISTENCE_FOLDER, PORT, filled, says_nothing
from mercure.config.json_text import JsonPath
from mercure.config.problems import path_text, unknown_key

Place = tuple[str, str]
"""Section and key in our form."""

_SECONDS_PER_DAY: Final = 86400

_TOP: Final[dict[str, Place]] = {
    "appliance_name": ("mercure", "appliance_name"),
    "appliance_color": ("mercure", "appliance_color"),
    "incoming_folder": ("mercure", "incoming_folder"),
    "studies_folder": ("mercure", "studies_folder"),
    "outgoing_folder": ("mercure", "outgoing_folder"),
    "success_folder": ("mercure", "success_folder"),
    "error_folder": ("mercure", "error_folder"),
    "discard_folder": ("mercure", "discard_folder"),
    "processing_folder": ("mercure", "processing_folder"),
    "jobs_folder": ("mercure", "jobs_folder"),
    "persistence_folder": ("mercure", "persistence_folder"),
    "router_scan_interval": ("mercure", "router_scan_interval"),
    "dispatcher_scan_interval": ("mercure", "dispatcher_scan_interval"),
    "cleaner_scan_interval": ("mercure", "cleaner_scan_interval"),
    "retention": ("mercure", "retention_days"),
    "series_complete_trigger": ("mercure", "series_complete_trigger"),
    "study_complete_trigger": ("mercure", "study_complete_trigger"),
    "study_forcecomplete_trigger": ("mercure", "study_forcecomplete_trigger"),
    "offpeak_start": ("mercure", "offpeak_start"),
    "offpeak_end": ("mercure", "offpeak_end"),
    "server_time": ("mercure", "server_time"),
    "local_time": ("mercure", "local_time"),
    "port": ("receiver", "port"),
    "accept_compressed_images": ("receiver", "accept_compressed_images"),
    "retry_delay": ("dispatcher", "retry_delay"),
    "retry_max": ("dispatcher", "retry_max"),
    "emergency_clean_percentage": ("cleaner", "emergency_clean_percentage"),
    "process_runner": ("processor", "runner"),
    "processing_runtime": ("processor", "runtime"),
    "support_root_modules": ("processor", "support_root_modules"),
    "bookkeeper": ("bookkeeper", "address"),
    "bookkeeper_api_key": ("bookkeeper", "api_key"),
    "store_sample_dicom_tags": ("bookkeeper", "store_sample_dicom_tags"),
    "graphite_ip": ("metrics", "graphite_host"),
    "graphite_port": ("metrics", "graphite_port"),
    "influxdb_host": ("metrics", "influxdb_url"),
    "influxdb_token": ("metrics", "influxdb_token"),
    "influxdb_org": ("metrics", "influxdb_org"),
    "influxdb_bucket": ("metrics", "influxdb_bucket"),
    "email_notification_from": ("notifications", "email_from"),
    "webhook_certificate_location": ("notifications", "webhook_ca_file"),
    "phi_notifications": ("notifications", "include_patient_data"),
}
_GROUPS: Final[dict[str, dict[str, Place]]] = {
    "dicom_receiver": {"additional_tags": ("receiver", "additional_tags")},
    "features": {"dummy_target": ("features", "dummy_target")},
    "processing_logs": {
        "discard_logs": ("logs", "discard_module_logs"),
        "logs_file_store": ("logs", "module_logs_folder"),
    },
    "dicom_retrieve": {
        "dicom_nodes": ("query", "dicom_nodes"),
        "destination_folders": ("query", "destination_folders"),
    },
}
_ENTRIES: Final = ("targets", "rules", "modules")

_DICOM: Final = ("ip", "port", "aet_target", "aet_source", "pass_sender_aet", "pass_receiver_aet")
_TARGET_KEYS: Final[dict[str, tuple[str, ...]]] = {
    "dicom": _DICOM,
    "dicomtls": (*_DICOM, "tls_key", "tls_cert", "ca_cert"),
    "dicomweb": (
        "url", "qido_url_prefix", "wado_url_prefix", "stow_url_prefix", "access_token", "http_user", "http_password",
    ),
    "sftp": ("folder", "user", "host", "password", "file_filter"),
    "rsync": ("folder", "user", "host", "password", "run_on_complete", "file_filter"),
    "xnat": ("project_id", "host", "user", "password"),
    "s3": ("region", "bucket", "prefix", "access_key_id", "secret_access_key"),
    "folder": ("folder", "file_filter"),
    "dummy": (),
}  # fmt: skip
_NEVER: Final = "False"
_ONE_ATTEMPT: Final = "which means one attempt, as before"
_EVERY_TARGET: Final = ("target_type", "contact", "comment", "direction")
_TARGET_NAMES: Final = {
    "ip": "host",
    "aet_target": "called_ae_title",
    "aet_source": "calling_ae_title",
    "pass_sender_aet": "forward_calling_ae_title",
    "pass_receiver_aet": "forward_called_ae_title",
    "file_filter": "exclude",
}
_RULE_NAMES: Final = {"rule": "condition"}
_RULE_KEYS: Final = (
    "rule", "action", "action_trigger", "study_trigger_condition", "study_trigger_series",
    "study_force_completion_action", "target", "disabled", "fallback", "priority", "processing_module",
    "processing_settings", "processing_retain_images", "notification_webhook", "notification_payload",
    "notification_payload_body", "notification_email", "notification_email_body", "notification_email_type",
    "notification_trigger_reception", "notification_trigger_completion", "notification_trigger_completion_on_request",
    "notification_trigger_error", "dynamic_routing", "dynamic_routing_allowed_targets", "conditional_alternate_target",
    "contact", "comment", "tags",
)  # fmt: skip
_MODULE_KEYS: Final = (
    "docker_tag", "additional_volumes", "environment", "docker_arguments", "settings", "contact", "comment",
    "constraints", "resources", "requires_root", "requires_persistence", "persistence_folder_name", "network_enabled",
    "command", "runner", "timeout", "pull", "writes_input", "memory_limit", "cpu_limit", "pids_limit", "shm_size",
    "gpus", "gpu_memory_limit", "output_limit_gb", "max_parallel",
)  # fmt: skip
"""Those of existing files, and from command on those that are new: a flat file may have them as well."""
_RENAMED_IN_ENTRIES: Final = {"targets": _TARGET_NAMES, "rules": _RULE_NAMES, "modules": {}}

DEFAULTS: Final[dict[Place, Any]] = {
    ("mercure", "persistence_folder"): PERSISTENCE_FOLDER,
    ("mercure", "retention_days"): 3.0,
    ("dispatcher", "retry_delay"): 900,
    ("dispatcher", "retry_max"): 5,
    ("cleaner", "min_free_space_gb"): 0,
}
"""What holds in a flat file that says nothing, where our own default is another.

Besides: the delay between attempts stays constant (retry_max_delay is retry_delay), a rule without an expression never
holds, and a module has the network."""

_INTERVALS: Final = ("router_scan_interval", "dispatcher_scan_interval", "cleaner_scan_interval")
_SHORTEST: Final = 0.01
_OFFPEAK: Final = ("offpeak_start", "offpeak_end")
_MIDNIGHT: Final = "00:00"

OURS_BY_FLAT_NAME: Final = {
    name: ".".join(place)
    for group in (_TOP, *_GROUPS.values())
    for name, place in group.items()
    if name not in place or group is _TOP
}
"""Where a top-level key of the flat form stands in ours: for people who mix the two."""


def entry_names(collection: str) -> dict[str, str]:
    """Return how keys of targets, rules or modules that have another name in ours are called there."""
    return _RENAMED_IN_ENTRIES.get(collection, {})


def top_level_keys() -> list[str]:
    """Return every key that may stand at the top of the flat form."""
    return [*_TOP, *_GROUPS, *_ENTRIES]


def places() -> dict[str, str]:
    """Return every key of the flat form, and where it stands in ours."""
    found = {name: ".".join(place) for name, place in _TOP.items()}
    for group, members in _GROUPS.items():
        found |= {f"{group}.{name}": ".".join(place) for name, place in members.items()}
    target_keys = dict.fromkeys((*_EVERY_TARGET, *(name for keys in _TARGET_KEYS.values() for name in keys)))
    for prefix, keys, names in (
        ("targets.<name>", target_keys, _TARGET_NAMES),
        ("rules.<name>", _RULE_KEYS, _RULE_NAMES),
        ("modules.<name>", _MODULE_KEYS, {}),
    ):
        ours = prefix.replace("rules.<name>", "rules[]")
        found |= {f"{prefix}.{name}": f"{ours}.{names.get(name, name)}" for name in keys}
    return found


@dataclass
class Translation:
    """A flat file in our form, with the way back.

    `failures` and `notes`, which are no faults, hold paths in our form and messages; `left_over` the unknown keys of
    entries, by the path of the entry.
    """

    nested: dict[str, Any] = field(default_factory=dict)
    changes: list[str] = field(default_factory=list)
    notes: list[tuple[JsonPath, str]] = field(default_factory=list)
    failures: list[tuple[JsonPath, str]] = field(default_factory=list)
    origins: dict[JsonPath, JsonPath] = field(default_factory=dict)
    left_over: dict[JsonPath, dict[str, Any]] = field(default_factory=dict)

    def put(self, ours: Place, theirs: JsonPath, value: Any) -> None:
        """Set one value and remember where it came from."""
        section, name = ours
        self.nested.setdefault(section, {})[name] = value
        self.origins[ours] = theirs

    def origin(self, ours: JsonPath) -> JsonPath:
        """Return the path in the flat file of what stands at this path in ours."""
        for end in range(len(ours), 0, -1):
            theirs = self.origins.get(ours[:end])
            if theirs is not None:
                return theirs + _flat_names(ours[0], ours[end:])
        return ours


def translate(flat: dict[str, Any]) -> Translation:
    """Translate a whole file. Never raises: what does not fit is in `failures`, or is left for the schema to find."""
    made = Translation()
    for name, value in flat.items():
        if name in _TOP:
            _put_value(made, name, _TOP[name], value)
        elif name in _GROUPS:
            _put_group(made, name, value)
        elif name not in _ENTRIES:
            made.origins[(name,)] = (name,)
            made.failures.append(((name,), unknown_key(name, top_level_keys())))
    for name, put in (("targets", _put_targets), ("rules", _put_rules), ("modules", _put_modules)):
        if isinstance(flat.get(name), dict):
            put(made, flat[name])
        elif name in flat:
            made.failures.append(((name,), "must be an object"))
    _keep_whole_day(made, flat)
    _write_defaults(made)
    return made


def _put_value(made: Translation, name: str, ours: Place, value: Any) -> None:
    if name == "retention":
        value = _days(value)
        made.changes.append(f"retention (seconds) becomes {path_text(ours)} (days)")
    else:
        made.changes.append(f"{name} becomes {path_text(ours)}")
    if name in _INTERVALS and _is_zero(value):
        value = _SHORTEST
        made.changes.append(f"{name} is 0, which means without a pause: {path_text(ours)} becomes {_SHORTEST}")
    elif name == "retry_max" and _is_zero(value):
        value = 1
        made.changes.append(f"retry_max is 0, {_ONE_ATTEMPT}: {path_text(ours)} becomes 1")
        made.notes.append((ours, f"is 0, {_ONE_ATTEMPT}; our own form has 1 for that, and 0 for no end"))
    _put_filled(made, ours, (name,), value)


def _put_filled(made: Translation, ours: Place, theirs: JsonPath, value: Any) -> None:
    """Set a value, or what it stands for when it is empty."""
    meant = filled(ours, value)
    if meant != value:
        made.changes.append(f"{path_text(theirs)} is empty: {path_text(ours)} becomes {json.dumps(meant)}")
    made.put(ours, theirs, meant)


def _keep_whole_day(made: Translation, flat: dict[str, Any]) -> None:
    """Make the whole day off-peak when one of its hours is empty, as it was before: start and end are then equal."""
    empty = next((name for name in _OFFPEAK if flat.get(name) == ""), None)
    if empty is None:
        return
    for name in _OFFPEAK:
        made.put(_TOP[name], (name,), _MIDNIGHT)
    both = " and ".join(path_text(_TOP[name]) for name in _OFFPEAK)
    made.changes.append(f"{empty} is empty, which means the whole day: {both} become {_MIDNIGHT}")


def _is_zero(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and float(value) == 0
    except (TypeError, ValueError, OverflowError):
        return False


def _days(seconds: Any) -> Any:
    try:
        return float(seconds) / _SECONDS_PER_DAY if not isinstance(seconds, bool) else seconds
    except (TypeError, ValueError, OverflowError):
        return seconds


def _put_group(made: Translation, group: str, value: Any) -> None:
    if not isinstance(value, dict):
        made.origins[(group,)] = (group,)
        made.failures.append(((group,), "must be an object"))
        return
    known = _GROUPS[group]
    for name, item in value.items():
        if name in known:
            _put_filled(made, known[name], (group, name), item)
            if (group, name) != known[name]:
                made.changes.append(f"{group}.{name} becomes {path_text(known[name])}")
        else:
            made.failures.append(((group, name), unknown_key(name, known)))


def _put_targets(made: Translation, targets: dict[str, Any]) -> None:
    made.nested["targets"] = {}
    for name, value in targets.items():
        path = ("targets", name)
        made.nested["targets"][name] = value
        made.origins[path] = path
        if isinstance(value, dict):
            kind = value.get("target_type")
            own = _TARGET_KEYS.get(kind, ()) if isinstance(kind, str) else ()
            kept = dict(value)
            if own or kind == "dummy":
                if kind in ("dicom", "dicomtls") and value.get("port", 0) in (None, ""):
                    kept["port"] = PORT
                    made.changes.append(f"{path_text((*path, 'port'))} is empty: it becomes {PORT}, as it was before")
                made.nested["targets"][name] = _renamed(made, path, path, kept, (*_EVERY_TARGET, *own))


def _put_rules(made: Translation, rules: dict[str, Any]) -> None:
    made.nested["rules"] = []
    if rules:
        made.changes.append("rules: the object becomes a list in the same order; each name becomes the key name")
    for index, (name, value) in enumerate(rules.items()):
        path, theirs = ("rules", index), ("rules", name)
        made.origins[path] = made.origins[*path, "name"] = theirs
        entry = {"name": name}
        if isinstance(value, dict):
            entry |= {"condition": _NEVER} | _renamed(made, path, theirs, value, _RULE_KEYS)
            if isinstance(entry["condition"], str) and not entry["condition"].strip():
                entry["condition"] = _NEVER
                made.changes.append(f"{path_text(theirs)} has no expression: the condition becomes {_NEVER}")
        else:
            made.failures.append((path, "must be an object"))
        made.nested["rules"].append(entry)


def _put_modules(made: Translation, modules: dict[str, Any]) -> None:
    made.nested["modules"] = {}
    for name, value in modules.items():
        path = ("modules", name)
        made.nested["modules"][name] = value
        made.origins[path] = path
        if isinstance(value, dict):
            made.nested["modules"][name] = {"network_enabled": True} | _renamed(made, path, path, value, _MODULE_KEYS)


def _renamed(
    made: Translation, ours: JsonPath, theirs: JsonPath, entry: dict[str, Any], known: Iterable[str]
) -> dict[str, Any]:
    """Return an entry under our names. A key that the flat form does not know there is a failure of the entry."""
    names = _RENAMED_IN_ENTRIES[str(ours[0])]
    theirs_by_ours = {renamed: key for key, renamed in names.items() if key in known}
    result = {}
    for key, value in entry.items():
        if key not in known:
            made.origins[*ours, key] = (*theirs, key)
            made.failures.append(((*ours, key), unknown_key(key, known, theirs_by_ours)))
            made.left_over.setdefault(ours, {})[key] = value
            continue
        renamed = names.get(key, key)
        made.origins[*ours, renamed] = (*theirs, key)
        if says_nothing(str(ours[0]), key, value):
            continue
        result[renamed] = value
        if renamed != key:
            made.changes.append(f"{path_text((*theirs, key))} becomes {renamed}")
    return result


def _write_defaults(made: Translation) -> None:
    for (section, name), value in DEFAULTS.items():
        made.nested.setdefault(section, {}).setdefault(name, value)
    dispatcher = made.nested["dispatcher"]
    dispatcher["retry_max_delay"] = dispatcher["retry_delay"]
    made.origins["dispatcher", "retry_max_delay"] = ("retry_delay",)


def _flat_names(collection: str | int, tail: JsonPath) -> JsonPath:
    names = {ours: theirs for theirs, ours in _RENAMED_IN_ENTRIES.get(str(collection), {}).items()}
    return (names.get(str(tail[0]), tail[0]), *tail[1:]) if tail else tail
