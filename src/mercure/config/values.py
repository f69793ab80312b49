"""The kinds of value a configuration holds: durations, ports, AE titles, folders, hours, zones, networks.

Each is a plain Python type with the checks that its meaning asks for. No message repeats the value: it may be a secret.
A check raises ValueError also where the type is wrong, because that is what pydantic collects.
"""

import ipaddress
import re
import zoneinfo
from datetime import time
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from mercure.config import json_text

_AE_TITLE = re.compile(r"[ -\[\]-~]{1,16}")  # PS3.5 6.2, VR AE: the default repertoire without backslash and controls
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252})|[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9._-]{1,15})?")
_HOUR = re.compile(r"(\d{1,2}):(\d{2})")
_NAME = re.compile(r"[^\s\x00-\x1f\x7f/\\.][^\x00-\x1f\x7f/\\]{0,127}")
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([KMGT]?)i?B?", re.IGNORECASE)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_LEAST_MEMORY = 6 << 20


class Frozen(BaseModel):
    """Base of every part of the configuration: cannot be changed, knows its keys, never prints what it was given."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        hide_input_in_errors=True,
        coerce_numbers_to_str=True,
        ser_json_inf_nan="constants",
    )


def key(default: Any, meaning: str, **constraints: Any) -> Any:
    """Return a key that may be left out. `meaning` is what the reference and the JSON schema say about it."""
    return Field(default=default, description=meaning, **constraints)


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")  # noqa: TRY004
    return value


def _ae_title(value: str) -> str:
    title = value.strip(" ")
    if not _AE_TITLE.fullmatch(title):
        raise ValueError("must be an AE title: 1 to 16 printable ASCII characters, no backslash (PS3.5 6.2)")
    return title


def _ae_title_or_empty(value: str) -> str:
    return _ae_title(value) if value.strip(" ") else ""


def _host(value: str) -> str:
    if not _HOST.fullmatch(value):
        raise ValueError("must be a host name or an IP address, without port and path")
    return value


def _host_or_empty(value: str) -> str:
    return _host(value) if value else value


def _entry_name(value: str) -> str:
    if not _NAME.fullmatch(value) or value != value.strip():
        raise ValueError("must be 1 to 128 printable characters without / and \\, and not start with a full stop")
    return value


def _entry_name_or_empty(value: str) -> str:
    return _entry_name(value) if value else value


def _label(value: str) -> str:
    if not value.strip() or value != value.strip() or len(value) > 128 or not value.isprintable():
        raise ValueError("must be 1 to 128 printable characters that neither start nor end with a space")
    return value


def _absolute(value: Path) -> Path:
    if not value.is_absolute():
        raise ValueError("must be an absolute path")
    return value


def _time_of_day(value: Any) -> time:
    if isinstance(value, time):
        return value
    found = _HOUR.fullmatch(value.strip()) if isinstance(value, str) else None
    if not found or int(found[1]) > 23 or int(found[2]) > 59:
        raise ValueError("must be a time of day as HH:MM, from 00:00 to 23:59")
    return time(int(found[1]), int(found[2]))


def _zone(value: str) -> str:
    if value == "UTC":
        return value
    try:
        zoneinfo.ZoneInfo(value)
    except (OSError, ValueError, zoneinfo.ZoneInfoNotFoundError):
        raise ValueError("must be a time zone of the IANA data base, such as Europe/Berlin") from None
    return value


def _network(value: Any) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return value
    if not isinstance(value, str):
        raise ValueError("must be a network as text, such as 10.1.0.0/16")  # noqa: TRY004
    try:
        return ipaddress.ip_network(value.strip())
    except ValueError as error:
        reason = "has host bits set" if "host bits" in str(error) else "must be a network such as 10.1.0.0/16"
        raise ValueError(reason) from None


def _ip_address(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise ValueError("must be an IP address") from None


def _memory_size(value: str) -> str:
    bytes_of(value)
    return value.strip()


def _in_order(value: Any) -> Any:
    """One text stands for a list of one, an empty one for none."""
    if isinstance(value, str):
        return (value,) if value.strip() else ()
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise ValueError("must be text or a list of texts")
    return tuple(item for item in value if item.strip())


def bytes_of(size: str) -> int:
    """Return the bytes of a memory size, in powers of 1024 as Docker counts them: 512M, 1.5G, 4GiB."""
    found = _SIZE.fullmatch(size.strip())
    if found is None:
        raise ValueError("must be a size such as 512M or 4G")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def _run_memory(value: str) -> str:
    if 0 < bytes_of(value) < _LEAST_MEMORY:
        raise ValueError("must be at least 6M, which no container can do without; 0: no limit")
    return value


def _several(value: Any) -> Any:
    """What stands there twice counts once."""
    return tuple(dict.fromkeys(_in_order(value)))


def _comma_separated(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return () if value is None else value


def json_object(value: Any) -> Any:
    """Return an object, be it one or text that holds one as JSON (existing files have both)."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return {}
    try:
        found = json_text.read(value).value
    except json_text.JsonTextError:
        found = None
    if not isinstance(found, dict):
        raise ValueError("must be an object, or text that holds a JSON object")  # noqa: TRY004
    return found


