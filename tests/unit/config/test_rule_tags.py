import pytest
from tests.unit.config.samples import archive, good, route, text_of

from mercure.config.load import parse
from mercure.config.rule_tags import readable_name, unseen_tags
from mercure.core.rules import Expression


def _remedies(condition: str, *additional: str) -> list[str]:
    return [message for _, message in unseen_tags(Expression.parse(condition), additional)]


@pytest.mark.parametrize(
    ("condition", "additional", "remedy"),
    [
        ("@Modalty@ == 'CT'", (), "did you mean Modality?"),
        ("'Modalty' in tags", (), "did you mean Modality?"),
        ("tags.RecieverAET == 'A'", (), "did you mean ReceiverAET?"),
        ("@modality@ == 'CT'", (), "did you mean Modality? Capital and small letters matter here"),
        ("float(tags.KVP) > 100", (), "add KVP to receiver.additional_tags"),
        ("float(tags.kvp) > 100", (), "add KVP to receiver.additional_tags"),
        ("tags['0018,0060'] == '1'", (), "add 0018,0060 to receiver.additional_tags"),
        ("@0019,100A@ == '1'", (), "add 0019,100A to receiver.additional_tags"),
        ("@0019,100A@ == '1'", ("0019,100a",), "did you mean 0019,100a? Capital and small letters matter here"),
        ("tags.KVP == '1'", ("0018,0060",), "did you mean 0018,0060?"),
        ("@0018,0060@ == '1'", ("KVP",), "did you mean KVP?"),
        ("@0008,0060@ == 'CT'", (), "did you mean Modality?"),
        ("tags.EchoTme == '1'", (), "did you mean EchoTime? Then also add it to receiver.additional_tags"),
        ("tags.EchoTme == '1'", ("EchoTime",), "did you mean EchoTime?"),
        ("tags.RequestAttributesSequence == '1'", (), "a sequence or bulk data, which rules never see"),
        ("tags.PixelData == '1'", (), "a sequence or bulk data, which rules never see"),
        ("tags.Qqqqqqq == '1'", (), "a private tag is written by its number, gggg,eeee"),
    ],
)
def test_a_tag_that_no_series_can_have_comes_with_a_remedy(
    condition: str, additional: tuple[str, ...], remedy: str
) -> None:
    (message,) = _remedies(condition, *additional)
    assert message.startswith("rules never see a tag '")
    assert remedy in message


@pytest.mark.parametrize(
    "condition",
    [
        "@Modality@ == 'CT' and tags.modality == 'CT' and 'SliceThickness' in tags",
        "tags.ReceiverAET == 'A' or tags.SenderAET == 'B' or tags.SenderAddress == '10.0.0.1'",
        "'IM' in tags.Filename and tags.MediaStorageSOPClassUID != ''",
        "float(tags.kvp) > 100 and @0019,1001@ == 'x'",
        "'Modalty' in tags.Modality or 'Modalty' in ('a', 'b')",
        "tags['Mod' + 'alty'] == 'CT'",
    ],
)
def test_tags_that_can_be_there_and_plain_text_are_no_matter(condition: str) -> None:
    assert _remedies(condition, "KVP", "0019,1001") == []


def test_each_tag_is_reported_once_and_long_names_are_cut() -> None:
    assert len(_remedies("tags.KVP == '1' or tags.KVP == '2' or tags.EchoTime == '3'")) == 2
    (message,) = _remedies(f"tags['{'x' * 5000}'] == '1'")
    assert len(message) < 300


def test_only_tags_with_text_can_be_read() -> None:
    assert readable_name("kvp") == "KVP"
    assert readable_name("(0018,0060)") == "0018,0060"
    assert readable_name("0019,100A") == "0019,100A"
    for name in ("ReceiverAET", "", "RequestAttributesSequence", "0040,0275"):
        assert readable_name(name) is None


def test_the_check_of_a_file_warns_of_such_a_tag_in_the_words_of_the_file() -> None:
    rules = [{"name": "broken", "condition": ""}, route(condition="tags.Modality == 'CT' and float(tags.KVP) > 100")]
    loaded = parse(text_of(good(rules=rules)), environment={})
    (problem,) = [one for one in loaded.problems if one.severity == "warning"]
    assert (problem.path, problem.kind) == ("rules[1].condition", "schema")
    assert problem.line is not None
    assert problem.message.endswith("add KVP to receiver.additional_tags")
    assert parse(text_of(good(rules=rules[1:], receiver={"additional_tags": {"KVP": "120"}}))).problems == ()

    old = {"port": 11112, "rules": {"a": {"rule": "@KVP@ == '1'", "target": "t", "action": "discard"}}}
    (flat,) = [one for one in parse(text_of(old), environment={}).problems if one.severity == "warning"]
    assert flat.path == "rules.a.rule"
    assert flat.message.endswith("add KVP to dicom_receiver.additional_tags")


def test_a_rule_with_such_a_tag_stays_usable() -> None:
    loaded = parse(text_of(good(rules=[route(condition="@Modalty@ == 'CT'")], targets={"archive": archive()})))
    assert [rule.name for rule in loaded.config.rules] == ["ct"]
    assert [(one.severity, one.path) for one in loaded.problems] == [("warning", "rules[0].condition")]
