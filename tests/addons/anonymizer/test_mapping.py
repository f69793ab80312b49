from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mercure_anonymizer.errors import SettingsError
from mercure_anonymizer.lookup import Entry, read_lookup
from mercure_anonymizer.mapping import Mapping, project_key
from mercure_anonymizer.values import shifted, truncated
from pydicom.uid import UID

SECRET = "a secret for tests"


def mapping(secret: str = SECRET, project: str = "p") -> Mapping:
    return Mapping(project_key(secret, project))


@given(st.text(min_size=1), st.text(min_size=1))
def test_new_uids_are_valid_equal_for_equal_ones_and_different_for_others(first: str, second: str) -> None:
    made = mapping().uid(first)
    assert UID(made).is_valid
    assert made.startswith("2.25.")
    assert int(made[5:]) < 2**128
    assert made == mapping().uid(first)
    assert (made == mapping().uid(second)) == (first == second)


def test_secret_and_project_decide() -> None:
    made = {mapping(secret, project).uid("1.2") for secret in (SECRET, SECRET + "2") for project in ("p", "q")}
    assert len(made) == 4
    assert mapping().pseudonym("4711") != mapping(SECRET, "q").pseudonym("4711")


def test_pseudonyms_and_numbers_do_not_hold_what_they_replace() -> None:
    made = mapping()
    assert made.pseudonym("4711").startswith("ANON")
    assert "4711" not in made.pseudonym("4711") + made.number("mrn", "4711", 14) + made.name("4711")
    assert len(made.number("mrn", "4711", 14)) == 14


def test_dates_move_into_the_past_by_at_most_the_days_that_are_set() -> None:
    days = {Mapping(project_key(SECRET, ""), 10).shift_days(str(patient)) for patient in range(200)}
    assert days == set(range(-10, 0))


def test_the_secret_is_not_shown() -> None:
    assert SECRET not in repr(mapping())
    assert repr(mapping().key) not in repr(mapping())


def test_a_short_secret_is_refused_without_showing_it() -> None:
    with pytest.raises(SettingsError) as caught:
        project_key("short", "")
    assert "short" not in str(caught.value).replace("shorter", "")


def test_without_secret_nothing_can_be_linked() -> None:
    assert project_key(None, "p") != project_key(None, "p")


@pytest.mark.parametrize(
    ("vr", "text", "days", "result"),
    [
        ("DA", "20240301", -1, "20240229"),
        ("DA", "2024.03.01", 1, "20240302"),
        ("DT", "20240301120000.5+0100", -366, "20230301120000.5+0100"),
        ("DT", "202403", -1, "202402"),
        ("DT", "2024", -1, "2023"),
        ("TM", "235959", -1, "235959"),
        ("DA", "20241301", 1, None),
        ("DA", "00010101", -1, None),
        ("DA", "", -1, ""),
    ],
)
def test_dates_are_moved_as_precisely_as_they_are(vr: str, text: str, days: int, result: str | None) -> None:
    assert shifted(vr, text, days) == result


def test_a_truncated_date_says_the_year_only() -> None:
    assert [truncated(vr, "19700523101500") for vr in ("DA", "DT", "TM")] == ["19700101", "19700101", None]


def write(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_the_table_gives_pseudonyms_and_shifts(tmp_path: Path) -> None:
    lines = ("patient_id,pseudonym,date_shift_days", " 4711 ,TRIAL-001,-17", '"12,3",TRIAL-002,')
    found = read_lookup(write(tmp_path / "table.csv", *lines))
    assert found == {"4711": Entry("TRIAL-001", -17), "12,3": Entry("TRIAL-002")}
    made = Mapping(project_key(SECRET, ""), 365, found)
    assert (made.pseudonym("4711"), made.shift_days("4711")) == ("TRIAL-001", -17)
    assert made.shift_days("12,3") < 0


def test_a_patient_that_the_table_lacks_is_refused_or_derived_as_the_settings_say() -> None:
    table = {"1": Entry("A")}
    with pytest.raises(SettingsError, match="not in the look-up table"):
        Mapping(b"k", 365, table).pseudonym("SECRETID")
    assert Mapping(b"k", 365, table, refuse_unknown=False).pseudonym("2").startswith("ANON")


@pytest.mark.parametrize(
    "lines",
    [
        ("id,pseudonym", "PHI1,A"),
        ("patient_id,pseudonym", "PHI1,A", "PHI2,A"),
        ("patient_id,pseudonym", "PHI1,A", "PHI1,B"),
        ("patient_id,pseudonym", "PHI1,A\\B"),
        ("patient_id,pseudonym", ",A"),
        ("patient_id,pseudonym,date_shift_days", "PHI1,A,soon"),
        ("patient_id,pseudonym,date_shift_days", "PHI1,A,99999"),
        ("patient_id,pseudonym,comment", "PHI1,A,x"),
    ],
)
def test_a_table_that_cannot_be_trusted_is_refused_without_repeating_it(lines: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        read_lookup(write(tmp_path / "table.csv", *lines))
    assert "PHI" not in str(caught.value)


def test_a_table_behind_a_link_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "table.csv", "patient_id,pseudonym", "1,A")
    (tmp_path / "link.csv").symlink_to(tmp_path / "table.csv")
    with pytest.raises(SettingsError, match="NotRegularError"):
        read_lookup(str(tmp_path / "link.csv"))
    with pytest.raises(SettingsError, match="NotRegularError"):
        read_lookup(str(tmp_path))
