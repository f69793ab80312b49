"""The identity of a data folder: by it, containers of one installation are told from those of another."""

import os
import re
import uuid

from mercure.core.errors import SpoolError
from mercure.spool.durable import fsync_folder, write_durably
from mercure.spool.layout import DATA_ID_FILE, Layout

_ID = re.compile(r"[0-9a-f]{32}")


def data_id(layout: Layout) -> str:
    """Return the id of this data folder, which is made when it is asked for first. Durable when it returns.

    Raises `SpoolError` when the folder cannot be used.
    """
    path = layout.jobs / DATA_ID_FILE
    try:
        if not path.exists():
            draft = layout.jobs / f".{DATA_ID_FILE}.{os.getpid()}"
            write_durably(draft, uuid.uuid4().hex.encode(), fsync_name=False)
            try:
                os.link(draft, path)  # of two that are made at the same time, one wins
            except FileExistsError:
                pass
            except OSError as error:
                message = f"{layout.jobs} takes no hard links ({error.strerror}), and nothing works without"
                raise SpoolError(message) from error
            finally:
                draft.unlink()
            fsync_folder(layout.jobs)
        found = path.read_text(encoding="ascii", errors="replace").strip()
    except OSError as error:
        raise SpoolError(f"the data folder cannot be used: {error.strerror}") from error
    if not _ID.fullmatch(found):
        raise SpoolError(f"{path.name} in the folder of the journal is damaged; remove it")
    return found
