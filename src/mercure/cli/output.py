"""Printing: tables and lines for people, JSON for programs. Nothing that came from outside reaches a terminal raw."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import typer

_STEPS = ((172_800, 86_400, "d"), (7_200, 3_600, "h"), (120, 60, "min"))


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. One that `wraps` gives way when the terminal is narrow; `styles` maps values to colours."""

    title: str
    numeric: bool = False
    wraps: bool = False
    styles: Mapping[str, str] = field(default_factory=dict)


def is_terminal() -> bool:
    """Whether a person reads the output."""
    return sys.stdout.isatty()


def clean(text: object) -> str:
    """Return text for one line of a terminal: what could control it is replaced, line ends become spaces."""
    joined = " ".join(str(text).split())
    return joined if joined.isprintable() else "".join(char if char.isprintable() else "?" for char in joined)


def say(text: str = "") -> None:
    """Print a line."""
    typer.echo(text)


def complain(text: str) -> None:
    """Print a line on stderr."""
    typer.echo(text, err=True)


def print_json(value: Any) -> None:
    """Print a value as JSON in plain ASCII."""
    typer.echo(json.dumps(value, indent=2, default=_plain))


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> None:
    """Print rows: with colours and in the width of the terminal, or else aligned and never cut.

    A cell that is a tuple has several lines; in a pipe they are one.
    """
    separator = "\n" if is_terminal() else " "
    cells = [[_cell(cell, separator) for cell in row] for row in rows]
    if is_terminal():
        _print_rich(columns, cells)
    else:
        _print_plain(columns, cells)


def _cell(value: object, separator: str) -> str:
    return separator.join(clean(line) for line in value) if isinstance(value, tuple) else clean(value)


def _print_plain(columns: Sequence[Column], rows: list[list[str]]) -> None:
    lines = [[column.title for column in columns], *rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    for line in lines:
        padded = (
            cell.rjust(width) if column.numeric else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        )
        typer.echo("  ".join(padded).rstrip())


def _print_rich(columns: Sequence[Column], rows: list[list[str]]) -> None:
    from rich.console import Console  # noqa: PLC0415 - not needed when the output is piped
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(
            column.title,
            justify="right" if column.numeric else "left",
            no_wrap=not column.wraps,
            overflow="fold",
            ratio=1 if column.wraps else None,
        )
    for row in rows:
        table.add_row(
            *(Text(cell, column.styles.get(cell, "")) for cell, column in zip(row, columns, strict=True)),
        )
    Console(highlight=False).print(table)


def span(seconds: float | timedelta) -> str:
    """Return a length of time as a person says it: 5 ms, 1.2 s, 45 s, 12 min, 3 h, 2 d."""
    value = seconds.total_seconds() if isinstance(seconds, timedelta) else seconds
    for least, unit, name in _STEPS:
        if value >= least:
            return f"{value / unit:.0f} {name}"
    if value >= 10 or value <= 0:
        return f"{max(value, 0):.0f} s"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def counted(count: int, noun: str) -> str:
    """Return a number and its noun: 1 instance, 2 instances."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def size(count: float) -> str:
    """Return a number of bytes in decimal units."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return ""
