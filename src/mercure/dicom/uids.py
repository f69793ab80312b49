"""The UIDs that the engine itself needs to know (PS3.6 Annex A), and Mercure's own identification."""

from mercure import __version__

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"

IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1.99"
EXPLICIT_VR_BIG_ENDIAN = "1.2.840.10008.1.2.2"

UNCOMPRESSED = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN)

VERIFICATION = "1.2.840.10008.1.1"
STORAGE_COMMITMENT_PUSH_MODEL = "1.2.840.10008.1.20.1"
STORAGE_COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"

IMPLEMENTATION_CLASS = "2.25.167239114553172093226840133098227465217"
"""A UUID-derived UID (PS3.5 B.2) made once for this implementation."""

IMPLEMENTATION_VERSION = f"MERCURE_{__version__.replace('.', '')}"[:16]

_NOT_STORAGE = frozenset(
    {
        VERIFICATION,
        STORAGE_COMMITMENT_PUSH_MODEL,
        "1.2.840.10008.1.3.10",  # Media Storage Directory Storage is for media only
        "1.2.840.10008.3.1.2.3.3",  # Modality Performed Procedure Step
        # Services that stand in the branches of the storage SOP classes:
        *(f"1.2.840.10008.5.1.4.1.1.200.{last}" for last in (4, 5, 6)),  # Protocol Approval, query and retrieve
        *(f"1.2.840.10008.5.1.4.1.1.201.{last}" for last in (2, 3, 4, 5, 6)),  # Inventory, Repository Query
        *(f"1.2.840.10008.5.1.4.34.{last}" for last in (2, 3, 8, 9)),  # RT Machine Verification
        *(f"1.2.840.10008.5.1.4.34.4.{last}" for last in (1, 2, 3, 4)),  # Unified Procedure Step, trial
        *(f"1.2.840.10008.5.1.4.34.6.{last}" for last in (1, 2, 3, 4, 5)),  # Unified Procedure Step
        *(f"1.2.840.10008.5.1.4.{branch}.{last}" for branch in (43, 44, 45) for last in (2, 3, 4)),  # Implant Templates
    }
)

_STANDARD_ROOT = "1.2.840.10008."

_STORAGE_PREFIXES = (
    "1.2.840.10008.5.1.4.1.1.",  # the storage SOP classes
    "1.2.840.10008.5.1.4.34.",  # RT treatment and beams delivery storage
    "1.2.840.10008.5.1.4.38.1",  # Hanging Protocol Storage
    "1.2.840.10008.5.1.4.39.1",  # Color Palette Storage
    "1.2.840.10008.5.1.4.43.",  # implant templates, generic
    "1.2.840.10008.5.1.4.44.",
    "1.2.840.10008.5.1.4.45.",
)


def is_storage_sop_class(sop_class_uid: str) -> bool:
    """Whether a C-STORE of this SOP class makes sense.

    Everything in the standard's storage branches, and everything outside the standard's root: private and future
    storage classes must not be refused for being unknown. Services of the standard that are no storage (query,
    worklist, print ...) are left out, so that a peer is told at negotiation and not at its first message.
    """
    if sop_class_uid in _NOT_STORAGE:
        return False
    if sop_class_uid.startswith(_STANDARD_ROOT):
        return sop_class_uid.startswith(_STORAGE_PREFIXES)
    return True
