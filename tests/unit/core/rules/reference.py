"""Python's own answers to the expressions of rules, as existing installations take them."""

import math
import re
import warnings
from collections.abc import Mapping
from typing import Any

from mercure.core.rules.functions import FUNCTIONS
from mercure.core.tags import Tags

CT: Mapping[str, str] = {
    "Modality": "CT",
    "BodyPartExamined": "CHEST",
    "SeriesDescription": "Thorax 1.0 B70f Lung",
    "SeriesNumber": "4",
    "SliceThickness": "1.0",
    "ImageType": "ORIGINAL\\PRIMARY\\AXIAL\\CT_SOM5 SPI",
    "PatientSex": "F",
    "StationName": "CT-ROOM2",
    "ReceiverAET": "RESEARCH",
    "ContrastBolusAgent": "",
    "0018,0060": "120",
}
CT_TAGS = Tags(CT)


class ReferenceTags(dict[str, str]):
    """Tags with attribute access in any case."""

    def __getattr__(self, name: str) -> str:
        for key, value in self.items():
            if key.lower() == name.lower():
                return value
        raise KeyError(name)


def _names() -> dict[str, Any]:
    builtin = vars(__import__("builtins"))
    return {name: builtin.get(name) or getattr(math, name) for name in FUNCTIONS} | {"pi": math.pi, "e": math.e}


NAMES = _names()


def python_value(text: str, values: Mapping[str, str] = CT) -> Any:
    """Return the value that Python gives, or raise what it raises."""
    for name in values:
        text = text.replace(f"@{name}@", f'tags["{name}"]')
    text = re.sub(r"\s*\n\s*", " ", text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return eval(text, {"__builtins__": {}, "tags": ReferenceTags(values), **NAMES})
