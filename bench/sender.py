"""The sender that is not the bottleneck: the C program `native/sender.c`, its arguments and its result."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.workplace import native, warm_memory

MAX_PDU_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Sent:
    """What a transfer took, from the first byte sent to the last response read, which was at `ended` (monotonic)."""

    instances: int
    size_bytes: int
    seconds: float
    ended: float
    cpu_seconds: float

    @property
    def per_second(self) -> float:
        """Instances per second."""
        return self.instances / self.seconds

    @property
    def sender_share(self) -> float:
        """How busy the sender's processes were, in cores: well below their number means that it waited."""
        return self.cpu_seconds / self.seconds


def send(
    files: Sequence[Path],
    port: int,
    *,
    protocol: Literal["dicom", "copy"] = "dicom",
    associations: int = 1,
    called_ae: str = "ANY-SCP",
    max_pdu_bytes: int = MAX_PDU_BYTES,
) -> Sent:
    """Send the files; CalledProcessError unless every single one was answered with success."""
    command = [str(native("sender")), protocol, str(port), str(associations), str(max_pdu_bytes), called_ae]
    listing = "\n".join(str(file) for file in files) + "\n"
    warm_memory(sum(file.stat().st_size for file in files))
    done = subprocess.run(command, input=listing, stdout=subprocess.PIPE, text=True, check=True, timeout=900)
    result = json.loads(done.stdout)
    return Sent(result["instances"], result["bytes"], result["seconds"], result["ended"], result["cpu_seconds"])
