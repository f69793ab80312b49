"""A process that publishes instances: `python -m tests.publisher DATA_FOLDER SERIES_UID FIRST COUNT [SAME]`.

Each instance n gets the SOP Instance UID 1.2.n and content of its own, or with SAME the one content that is given.
Prints one line for each that is published, as soon as it is: its UID and how it was published.
"""

import sys
from pathlib import Path

from mercure.spool.intake import Intake
from mercure.spool.layout import Layout, Origin

ORIGIN = Origin("SENDER", "MERCURE", "127.0.0.1")


def main() -> None:
    layout = Layout.under(Path(sys.argv[1]))
    series_uid, first, count = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    content = sys.argv[5].encode() if len(sys.argv) > 5 else b""
    intake = Intake(layout, fsync=False)
    session = intake.session(ORIGIN)
    sys.stdin.readline()  # all publishers start together
    for number in range(first, first + count):
        uid = f"1.2.{number}"
        draft = intake.draft()
        draft.write([content or uid.encode() * 100])
        published = session.publish(draft, "1.2", series_uid, uid, b"CT")
        print(uid, published.kind, flush=True)
    session.close()
    intake.close()


if __name__ == "__main__":
    main()
