"""Deciding about an association request (PS3.8 9.3.3, PS3.7 D.3): a pure function of the request and the policy."""

from dataclasses import dataclass

from mercure.core.tags import is_valid_uid
from mercure.dicom import pdu, uids
from mercure.dicom.pdu import AssociateAC, AssociateRJ, AssociateRQ, ContextAnswer, ContextResult, ProposedContext, Role

_STANDARD_TRANSFER_SYNTAXES = "1.2.840.10008.1.2"


@dataclass(frozen=True, slots=True)
class AcceptancePolicy:
    """What the receiver accepts. Empty sets of AE titles mean any."""

    called_ae_titles: frozenset[str] = frozenset()
    calling_ae_titles: frozenset[str] = frozenset()
    accept_compressed: bool = False
    storage_commitment: bool = True
    maximum_pdu_bytes: int = 262144


@dataclass(frozen=True, slots=True)
class AcceptedContext:
    """A presentation context that both sides may use."""

    abstract_syntax: str
    transfer_syntax: str


def negotiate(request: AssociateRQ, policy: AcceptancePolicy) -> AssociateAC | AssociateRJ:
    """Answer an association request."""
    if not request.protocol_version & 1:
        return pdu.REJECT_PROTOCOL_VERSION
    if request.application_context != uids.APPLICATION_CONTEXT:
        return pdu.REJECT_APPLICATION_CONTEXT
    if policy.called_ae_titles and request.called_ae_title not in policy.called_ae_titles:
        return pdu.REJECT_CALLED_AE_TITLE
    if policy.calling_ae_titles and request.calling_ae_title not in policy.calling_ae_titles:
        return pdu.REJECT_CALLING_AE_TITLE
    return AssociateAC(
        request.called_ae_title,
        request.calling_ae_title,
        tuple(_answer(context, policy) for context in request.contexts),
        policy.maximum_pdu_bytes,
        roles=_roles(request),
    )


def accepted_contexts(request: AssociateRQ, answer: AssociateAC) -> dict[int, AcceptedContext]:
    """Return the usable contexts by id."""
    proposed = {context.context_id: context.abstract_syntax for context in request.contexts}
    return {
        context.context_id: AcceptedContext(proposed[context.context_id], context.transfer_syntax)
        for context in answer.contexts
        if context.result == ContextResult.ACCEPTED and context.context_id in proposed
    }


def _roles(request: AssociateRQ) -> dict[str, Role]:
    """The requestor is the SCU of everything here; the SCP role is not granted (PS3.7 D.3.3.4).

    What was not proposed gets no answer: a peer could send more roles than an answer can hold.
    """
    proposed = {context.abstract_syntax for context in request.contexts}
    roles = request.roles
    return {uid: Role(scu=roles[uid].scu, scp=False) for uid in roles if uid in proposed and is_valid_uid(uid)}


def _answer(context: ProposedContext, policy: AcceptancePolicy) -> ContextAnswer:
    usable = [uid for uid in context.transfer_syntaxes if _accepts(context.abstract_syntax, uid, policy)]
    if not _is_supported(context.abstract_syntax, policy):
        result = ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED
    elif not usable:
        result = ContextResult.TRANSFER_SYNTAXES_NOT_SUPPORTED
    else:
        return ContextAnswer(context.context_id, ContextResult.ACCEPTED, usable[0])
    return ContextAnswer(context.context_id, result, uids.IMPLICIT_VR_LITTLE_ENDIAN)


def _is_supported(abstract_syntax: str, policy: AcceptancePolicy) -> bool:
    if abstract_syntax == uids.VERIFICATION:
        return True
    if abstract_syntax == uids.STORAGE_COMMITMENT_PUSH_MODEL:
        return policy.storage_commitment
    return bool(abstract_syntax) and uids.is_storage_sop_class(abstract_syntax)


def _accepts(abstract_syntax: str, transfer_syntax: str, policy: AcceptancePolicy) -> bool:
    """The requestor's order of preference decides among what is acceptable."""
    if transfer_syntax in uids.UNCOMPRESSED:
        return True
    if not is_valid_uid(transfer_syntax):
        return False
    is_storage = abstract_syntax not in (uids.VERIFICATION, uids.STORAGE_COMMITMENT_PUSH_MODEL)
    return policy.accept_compressed and is_storage and transfer_syntax.startswith(_STANDARD_TRANSFER_SYNTAXES)
