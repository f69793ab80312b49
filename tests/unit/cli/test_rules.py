"""`mercure rules`."""

from pathlib import Path

import pytest
from tests.builders import dicom_bytes
from tests.unit.cli.site import Site

from mercure.cli.exits import Exit


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.dcm"
    path.write_bytes(dicom_bytes(SliceThickness="5", BodyPartExamined="HEAD", SliceLocation="12.5"))
    return path


def test_a_rule_is_tried_on_a_file_and_shows_what_it_read(site: Site, image: Path) -> None:
    answer = site("rules", "test", "tags.Modality == 'CT' and float(tags.SliceThickness) > 4", "--file", image)
    assert answer.status == Exit.OK
    assert answer.out.startswith("matched\n")
    assert 'Modality        "CT"' in answer.out
    assert 'SliceThickness  "5"' in answer.out
    assert "BodyPart" not in answer.out


def test_a_rule_is_tried_on_given_tags(site: Site) -> None:
    answer = site("rules", "test", "tags.Modality == 'CT'", "--tag", "Modality=MR")
    assert answer.status == Exit.OK
    assert answer.out.startswith("not matched\n")


def test_given_tags_stand_in_for_those_of_the_file(site: Site, image: Path) -> None:
    rule = "tags.Modality == 'MR' and tags.BodyPartExamined == 'HEAD'"
    assert site("rules", "test", rule, "--file", image, "--tag", "Modality=MR").out.startswith("matched")


def test_the_answer_is_also_json(site: Site) -> None:
    answer = site("rules", "test", "tags.Modality == 'CT' and tags.Rows", "--tag", "Modality=CT", "--json")
    assert answer.json["outcome"] == "not_matched"
    assert answer.json["values"]["Modality"] == "CT"
    assert answer.json["missing"] == ["Rows"]


def test_a_missing_tag_is_said(site: Site) -> None:
    answer = site("rules", "test", "tags.Modality == 'CT'", "--tag", "StationName=A")
    assert answer.status == Exit.OK
    assert "the series has no tag Modality" in answer.out
    assert "(missing)" in answer.out


def test_a_tag_that_the_file_lacks_counts_as_empty_and_is_said(site: Site, image: Path) -> None:
    answer = site("rules", "test", "tags.SequenceName == ''", "--file", image)
    assert answer.out.startswith("matched\n")
    assert '"" (missing: counts as empty)' in answer.out
    as_json = site("rules", "test", "tags.SequenceName == ''", "--file", image, "--json").json
    assert (as_json["missing"], as_json["values"]) == (["SequenceName"], {"SequenceName": ""})


def test_a_tag_that_the_file_has_and_rules_do_not_see_is_said(site: Site, image: Path) -> None:
    answer = site("rules", "test", "float(tags.SliceLocation) > 1", "--file", image)
    assert "receiver.additional_tags" in answer.out
    site.configuration["receiver"] = {"additional_tags": {"SliceLocation": "1.5"}}
    site.write()
    assert site("rules", "test", "float(tags.SliceLocation) > 1", "--file", image).out.startswith("matched")


def test_a_tag_that_no_series_will_have_is_said_although_it_was_given(site: Site) -> None:
    answer = site("rules", "test", "tags.KVP == '1'", "--tag", "KVP=1")
    assert answer.out.startswith("matched")
    assert "Hint: rules never see a tag 'KVP': add KVP to receiver.additional_tags." in answer.out
    assert "did you mean Modality?" in site("rules", "test", "@Modalty@ == 'CT'", "--tag", "Modality=CT").out
    assert site("rules", "test", "tags.Modality == 'CT'", "--tag", "Modality=CT", "--json").json["hints"] == []


def test_what_only_a_reception_knows_is_asked_for_and_not_looked_for_in_the_file(site: Site, image: Path) -> None:
    for rule in ("tags.ReceiverAET == 'A'", "@ReceiverAET@ == 'A'", "tags.receiveraet == 'A'"):
        answer = site.process("rules", "test", rule, "--file", str(image))
        assert answer.out.startswith("not matched")
        assert "give --tag ReceiverAET=..." in answer.out
        assert "additional tag" not in answer.out + answer.err
    given = site("rules", "test", "tags.ReceiverAET == 'A'", "--file", image, "--tag", "ReceiverAET=A")
    assert given.out.startswith("matched")
    assert "Hint" not in given.out


