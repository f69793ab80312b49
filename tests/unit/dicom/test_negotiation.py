from dataclasses import replace

import pytest
from tests.builders import CT_STORAGE, DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, JPEG_2000, RLE

from mercure.dicom import pdu, uids
from mercure.dicom.negotiation import AcceptancePolicy, AcceptedContext, accepted_contexts, negotiate
from mercure.dicom.pdu import AssociateAC, AssociateRJ, AssociateRQ, ContextResult, ProposedContext, Role


def request(*contexts: tuple[str, tuple[str, ...]], **changes: object) -> AssociateRQ:
    proposed = contexts or ((CT_STORAGE, (EXPLICIT_LITTLE,)),)
    made = AssociateRQ(
        "MERCURE", "SENDER", tuple(ProposedContext(2 * n + 1, *one) for n, one in enumerate(proposed)), 16384
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def accepted(asked: AssociateRQ, policy: AcceptancePolicy | None = None) -> AssociateAC:
    answer = negotiate(asked, policy or AcceptancePolicy())
    assert isinstance(answer, AssociateAC)
    return answer


@pytest.mark.parametrize(
    ("changes", "policy", "rejection"),
    [
        ({"protocol_version": 2}, AcceptancePolicy(), AssociateRJ(1, 2, 2)),
        ({"application_context": "1.2.3"}, AcceptancePolicy(), AssociateRJ(1, 1, 2)),
        ({}, AcceptancePolicy(called_ae_titles=frozenset({"OTHER"})), AssociateRJ(1, 1, 7)),
        ({}, AcceptancePolicy(calling_ae_titles=frozenset({"OTHER"})), AssociateRJ(1, 1, 3)),
    ],
)
def test_a_rejection_carries_the_result_source_and_reason_of_the_standard(
    changes: dict[str, object], policy: AcceptancePolicy, rejection: AssociateRJ
) -> None:
    assert negotiate(request(**changes), policy) == rejection


def test_listed_ae_titles_are_accepted_and_repeated() -> None:
    policy = AcceptancePolicy(frozenset({"MERCURE"}), frozenset({"SENDER"}))
    answer = accepted(request(), policy)
    assert (answer.called_ae_title, answer.calling_ae_title) == ("MERCURE", "SENDER")
    assert answer.maximum_length == policy.maximum_pdu_bytes


def test_a_protocol_version_with_more_bits_is_accepted() -> None:
    accepted(request(protocol_version=3))


@pytest.mark.parametrize("abstract", [CT_STORAGE, "1.2.840.10008.5.1.4.1.1.999.1", "1.3.12.2.1107.5.9.1", "9.8.7"])
def test_storage_classes_known_private_and_yet_to_come_are_accepted(abstract: str) -> None:
    assert accepted(request((abstract, (IMPLICIT_LITTLE,)))).contexts[0].result == ContextResult.ACCEPTED


@pytest.mark.parametrize("abstract", ["", "1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.5.1.4.31"])
def test_services_that_are_not_offered_are_refused_by_context(abstract: str) -> None:
    answer = accepted(request((abstract, (IMPLICIT_LITTLE,)), (CT_STORAGE, (IMPLICIT_LITTLE,))))
    assert [one.result for one in answer.contexts] == [
        ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED,
        ContextResult.ACCEPTED,
    ]


def test_the_senders_order_of_transfer_syntaxes_decides() -> None:
    answer = accepted(request((CT_STORAGE, (EXPLICIT_BIG, IMPLICIT_LITTLE, EXPLICIT_LITTLE))))
    assert answer.contexts[0].transfer_syntax == EXPLICIT_BIG


@pytest.mark.parametrize("compressed", [JPEG_2000, RLE, DEFLATED])
def test_compressed_transfer_syntaxes_are_accepted_when_the_policy_says_so(compressed: str) -> None:
    asked = request((CT_STORAGE, (compressed, EXPLICIT_LITTLE)))
    assert accepted(asked).contexts[0].transfer_syntax == EXPLICIT_LITTLE
    assert accepted(asked, AcceptancePolicy(accept_compressed=True)).contexts[0].transfer_syntax == compressed
    only = request((CT_STORAGE, (compressed,)))
    assert accepted(only).contexts[0].result == ContextResult.TRANSFER_SYNTAXES_NOT_SUPPORTED


@pytest.mark.parametrize("abstract", [uids.VERIFICATION, uids.STORAGE_COMMITMENT_PUSH_MODEL])
def test_messages_without_images_are_never_compressed(abstract: str) -> None:
    policy = AcceptancePolicy(accept_compressed=True)
    answer = accepted(request((abstract, (JPEG_2000,))), policy)
    assert answer.contexts[0].result == ContextResult.TRANSFER_SYNTAXES_NOT_SUPPORTED


def test_a_private_transfer_syntax_is_not_accepted() -> None:
    answer = accepted(request((CT_STORAGE, ("1.3.46.1",))), AcceptancePolicy(accept_compressed=True))
    assert answer.contexts[0].result == ContextResult.TRANSFER_SYNTAXES_NOT_SUPPORTED


def test_storage_commitment_is_offered_unless_it_is_switched_off() -> None:
    asked = request((uids.STORAGE_COMMITMENT_PUSH_MODEL, (IMPLICIT_LITTLE,)))
    assert accepted(asked).contexts[0].result == ContextResult.ACCEPTED
    answer = accepted(asked, AcceptancePolicy(storage_commitment=False))
    assert answer.contexts[0].result == ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED


def test_only_the_scu_role_is_granted() -> None:
    answer = accepted(request(roles={CT_STORAGE: Role(scu=True, scp=True)}))
    assert answer.roles == {CT_STORAGE: Role(scu=True, scp=False)}


def test_roles_are_answered_only_for_what_was_proposed_and_in_a_number_that_can_be_encoded() -> None:
    many = {f"1.2.840.10008.5.1.4.1.1.{number}.{'1' * 40}": Role(scu=True, scp=True) for number in range(1000)}
    answer = accepted(request(roles={**many, CT_STORAGE: Role(scu=True, scp=True)}))
    assert set(answer.roles) == {CT_STORAGE}
    huge = "1" * 65_000
    answer = accepted(request((huge, (IMPLICIT_LITTLE,)), roles={huge: Role(scu=True, scp=True)}))
    assert len(answer.encode()) < 1000


def test_a_transfer_syntax_that_is_no_uid_is_not_accepted() -> None:
    policy = AcceptancePolicy(accept_compressed=True)
    answer = accepted(request((CT_STORAGE, ("1.2.840.10008.1.2.\nforged", JPEG_2000))), policy)
    assert answer.contexts[0].transfer_syntax == JPEG_2000


def test_only_accepted_contexts_are_usable() -> None:
    asked = request((CT_STORAGE, (EXPLICIT_LITTLE,)), ("1.2.840.10008.5.1.4.31", (IMPLICIT_LITTLE,)))
    assert accepted_contexts(asked, accepted(asked)) == {1: AcceptedContext(CT_STORAGE, EXPLICIT_LITTLE)}


def test_every_proposed_context_gets_an_answer_that_can_be_encoded() -> None:
    asked = request((CT_STORAGE, ()), ("", ()))
    answer = accepted(asked)
    decoded = pdu.decode_associate_ac(answer.encode()[6:])
    assert [one.context_id for one in decoded.contexts] == [1, 3]
