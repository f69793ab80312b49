"""What the commands work on: the configuration of this machine, and the data folder that it names."""

import os
from pathlib import Path

from mercure.app.assembly import layout_of
from mercure.cli.exits import CommandError, Exit
from mercure.cli.output import complain
from mercure.config.environment import config_path
from mercure.config.load import Loaded, load, load_folders
from mercure.config.problems import InvalidConfigError
from mercure.core.errors import ConfigError
from mercure.spool.layout import Layout


def configuration_file() -> Path:
    """Return the path of the configuration of this machine."""
    return config_path(os.environ)


def configuration(path: Path | None = None) -> Loaded:
    """Read a configuration. Raises `CommandError` that says where it was looked for and what to do."""
    path = path or configuration_file()
    try:
        return load(path)
    except ConfigError as error:
        raise unusable(path, error) from None


def configuration_or_folders() -> Loaded:
    """Read the configuration, or only its folders while the rest is broken: the queue can be looked at all the same.

    Running services go on with the last good configuration then.
    """
    path = configuration_file()
    try:
        return load(path)
    except ConfigError as error:
        try:
            folders = load_folders(path)
        except ConfigError:
            raise unusable(path, error) from None
        complain(f"note: {path} cannot be used, only its folders are; `mercure config check` shows why")
        return folders


def unusable(path: Path, error: ConfigError) -> CommandError:
    """Return the error for a configuration that cannot be used."""
    if isinstance(error, InvalidConfigError):
        count = len(error.problems)
        more = f" (the first of {count} problems)" if count > 1 else ""
        remedy = "`mercure config check` shows every problem."
        return CommandError(f"{path} cannot be used: {error.problems[0]}{more}", remedy, Exit.CONFIGURATION)
    if not path.exists():
        remedy = "MERCURE_CONFIG_FOLDER names the folder of mercure.json; `mercure config import` makes one of an older"
        return CommandError(f"there is no configuration {path}", f"{remedy} file.", Exit.CONFIGURATION)
    return CommandError(str(error), "The user that runs this must be able to read it.", Exit.CONFIGURATION)


def data_folder(loaded: Loaded) -> Layout:
    """Return the data folder of a configuration. Raises `CommandError` when it is not there."""
    layout = layout_of(loaded.config)
    for path in (*layout.folders().values(), layout.sealed):
        if not path.is_dir():
            remedy = "`mercure run` makes what is missing; `mercure doctor` says why it cannot."
            raise CommandError(f"there is no folder {path}", remedy, Exit.DATA_FOLDER)
    return layout