def test_one_hint_says_that_the_file_has_a_tag_that_rules_do_not_see(site: Site, image: Path) -> None:
    for name in ("SliceLocation", "slicelocation"):
        answer = site.process("rules", "test", f"tags.{name} == '1'", "--file", str(image))
        assert answer.out.count("Hint: ") == 1
        assert "the file has" in answer.out
        assert "left out" not in answer.err


def test_a_rule_works_without_any_configuration(site: Site, image: Path) -> None:
    site.config_file.unlink()
    assert site("rules", "test", "tags.Modality == 'CT'", "--file", image).status == Exit.OK


def test_a_rule_that_fails_says_where(site: Site) -> None:
    answer = site("rules", "test", "int(tags.Modality) > 3", "--tag", "Modality=CT")
    assert answer.status == Exit.FAILED
    assert answer.out.startswith("FAILED: int() at column 1")


@pytest.mark.parametrize("padding", [0, 120])
def test_a_fault_is_marked_under_its_column(site: Site, padding: int) -> None:
    start = "1 and " * (padding // 6)
    answer = site("rules", "test", f"{start}tags.Modality = 'CT'", "--tag", "Modality=CT")
    assert answer.status == Exit.USAGE
    shown, mark = answer.err.splitlines()[:2]
    assert shown[mark.index("^")] == "="
    assert f"(column {padding + 15})" in answer.err


def test_a_rule_of_the_configuration_is_tried_by_name(site: Site, image: Path) -> None:
    assert site("rules", "test", "--rule", "thick", "--file", image).out.startswith("matched")
    answer = site("rules", "test", "--rule", "thikc", "--file", image)
    assert answer.status == Exit.USAGE, "as `queue retry --rule` and `echo` answer to a name that is not there"
    assert "ct, thick" in answer.err


def test_a_broken_rule_of_the_configuration_says_why(site: Site, image: Path) -> None:
    site.configuration["rules"][0]["condition"] = "tags.Modality ="
    site.write()
    answer = site("rules", "test", "--rule", "ct", "--file", image)
    assert answer.status in (Exit.CONFIGURATION, Exit.USAGE)
    assert "column 15" in answer.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["tags.Modality == 'CT'"],
        ["--tag", "Modality=CT"],
        ["1", "--rule", "ct", "--tag", "Modality=CT"],
        ["1", "--tag", "Modality"],
        ["1", "--file", "/nowhere.dcm"],
    ],
)
def test_a_wrong_call_is_a_usage_error(site: Site, arguments: list[str]) -> None:
    answer = site("rules", "test", *arguments)
    assert answer.status == Exit.USAGE
    assert answer.out == ""


def test_a_file_that_is_no_dicom_is_said(site: Site, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("hello")
    answer = site("rules", "test", "1", "--file", other)
    assert answer.status == Exit.FAILED
    assert "no DICOM prefix" in answer.err


def test_all_rules_are_tried_with_the_jobs_that_follow(site: Site, image: Path) -> None:
    answer = site("rules", "try", "--file", image)
    assert answer.status == Exit.OK
    assert "-> outgoing/: route to pacs" in answer.out
    assert "-> outgoing/: route to store" in answer.out
    as_json = site("rules", "try", "--file", image, "--json").json
    assert [rule["outcome"] for rule in as_json["rules"]] == ["matched", "matched"]
    assert [job["targets"] for job in as_json["jobs"]] == [["pacs"], ["store"]]


def test_what_would_go_to_error_is_a_failure(site: Site, image: Path) -> None:
    site.configuration["rules"][0]["target"] = ["nowhere"]
    site.write()
    answer = site("rules", "try", "--file", image)
    assert answer.status == Exit.FAILED
    assert "-> error/" in answer.out
    assert "1 problem;" in answer.err


def test_what_no_rule_takes_is_discarded(site: Site) -> None:
    answer = site("rules", "try", "--tag", "Modality=US")
    assert answer.status == Exit.OK
    assert "-> discard/: discard (no rule matched)" in answer.out
    assert "SliceThickness (missing)" in answer.out


def test_without_rules_that_is_said(site: Site) -> None:
    site.configuration["rules"] = []
    site.write()
    assert "has no rules" in site("rules", "try", "--tag", "Modality=US").out
