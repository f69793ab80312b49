"""The process in which instances are transcoded: one JSON object a line in, one a line out."""

import json
import resource
import sys
import warnings

from mercure.core.errors import JobError
from mercure.dicom.transcode import convert

_MEMORY_BYTES = 8 << 30
"""Address space; a header that asks for more memory gets an error, and the machine is not at risk."""


def answer(question: str) -> dict[str, str]:
    """Do what one line asks: convert `path` to `output` in one of `accepted`; say which, or why not."""
    asked = json.loads(question)
    try:
        with open(asked["output"], "wb") as sink:
            return {"kind": "done", "transfer_syntax": convert(asked["path"], asked["accepted"], sink)}
    except JobError as error:
        return {"kind": "permanent", "detail": str(error)}
    except OSError as error:
        return {"kind": "transient", "detail": f"transcoding: {error.strerror}"}
    except MemoryError:
        return {"kind": "permanent", "detail": "the instance needs too much memory to be decompressed"}


def main() -> None:
    """Answer until the other side closes."""
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = _MEMORY_BYTES if most == resource.RLIM_INFINITY else min(_MEMORY_BYTES, most)
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))
    warnings.simplefilter("ignore")  # they would name values of the data set
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(line)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
