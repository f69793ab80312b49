"""One job: a folder of instances in, a folder of de-identified instances out. All of them, or none."""

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from mercure_anonymizer import __version__
from mercure_anonymizer.errors import AnonymizerError, InstanceError, SettingsError
from mercure_anonymizer.instance import Written, deidentify_file, quiet_pydicom
from mercure_anonymizer.regular_files import NotRegularError, open_regular
from mercure_anonymizer.report import Tally, tag_name
from mercure_anonymizer.settings import Settings, read_settings

_LARGEST_TASK_BYTES = 16 << 20
_RESULT = "result.json"
_TASK = "task.json"
_PREFIX, _PREFIX_AT = b"DICM", 128


def run_job(input_folder: str, output_folder: str, environment: Mapping[str, str]) -> list[str]:
    """De-identify all instances of a folder; return lines for the log.

    Instances are written below a dot name and get their names when all are done, `result.json` last. Raises
    `AnonymizerError` when the job is refused, and `OSError`; then nothing is left in the output folder.
    """
    settings = read_settings(_read_task(os.path.join(input_folder, _TASK)), environment)
    names = _instances(input_folder, output_folder)
    staging = tempfile.mkdtemp(prefix=".anonymizer-", dir=output_folder)
    published: list[str] = []
    try:
        with quiet_pydicom():
            written = _deidentify_all(input_folder, names, staging, settings)
        files = {**_named(written), **_reports(written, staging, settings)}
        for staged, name in files.items():
            os.rename(os.path.join(staging, staged), os.path.join(output_folder, name))
            published.append(name)
    except BaseException:
        for name in published:
            os.unlink(os.path.join(output_folder, name))
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return _log_lines(settings, len(names), _by_series(written))


def _read_task(path: str) -> Any:
    try:
        with open_regular(path) as file:
            content = file.read(_LARGEST_TASK_BYTES + 1)
    except FileNotFoundError:
        return {}
    except NotRegularError:
        raise SettingsError("task.json is no regular file") from None
    try:
        if len(content) > _LARGEST_TASK_BYTES:
            raise SettingsError("task.json is too large")
        return json.loads(content)
    except (ValueError, RecursionError):
        raise SettingsError("task.json is no JSON") from None


def _instances(folder: str, output_folder: str) -> list[str]:
    """Return the paths below the folder of all instances: what is named so, in any case, and what is one by content.

    An output folder that is inside of the input is not looked into. Raises `InstanceError` for no instance, and for
    what is named as one and is no regular file.
    """
    found = []
    for path in _paths(folder, os.stat(output_folder)):
        name = os.path.basename(path)
        is_named_so = name.lower().endswith(".dcm") and not name.startswith(".")
        try:
            if path != _TASK and (is_named_so or _has_prefix(os.path.join(folder, path))):
                found.append(path)
        except NotRegularError:
            continue
        if is_named_so and not stat.S_ISREG(os.lstat(os.path.join(folder, path)).st_mode):
            raise InstanceError("there is something that is named as an instance, but is no regular file")
    if not found:
        raise InstanceError("there are no instances")
    return sorted(found)


def _paths(folder: str, unwanted: os.stat_result) -> Iterator[str]:
    """Give the path below the folder of all that is no folder, in sub-folders too. No link is followed."""
    pending = [""]
    while pending:
        inner = pending.pop()
        with os.scandir(os.path.join(folder, inner)) as entries:
            for entry in entries:
                path = os.path.join(inner, entry.name)
                if not entry.is_dir(follow_symlinks=False):
                    yield path
                elif not os.path.samestat(entry.stat(follow_symlinks=False), unwanted):
                    pending.append(path)


def _has_prefix(path: str) -> bool:
    with open_regular(path) as file:
        return file.read(_PREFIX_AT + len(_PREFIX))[_PREFIX_AT:] == _PREFIX


def _deidentify_all(folder: str, names: list[str], staging: str, settings: Settings) -> list[Written]:
    now = datetime.now().astimezone()
    written = []
    for number, name in enumerate(names):
        try:
            path, target = os.path.join(folder, name), os.path.join(staging, str(number))
            written.append(deidentify_file(path, target, settings, now))
        except AnonymizerError as error:
            # The name of the file is not repeated: whoever runs this by hand may have named it after the patient.
            raise type(error)(f"instance {number + 1} of {len(names)} by name: {error}") from None
    return written


def _named(written: list[Written]) -> dict[str, str]:
    """Return the final name by staged name. A second instance of the same UID gets a number."""
    names: dict[str, str] = {}
    counts: dict[tuple[str, str], int] = {}
    for number, one in enumerate(written):
        key = (one.series_uid, one.instance_uid)
        counts[key] = counts.get(key, 0) + 1
        again = f"#{counts[key]}" if counts[key] > 1 else ""
        names[str(number)] = f"{one.series_uid}#{one.instance_uid}{again}.dcm"
    return names


def _by_series(written: list[Written]) -> dict[str, Tally]:
    tallies: dict[str, Tally] = {}
    for one in written:
        tallies.setdefault(one.series_uid, Tally()).add(one.tally)
    return tallies


def _reports(written: list[Written], staging: str, settings: Settings) -> dict[str, str]:
    """Write a report for each series and the result to the staging folder; return final names, the result last."""
    tallies = _by_series(written)
    profile = {"preset": settings.preset, "options": sorted(settings.options)}
    names, series = {}, []
    for number, (uid, tally) in enumerate(tallies.items()):
        name = f"deidentification-{uid}.json"
        _write_json(
            os.path.join(staging, f"report-{number}"), {"series_instance_uid": uid, **profile, **tally.as_json()}
        )
        names[f"report-{number}"] = name
        series.append({"series_instance_uid": uid, "instances": tally.instances, "report": name})
    summary = {"version": __version__, **profile, "consistent_by": settings.linked, "series": series}
    _write_json(os.path.join(staging, "result"), {"anonymizer": summary})
    return {**names, "result": _RESULT}


def _write_json(path: str, value: object) -> None:
    with open(path, "x", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
        file.write("\n")


def _log_lines(settings: Settings, count: int, tallies: Mapping[str, Tally]) -> list[str]:
    lines = [f"{count} instances of {len(tallies)} series de-identified"]
    if settings.linked == "this job":
        lines.append("no secret is set: new UIDs and pseudonyms hold for this job only")
    if settings.print_assignment:
        lines += [f"{tag_name(tag)} {one.command}" for tag, one in sorted(settings.assignments.items())]
    return lines
