"""Whether a module could run here, as this user: all that a run asks for, short of running it.

An engine that is away, and an image that is not here, are no such thing: jobs wait for them.
"""

import os
import shutil

from mercure.config.modules import module_spec, module_trouble
from mercure.config.schema import Module, ProcessorSection
from mercure.core.errors import ConfigError
from mercure.core.module_policy import root_trouble
from mercure.core.processing import ModuleSpec
from mercure.runners.process import PATH


def why_it_cannot_run(name: str, module: Module, processor: ProcessorSection) -> str:
    """Say what keeps a module from running, or "": its configuration, a secret, this user, its program."""
    if reason := module_trouble(module, processor):
        return reason
    try:
        spec = module_spec(name, module, processor)
    except ConfigError as error:
        return str(error).removeprefix("cannot be used: ")
    return root_trouble(spec, os.geteuid()) or program_trouble(spec)


def program_trouble(spec: ModuleSpec) -> str:
    """Say why the program of a module that is a command cannot be run by this user, or "". Images have none here."""
    if spec.runner != "process":
        return ""
    program = spec.command[0]
    # A relative path would start in the private folder of the run, where no program is.
    is_relative = "/" in program and not program.startswith("/")
    if not is_relative and shutil.which(program, path=search_path(spec)):
        return ""
    is_there = os.path.isabs(program) and os.path.exists(program)
    return f"the program {program} {'cannot be run by this user' if is_there else 'does not exist'}"


def search_path(spec: ModuleSpec) -> str:
    """Return where the program of a module is looked for when it has no slash."""
    return spec.environment.get("PATH", PATH)
