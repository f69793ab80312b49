"""New identities: what replaces UIDs, patients and dates, the same in every instance, series and run.

All comes from HMAC-SHA256 with a key that is derived from the secret of the project. Without the secret nobody can
compute or test a replacement; with the same secret every run gives the same one, without any table that would have to
be kept. Two projects never share replacements, even with one secret.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass

from mercure_anonymizer.errors import SettingsError
from mercure_anonymizer.lookup import Entry

SHORTEST_SECRET = 16
_GREEK = (
    "Alpha Beta Gamma Delta Epsilon Zeta Eta Theta Iota Kappa Lambda Mu Nu Xi Omicron Pi Rho Sigma Tau Upsilon Phi Chi"
    " Psi Omega"
).split()
_VERSION_BITS, _VERSION_8 = 0xF << 76, 0x8 << 76
_VARIANT_BITS, _VARIANT = 0x3 << 62, 0x2 << 62


@dataclass(frozen=True, slots=True, repr=False)
class Mapping:
    """Replacements of one project. Holds the key: never printed, never written."""

    key: bytes
    largest_shift_days: int = 365
    lookup: dict[str, Entry] | None = None
    refuse_unknown: bool = True

    def uid(self, value: str) -> str:
        """Return the UID that replaces this one: 2.25 and a UUID of version 8 as a number (PS3.5 B.2)."""
        number = int.from_bytes(self._mac("uid", value)[:16], "big")
        number = (number & ~_VERSION_BITS & ~_VARIANT_BITS) | _VERSION_8 | _VARIANT
        return f"2.25.{number}"

    def pseudonym(self, patient: str) -> str:
        """Return the pseudonym of a patient.

        Raises `SettingsError` when there is a look-up table without this patient, unless the settings allow it.
        """
        entry = self._entry(patient)
        return entry.pseudonym if entry else "ANON" + self._mac("patient", patient).hex()[:16].upper()

    def shift_days(self, patient: str) -> int:
        """Return by how many days the dates of this patient are moved; negative: into the past."""
        entry = self._entry(patient)
        if entry and entry.shift_days is not None:
            return entry.shift_days
        return -1 - int.from_bytes(self._mac("shift", patient)[:8], "big") % self.largest_shift_days

    def name(self, patient: str) -> str:
        """Return an invented person name of Greek letters."""
        mac = self._mac("name", patient)
        first, second, third = (_GREEK[byte % len(_GREEK)] for byte in mac[:3])
        return f"{first}{second}^{third}{int.from_bytes(mac[3:5], 'big')}"

    def number(self, kind: str, value: str, digits: int) -> str:
        """Return an invented number of so many digits for a value."""
        number = int.from_bytes(self._mac(kind, value)[:16], "big")
        return f"{number:0{digits}d}"[-digits:]

    def _entry(self, patient: str) -> Entry | None:
        if self.lookup is None:
            return None
        entry = self.lookup.get(patient)
        if entry is None and self.refuse_unknown:
            raise SettingsError("a patient is not in the look-up table")
        return entry

    def _mac(self, kind: str, value: str) -> bytes:
        return hmac.digest(self.key, f"{kind}\0{value}".encode(), "sha256")


def project_key(secret: str | None, project: str) -> bytes:
    """Derive the key of a project; without a secret a random one, good for this job only.

    Raises `SettingsError` for a secret of fewer than 16 characters, which could be guessed.
    """
    if secret is None:
        return secrets.token_bytes(32)
    if len(secret) < SHORTEST_SECRET:
        raise SettingsError(f"the secret has fewer than {SHORTEST_SECRET} characters")
    return hmac.digest(secret.encode(), f"mercure-anonymizer\0{project}".encode(), hashlib.sha256)
