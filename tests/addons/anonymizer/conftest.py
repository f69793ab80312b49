"""The addon is a package of its own: found here without being installed."""

import sys
from pathlib import Path

SOURCE = Path(__file__).parents[3] / "addons" / "anonymizer" / "src"
if str(SOURCE) not in sys.path:
    sys.path.insert(0, str(SOURCE))
