"""`mercure demo`: the whole platform at work on one machine, with real series, shown live and checked at the end."""

from mercure.cli.demo.command import demo

__all__ = ["demo"]
