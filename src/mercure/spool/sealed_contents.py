"""What a sealed reception holds: its instances, and who sent which series to whom."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mercure.core.task import Job
from mercure.spool import layout as names
from mercure.spool.layout import Origin


@dataclass(frozen=True, slots=True)
class Contents:
    """What a sealed reception holds. `kinds` above 1: instances of several kinds, see `Reception.note_kind`."""

    study_uid: str
    series_uid: str
    origin: Origin
    instances: tuple[str, ...]
    kinds: int
    problem: str = ""
    """Why origin and study are not known, when `reception.json` is damaged: no rule may be asked then."""


def read_contents(received: Path, earlier_job: Callable[[], Job | None]) -> Contents | None:
    """Return what was sealed, or None when there is no such folder. Raises `OSError` when it cannot be read just now.

    Where `reception.json` does not say where the series came from, the job that it was before may know.
    """
    try:
        entries = os.listdir(received)
    except FileNotFoundError:
        return None
    instances = tuple(names.in_order(name for name in entries if name.endswith(".dcm")))
    kinds = sum(name.startswith(names.KIND_PREFIX) for name in entries)
    try:
        with open(received / names.RECEPTION_FILE, encoding="utf-8") as file:
            data = json.load(file)
        origin = Origin(data["sender_aet"], data["receiver_aet"], data["sender_address"])
        return Contents(data["study_uid"], data["series_uid"], origin, instances, kinds)
    except FileNotFoundError:
        # Of an existing installation, or of a job whose task.json was lost: an operator wants it routed.
        problem = ""
    except (ValueError, KeyError, TypeError):
        problem = "reception.json is damaged: who sent the series, and to whom, is not known"
    earlier = earlier_job()
    if earlier and (known := earlier.series).calling_ae_title:
        origin = Origin(known.calling_ae_title, known.called_ae_title, known.peer_address)
        return Contents(known.study_uid, known.series_uid, origin, instances, kinds)
    series_uid = instances[0].partition("#")[0] if instances else ""
    return Contents("", series_uid, Origin("", "", ""), instances, kinds, problem)
