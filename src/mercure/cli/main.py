"""The command `mercure`."""

import logging
import os
from typing import Annotated

import typer

from mercure.app import Platform
from mercure.config.store import ConfigStore, config_path

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command()
def run(services: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """Run the platform."""
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(message)s")
    platform = Platform(ConfigStore(config_path(os.environ)), services or ("receiver", "router", "dispatcher"))
    platform.stop_on_signals()
    platform.run()


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo("mercure")


def main() -> None:
    """Run."""
    app()


if __name__ == "__main__":
    main()
