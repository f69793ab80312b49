"""Single messages to a peer, each on an association of its own: C-ECHO and the report of storage commitment."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from mercure.dicom import dimse, uids
from mercure.dicom.association_scu import Association
from mercure.dicom.commitment_data import event_report_request
from mercure.dicom.dimse import Command
from mercure.dicom.pdu import ProposedContext, Role
from mercure.dicom.peer import Peer, RejectedError

_SCP_ONLY = Role(scu=False, scp=True)
_ONE = 1


def echo(peer: Peer) -> float:
    """Verify that the peer answers (C-ECHO, PS3.4 Annex A); return the seconds it took, association included.

    Raises the transient errors of `Association.open`, and `RejectedError` when it does not take the message.
    """
    started = time.perf_counter()
    context = ProposedContext(_ONE, uids.VERIFICATION, (uids.IMPLICIT_VR_LITTLE_ENDIAN, uids.EXPLICIT_VR_LITTLE_ENDIAN))
    with _opened(peer, context, {}) as association:
        message_id = association.next_message_id()
        association.send_message(_ONE, dimse.echo_request(message_id))
        status = association.receive_reply(_ONE, Command.C_ECHO_RQ, message_id).command.status
    if status != dimse.SUCCESS:
        raise RejectedError(f"{peer} answered C-ECHO with status 0x{status:04X}")
    return time.perf_counter() - started


def send_event_report(
    peer: Peer,
    event_type_id: int,
    data_set: bytes,
    *,
    transfer_syntax_uid: str = uids.IMPLICIT_VR_LITTLE_ENDIAN,
) -> int:
    """Report the result of a storage commitment to its requester (N-EVENT-REPORT, PS3.4 J.3.3); return the status.

    We open the association in the role of the SCP and negotiate that (PS3.7 D.3.3.4). A requester that accepts the
    context and says nothing of roles gets the report too; one that refuses the role does not. `data_set` is encoded
    in `transfer_syntax_uid`. Event type 1 is success, 2 that there are failures. Raises as `echo`.
    """
    sop_class = uids.STORAGE_COMMITMENT_PUSH_MODEL
    context = ProposedContext(_ONE, sop_class, (transfer_syntax_uid,))
    with _opened(peer, context, {sop_class: _SCP_ONLY}) as association:
        if not association.roles.get(sop_class, _SCP_ONLY).scp:
            raise RejectedError(f"{peer} does not let us report storage commitment (role refused)")
        message_id = association.next_message_id()
        association.send_message(_ONE, event_report_request(message_id, event_type_id), data_set)
        return association.receive_reply(_ONE, Command.N_EVENT_REPORT_RQ, message_id).command.status


@contextmanager
def _opened(peer: Peer, context: ProposedContext, roles: dict[str, Role]) -> Iterator[Association]:
    """Open an association for one context, and release it at the end."""
    association = Association(peer)
    association.open([context], roles)
    try:
        if context.context_id not in association.accepted:
            raise RejectedError(f"{peer} does not accept SOP class {context.abstract_syntax}")
        yield association
    finally:
        if association.is_open:
            association.release()
