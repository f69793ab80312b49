"""The look-up table: a CSV file of patient id, pseudonym and, where wanted, the shift of dates in days."""

import csv
import re
from dataclasses import dataclass

from mercure_anonymizer.errors import SettingsError
from mercure_anonymizer.regular_files import open_regular

_LARGEST_BYTES = 64 << 20
_PSEUDONYM = re.compile(r"[A-Za-z0-9 ._+-]{1,64}")
_LARGEST_SHIFT = 36_500
_COLUMNS = {"patient_id", "pseudonym", "date_shift_days"}


@dataclass(frozen=True, slots=True)
class Entry:
    """The new identity of one patient."""

    pseudonym: str
    shift_days: int | None = None


def read_lookup(path: str) -> dict[str, Entry]:
    """Read a look-up table; patient ids without surrounding blanks are the keys.

    The first line names the columns: patient_id, pseudonym and, optionally, date_shift_days. Raises `SettingsError`,
    which names lines by number only, when the file is no regular file, is too large, or cannot be trusted: two
    patients with one pseudonym, one patient with two.
    """
    lines = _read(path).splitlines()
    reader = csv.DictReader(lines)
    if not {"patient_id", "pseudonym"} <= set(reader.fieldnames or ()) or set(reader.fieldnames or ()) - _COLUMNS:
        raise SettingsError("the look-up table must have the columns patient_id, pseudonym and date_shift_days")
    entries: dict[str, Entry] = {}
    taken: dict[str, str] = {}
    for number, line in enumerate(reader, start=2):
        patient, entry = _entry(line, number)
        if entries.setdefault(patient, entry) != entry or taken.setdefault(entry.pseudonym, patient) != patient:
            raise SettingsError(f"look-up table, line {number}: the patient or the pseudonym stands there already")
    return entries


def _entry(line: dict[str, str | None], number: int) -> tuple[str, Entry]:
    patient, pseudonym = (line["patient_id"] or "").strip(), (line["pseudonym"] or "").strip()
    shift = (line.get("date_shift_days") or "").strip()
    if not patient or not _PSEUDONYM.fullmatch(pseudonym):
        raise SettingsError(f"look-up table, line {number}: no patient id, or a pseudonym that cannot be used")
    if not shift:
        return patient, Entry(pseudonym)
    if not re.fullmatch(r"[+-]?[0-9]{1,5}", shift) or abs(int(shift)) > _LARGEST_SHIFT:
        raise SettingsError(f"look-up table, line {number}: date_shift_days is no number of days")
    return patient, Entry(pseudonym, int(shift))


def _read(path: str) -> str:
    try:
        with open_regular(path) as file:
            content = file.read(_LARGEST_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"the look-up table cannot be read ({type(error).__name__})") from None
    if len(content) > _LARGEST_BYTES:
        raise SettingsError("the look-up table is too large")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SettingsError("the look-up table is not UTF-8") from None
