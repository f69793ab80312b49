"""Words and tables."""

import re
import subprocess
import sys

import pytest

from mercure.cli.output import Column, clean, counted, print_table, size, span

TABLE = (
    "from mercure.cli.output import Column, print_table\n"
    "print_table([Column('NAME'), Column('N', numeric=True), Column('WHY', wraps=True, styles={'bad': 'red'})],"
    " [('job-1', 7, 'bad'), ('[bold]job', 10, 'word ' * 30)])"
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "0 s"), (0.0042, "4 ms"), (0.12, "120 ms"), (1.25, "1.2 s"), (59, "59 s"), (-3, "0 s")),
        *((119, "119 s"), (120, "2 min"), (7200, "2 h"), (172_800, "2 d")),
    ],
)
def test_a_length_of_time_is_said_as_people_say_it(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_numbers_have_their_units() -> None:
    assert (counted(1, "file"), counted(1200, "file")) == ("1 file", "1,200 files")
    assert [size(n) for n in (0, 999, 1500, 2_500_000, 7e12)] == [
        *("0 bytes", "999 bytes", "1.5 kB", "2.5 MB", "7000.0 GB")
    ]


def test_text_from_outside_cannot_control_a_terminal() -> None:
    assert clean("a\x1b[2Jb\n c\u009bd\u202e") == "a?[2Jb c?d?"
    assert clean("Grüße") == "Grüße"


def test_a_table_in_a_pipe_is_aligned_never_cut_and_without_colour() -> None:
    out = subprocess.run([sys.executable, "-c", TABLE], capture_output=True, text=True, check=True).stdout
    header, first, second = out.splitlines()
    assert header == "NAME        N  WHY"
    assert first == "job-1       7  bad"
    assert second.startswith("[bold]job  10  word word")
    assert second.count("word") == 30


def test_a_cell_with_lines_is_one_line_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([Column("JOB")], [(("job-1", "why\nnot"),)])
    assert capsys.readouterr().out.splitlines() == ["JOB", "job-1 why not"]


def test_a_table_on_a_narrow_terminal_wraps_and_keeps_names_whole() -> None:
    command = f'stty cols 50; "{sys.executable}" -c "{TABLE}"'
    env = {"TERM": "xterm-256color", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["script", "-qec", command, "/dev/null"], capture_output=True, text=True, check=True, env=env)
    assert "\x1b[31mbad" in done.stdout
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in done.stdout.splitlines()]
    assert max(map(len, lines)) <= 50
    assert any(line.startswith("[bold]job") for line in lines)
    assert " ".join(lines).count("word") == 30
