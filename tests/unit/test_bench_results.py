"""The tables of bench/RESULTS.md."""

import re
from pathlib import Path

from bench.results import Goal, Report, markdown, write


def report(part: str, title: str, *runs: float) -> Report:
    made = Report(part, title)
    made.add("speed", "1/s", runs)
    return made


def test_a_section_replaces_its_predecessor_and_stands_in_its_order(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    path.write_text("# Results\n\nWritten by hand.\n")
    for part, title in (("b", "2. Second"), ("c", "3. Third"), ("a", "1. First"), ("b", "2. Second again")):
        write(report(part, title, 1.0), "python -m bench", path)
    text = path.read_text()
    assert re.findall(r"(?m)^## (.*)", text) == ["1. First", "2. Second again", "3. Third"]
    assert re.findall(r"<!-- generated: (\w)", text) == re.findall(r"<!-- end of generated: (\w)", text) == list("abc")
    assert text.startswith("# Results\n\nWritten by hand.\n\n<!-- generated: a -->")


def test_a_figure_is_the_median_of_its_runs_and_many_runs_are_summed_up() -> None:
    text = markdown(report("a", "1. First", 3.0, 1.0, 50.0, 2.0, 4.0), "c")
    assert "| speed | 3 | 1/s | 3, 1, 50.0, 2, 4 |" in text
    text = markdown(report("a", "1. First", *range(1, 22)), "c")
    assert "| speed | 11.0 | 1/s | 21 runs from 1 to 21.0 |" in text


def test_a_goal_says_whether_it_is_met() -> None:
    made = report("a", "1. First", 1.0)
    made.goals = [Goal("1a", "ratio", 1.19, 1.2), Goal("1b", "delay", 50.0, 50.0, at_least=False)]
    text = markdown(made, "c")
    assert "| 1a | ratio | 1.19 | >= 1.2 | **missed** |" in text
    assert "| 1b | delay | 50.0 | <= 50.0 | met |" in text
