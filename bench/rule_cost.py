"""What the evaluation of a rule costs, and the rules that the benches use."""

import time
from collections.abc import Mapping
from typing import Any

from tests import builders

from bench.results import Goal, Report
from bench.size import Size
from bench.workplace import clean_folder
from mercure.core.rules import Expression
from mercure.core.tags import Tags
from mercure.dicom.tags_reader import read_tags

RULES = (
    "@Modality@ == 'MR'",
    "@Modality@ in ('PT', 'NM') and 'WB' in @SeriesDescription@",
    "tags.Modality == 'CT' and 'lung' in tags.SeriesDescription.lower()",
    "@ReceiverAET@ == 'RESEARCH'",
    "@Modality@ == 'CT' and float(@SliceThickness@) < 0.5",
    "@BodyPartExamined@.upper().startswith('HEAD') or 'BRAIN' in @StudyDescription@.upper()",
    r"'DERIVED' in @ImageType@.split('\\') and not 'MIP' in @SeriesDescription@",
    "int(@SeriesNumber@) > 900 and @Manufacturer@ == 'NOBODY'",
    "@StationName@ in ['CT-ROOM7', 'CT-ROOM8'] and int(@Rows@) >= 1024",
    "@Modality@ == 'CT'",
)
"""Ten rules as hospitals write them. A series with `ELEMENTS` has all tags that they ask for; only the last fits."""

ELEMENTS: Mapping[str, Any] = {
    "Modality": "CT",
    "SeriesDescription": "Abdomen 3.0 B31f",
    "StudyDescription": "CT Abdomen native",
    "BodyPartExamined": "ABDOMEN",
    "StationName": "CT-ROOM2",
    "SliceThickness": "3.0",
    "SeriesNumber": "4",
    "Manufacturer": "Somebody",
    "ImageType": "ORIGINAL\\PRIMARY\\AXIAL",
}

_EVALUATIONS = 20_000
_LIMIT_MICROSECONDS = 20.0


def measure(report: Report, size: Size) -> None:
    """Add what each of the rules costs, and the goal for the slowest."""
    tags = _tags()
    medians = []
    for text in RULES:
        expression = Expression.parse(text)
        evaluation = expression.evaluate(tags)
        if evaluation.outcome != ("matched" if text == RULES[-1] else "not_matched") or evaluation.missing:
            message = f"the rule {text} was answered with {evaluation}"
            raise RuntimeError(message)
        runs = [_microseconds(expression, tags) for _ in range(max(size.runs, 3))]
        medians.append(report.add(f"rule `{text}`", "microseconds", runs).median)
    report.goals.append(
        Goal("4", "slowest of ten rules, microseconds", max(medians), _LIMIT_MICROSECONDS, at_least=False)
    )


def _microseconds(expression: Expression, tags: Tags) -> float:
    started = time.perf_counter()
    for _ in range(_EVALUATIONS):
        expression.evaluate(tags)
    return (time.perf_counter() - started) / _EVALUATIONS * 1e6


def _tags() -> Tags:
    """The tags of an instance as the router reads them."""
    with clean_folder("rules") as folder:
        file = folder / "instance.dcm"
        file.write_bytes(builders.dicom_bytes(**ELEMENTS))
        tags = read_tags(file)
    return Tags({**tags, "ReceiverAET": "MERCURE", "SenderAET": "SCANNER"})
