"""Codes (CS) of the standard, and what is done with values that are none.

A few attributes tell how the rest is read or shown: a dummy would make the instance useless. Their values are checked
against the defined terms instead.
"""

import re
from collections.abc import Mapping

from mercure_anonymizer.errors import InstanceError
from mercure_anonymizer.report import tag_name
from mercure_anonymizer.values import DUMMY

_CHARACTER_SET, _MODALITY, _PHOTOMETRIC = 0x00080005, 0x00080060, 0x00280004
DECODING = frozenset({_CHARACTER_SET, _MODALITY, _PHOTOMETRIC})
"""Character set, modality, photometric interpretation."""

_CODE = re.compile(r"[A-Z0-9 _]{1,16}")
_CHARACTER_SETS = re.compile(
    r"(ISO[ _-]IR[ _-](6|13|100|101|109|110|126|127|138|144|148|166|192|203)"
    r"|ISO[ _-]2022[ _-]IR[ _-](6|13|87|100|101|109|110|126|127|138|144|148|149|159|166|203|58)"
    r"|GB18030|GBK|ISO 2022 (GBK|58))?"
)
"""PS3.3 C.12.1.1.2, and spellings that are often met."""
_MODALITIES = frozenset(
    "ANN AR ASMT AU BDUS BI BMD CFM CR CT CTPROTOCOL DG DMS DOC DX ECG EEG EMG EOG EPS ES FID GM HC HD IO IOL IVOCT"
    " IVUS KER KO LEN LS M3D MG MR NM OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT PX REG RESP RF RG"
    " RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR SR SRF STAIN TEXTUREMAP TG US VA"
    " XA XAPROTOCOL XC AS CD CF CP CS DD DF DM DS EC FA FS LP MA MS OPR ST VF".split()
)
"""PS3.3 C.7.3.1.1.1, retired terms included."""
_OTHER = "OT"
_PHOTOMETRICS = frozenset(
    {"MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "HSV", "ARGB", "CMYK", "XYB", "YBR_FULL", "YBR_FULL_422"}
    | {"YBR_PARTIAL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT"}
)

TERMS: Mapping[int, frozenset[str]] = {
    0x0040A040: frozenset(
        "TEXT NUM CODE DATETIME DATE TIME UIDREF PNAME COMPOSITE IMAGE WAVEFORM SCOORD SCOORD3D TCOORD CONTAINER"
        " TABLE".split()
    ),
    0x0040A010: frozenset(
        {"CONTAINS", "HAS OBS CONTEXT", "HAS ACQ CONTEXT", "HAS CONCEPT MOD", "HAS PROPERTIES"}
        | {"INFERRED FROM", "SELECTED FROM"}
    ),
    0x00180020: frozenset("SE IR GR EP RM".split()),
    0x00180021: frozenset("SK MTC SS TRSS SP MP OSP NONE".split()),
    0x00180022: frozenset("PER RG CG PPG FC PFF PFP SP FS CT".split()),
    0x00185101: frozenset("AP PA LL RL RLD LLD RLO LLO".split()),
    0x00200020: frozenset("A P L R H F AL AR PL PR LA LP RA RP HL HR FL FR AH AF PH PF LH LF RH RF".split()),
    0x00281054: frozenset("OD HU US MGML Z_EFF ED EDW HU_MOD PCT".split()),
}
"""Value and relationship types of report content (PS3.3 C.17.3), kinds of sequences and views, directions, units of
pixels: they stay, even if a person is called so."""


def as_code(text: str) -> str:
    """Return the text as a code has to be (PS3.5 6.2), in upper case; a dummy for what is none."""
    code = text.upper()
    return code if not code or _CODE.fullmatch(code) else DUMMY


def decoding_values(tag: int, values: list[str]) -> list[str]:
    """Return what may stay of an attribute of `DECODING`: an unknown modality becomes OT (other).

    Raises `InstanceError` for an unknown character set or photometric interpretation: nobody can tell what such an
    instance says or shows.
    """
    if tag == _MODALITY:
        return [text if not text or text in _MODALITIES else _OTHER for text in map(str.upper, values)]
    known = _CHARACTER_SETS.fullmatch if tag == _CHARACTER_SET else _PHOTOMETRICS.__contains__
    if not all(not text or known(text) for text in values):
        raise InstanceError(f"{tag_name(tag)} is not known to the standard")
    return values