def _tag_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]{0,63}|[0-9A-Fa-f]{4},[0-9A-Fa-f]{4}", value):
        raise ValueError("must be a DICOM keyword, or a tag as gggg,eeee")
    return value


Seconds = Annotated[float, Field(ge=0, le=1e9), BeforeValidator(_number)]
Interval = Annotated[float, Field(ge=0.01, le=1e6), BeforeValidator(_number)]
Days = Annotated[float, Field(ge=0, le=36525), BeforeValidator(_number)]
Gigabytes = Annotated[float, Field(ge=0, le=1e9), BeforeValidator(_number)]
Percentage = Annotated[float, Field(ge=0, le=100), BeforeValidator(_number)]
Cores = Annotated[float, Field(gt=0, le=4096), BeforeValidator(_number)]
Count = Annotated[int, Field(ge=1, le=1_000_000), BeforeValidator(_number)]
CountOrZero = Annotated[int, Field(ge=0, le=1_000_000), BeforeValidator(_number)]
PduSize = Annotated[int, Field(ge=4096, le=16 * 1024 * 1024), BeforeValidator(_number)]
Port = Annotated[int, Field(ge=1, le=65535), BeforeValidator(_number)]
AETitle = Annotated[str, AfterValidator(_ae_title)]
AETitleOrEmpty = Annotated[str, AfterValidator(_ae_title_or_empty)]
Host = Annotated[str, AfterValidator(_host)]
HostOrEmpty = Annotated[str, AfterValidator(_host_or_empty)]
IPAddress = Annotated[str, AfterValidator(_ip_address)]
EntryName = Annotated[str, AfterValidator(_entry_name)]
EntryNameOrEmpty = Annotated[str, AfterValidator(_entry_name_or_empty)]
Label = Annotated[str, AfterValidator(_label)]
Folder = Annotated[Path, AfterValidator(_absolute)]
FilePath = Annotated[Path, AfterValidator(_absolute)]
TimeOfDay = Annotated[
    time,
    BeforeValidator(_time_of_day, json_schema_input_type=str),
    PlainSerializer(lambda value: value.strftime("%H:%M"), return_type=str),
]
Zone = Annotated[str, AfterValidator(_zone)]
Network = Annotated[
    ipaddress.IPv4Network | ipaddress.IPv6Network,
    BeforeValidator(_network, json_schema_input_type=str),
    PlainSerializer(str, return_type=str),
]
MemorySize = Annotated[str, AfterValidator(_memory_size)]
RunMemory = Annotated[MemorySize, AfterValidator(_run_memory)]
Names = Annotated[tuple[str, ...], BeforeValidator(_several, json_schema_input_type=str | list[str])]
Chain = Annotated[tuple[str, ...], BeforeValidator(_in_order, json_schema_input_type=str | list[str])]
Globs = Annotated[tuple[str, ...], BeforeValidator(_comma_separated, json_schema_input_type=str | list[str] | None)]
JsonObject = Annotated[dict[str, Any], BeforeValidator(json_object, json_schema_input_type=dict[str, Any] | str)]
TagName = Annotated[str, AfterValidator(_tag_name)]
