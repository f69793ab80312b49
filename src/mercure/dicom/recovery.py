"""Publishing what dead receiver workers had taken in and not yet placed; at each start of a worker, and again later."""

import logging

from mercure.core.errors import MercureError, SpoolError
from mercure.dicom import part10
from mercure.dicom.header import Placing, read_placing_of
from mercure.spool.drafts import Draft
from mercure.spool.intake import Intake, Session
from mercure.spool.layout import Layout, Origin
from mercure.spool.quarantine import quarantine
from mercure.spool.recovery import AbandonedDraft, abandoned_drafts, was_published

log = logging.getLogger(__name__)


def recover_drafts(layout: Layout, intake: Intake) -> int:
    """Place every complete draft that a dead worker left, through `intake`; return how many.

    An instance that is in its reception already, or in a job of it, vanishes as identical; one that cannot be placed
    goes to `error/`. Safe at any time, beside living workers and beside another recovery. What the disk does not take
    now stays for the next time. Raises `OSError` when the folder of drafts cannot be read.
    """
    sessions: dict[Origin, Session] = {}
    count = 0
    try:
        for abandoned in abandoned_drafts(layout):
            session = sessions.get(abandoned.origin)
            if session is None:
                session = sessions[abandoned.origin] = intake.session(abandoned.origin)
            try:
                count += _recover(layout, intake, session, abandoned)
            except OSError as error:
                log.error("a draft of a dead worker stays where it is: %s", error.strerror)  # noqa: TRY400
    finally:
        for session in sessions.values():
            session.close()
    return count


def _recover(layout: Layout, intake: Intake, session: Session, abandoned: AbandonedDraft) -> bool:
    """Place one; return whether there was anything to place."""
    draft = intake.adopt(abandoned.path)
    try:
        try:
            placing = _placing(draft)
            if was_published(layout, abandoned, placing.series_instance_uid, placing.sop_instance_uid):
                log.info("instance %s of a dead worker is in a job already", placing.sop_instance_uid)
                draft.discard()
                return False
            session.publish(
                draft,
                placing.study_instance_uid,
                placing.series_instance_uid,
                placing.sop_instance_uid,
                placing.signature,
            )
        except MercureError as error:
            quarantine(layout, draft.path, abandoned.origin, str(error), fsync=intake.fsync)
            draft.discard()
    finally:
        draft.close()
    return True


def _placing(draft: Draft) -> Placing:
    meta = part10.read_file_meta(draft.path)
    start = meta.data_set_offset
    placing = read_placing_of(lambda size: draft.read(size, start), meta.data_set_size, meta.transfer_syntax_uid)
    if placing.sop_instance_uid not in ("", meta.sop_instance_uid):
        raise SpoolError("SOPInstanceUID of the data set is not that of the C-STORE request")
    return placing
