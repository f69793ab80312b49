"""`mercure modules`: list, add, test and pull processing modules. Arguments only; the work is beside."""

import difflib
from typing import Any

import typer

from mercure.cli import installation
from mercure.cli import modules_options as opt
from mercure.cli.exits import CommandError, Exit
from mercure.cli.modules_engine import Engine
from mercure.cli.modules_file import NewModule, save_module, settings_of, variables
from mercure.cli.modules_list import modules_of, print_modules
from mercure.cli.modules_show import outcome_to_json, print_outcome
from mercure.cli.modules_trial import Trial
from mercure.cli.options import JSON, ae_title, new_app
from mercure.cli.output import clean, complain, print_json, say
from mercure.cli.send_files import find_instances
from mercure.config.load import Loaded
from mercure.config.modules import module_spec, public_part
from mercure.config.schema import Module
from mercure.core.errors import ConfigError
from mercure.core.processing_steps import StepPlan

app = new_app("See and add processing modules, try them on a folder of images, and fetch their images.")


@app.command("list")
def list_(*, as_json: JSON = False) -> None:
    """List the modules of the configuration: what runs them, the digest of an image that is here, which rules use them.

    Exit status 1: one of them cannot be used.
    """
    loaded = installation.configuration()
    modules = modules_of(loaded, Engine(loaded.config).digest)
    if as_json:
        print_json([one.to_json() for one in modules])
    else:
        print_modules(modules)
    if any(one.trouble for one in modules):
        raise typer.Exit(Exit.FAILED)


@app.command()
def add(
    name: opt.Name,
    arguments: opt.Arguments = None,
    *,
    docker_tag: opt.Image = None,
    command: opt.Program = None,
    settings: opt.Settings = None,
    env: opt.Variables = None,
    env_file: opt.SecretFiles = None,
    timeout: opt.Timeout = None,
    memory_limit: opt.Memory = None,
    cpu_limit: opt.Cores = None,
    gpus: opt.Gpus = None,
    max_parallel: opt.Parallel = None,
    pull: opt.Pull = None,
    network: opt.Network = False,
    writes_input: opt.WritesInput = False,
    persistence: opt.Persistence = False,
    comment: opt.Comment = None,
    replace: opt.Replace = False,
    as_json: JSON = False,
) -> None:
    """Add a module to the configuration. Services that run take it up at once.

    Give either --docker-tag or --command; arguments of a command stand after --, each by itself. Other keys can be
    edited in the file. Exit status 3: the module, or the file as it is, has a fault; nothing was changed.
    """
    if bool(docker_tag) == bool(command) or (arguments and not command):
        raise CommandError("give either --docker-tag or --command", "See `mercure modules add --help`.", Exit.USAGE)
    keys: dict[str, Any] = {
        "docker_tag": docker_tag,
        "command": [command, *(arguments or ())] if command else None,
        "settings": settings_of(settings),
        "environment": variables(env or (), env_file or ()),
        "timeout": timeout,
        "memory_limit": memory_limit,
        "cpu_limit": cpu_limit,
        "gpus": gpus or None,
        "max_parallel": max_parallel,
        "pull": pull,
        "network_enabled": network,
        "writes_input": writes_input,
        "requires_persistence": persistence,
        "comment": comment,
    }
    path = installation.configuration_file()
    warning = save_module(path, NewModule(name, keys), replace=replace)
    if as_json:
        print_json({"module": name, "file": path, "warning": warning})
        return
    say(clean(f"Module {name} is in {path}; `mercure modules test {name} --input DIR` tries it."))
    if warning:
        complain(clean(f"note: it cannot run yet: {warning}"))


@app.command("test")
def try_(
    name: opt.Name,
    *,
    input_folder: opt.Input,
    output: opt.Output = None,
    settings: opt.SettingsOver = None,
    timeout: opt.TrialTimeout = None,
    called: opt.Called = "",
    calling: opt.Calling = "",
    as_json: JSON = False,
) -> None:
    """Run a module on a folder of images, outside the pipeline, and show what it made.

    It sees copies of the images as in a job, with task.json and .tags, in a folder of its own below TMPDIR; a folder
    that stays between jobs is an empty one. Nothing is sent or stored. Exit status 1: a job would have failed.
    """
    loaded = installation.configuration()
    module = _module(loaded, name)
    config = loaded.config
    try:
        spec = module_spec(name, module, config.processor)
    except ConfigError as error:
        raise CommandError(f"module {name!r} {error}", "", Exit.CONFIGURATION) from None
    files = [one.path for one in find_instances([input_folder]).instances]
    if not files:
        raise CommandError(f"there is no DICOM file in {input_folder}", "Give a folder with images.", Exit.USAGE)
    plan = StepPlan(
        name,
        {**module.settings, **settings_of(settings)},
        timeout if timeout is not None else spec.timeout_seconds,
        module_config=public_part(module),
    )
    trial = Trial(
        spec,
        plan,
        files,
        config.processor.gpus,
        config.processor.kill_grace_seconds,
        tuple(config.receiver.additional_tags),
        ae_title(calling) if calling else "",
        ae_title(called) if called else "",
        output,
    )
    outcome = trial.run(Engine(config).runner(spec.runner))
    if as_json:
        print_json(outcome_to_json(spec, outcome))
    else:
        print_outcome(spec, outcome, output)
    if outcome.reason:
        raise typer.Exit(Exit.FAILED)


@app.command()
def pull(names: opt.Names = None, *, as_json: JSON = False) -> None:
    """Fetch the images of modules, whatever their policy says, and show their digests.

    Exit status 1: one of them could not be fetched.
    """
    loaded = installation.configuration()
    chosen = {name: _module(loaded, name) for name in names or loaded.config.modules}
    if others := [name for name, module in chosen.items() if names and not module.docker_tag]:
        raise CommandError(f"module {others[0]!r} is a command", "Only images are fetched.", Exit.USAGE)
    images = {name: module.docker_tag for name, module in chosen.items() if module.docker_tag}
    engine = Engine(loaded.config)
    results = [engine.pull(name, image) for name, image in images.items()]
    if as_json:
        print_json([one.to_json() for one in results])
    elif not results:
        say("No module is an image.")
    else:
        for one in results:
            (complain if one.reason else say)(clean(one.sentence))
    if any(one.reason for one in results):
        raise typer.Exit(Exit.FAILED)


def _module(loaded: Loaded, name: str) -> Module:
    """Return a module by its name. Raises `CommandError`."""
    found = loaded.config.modules.get(name)
    if found is not None:
        return found
    if reason := loaded.broken_modules.get(name):
        raise CommandError(f"module {name!r} cannot be used: {reason}", "", Exit.CONFIGURATION)
    known = tuple(loaded.config.modules)
    close = difflib.get_close_matches(name, known, 1)
    remedy = f"Did you mean {close[0]}?" if close else f"Modules: {', '.join(known) or 'none'}."
    raise CommandError(f"there is no module {name!r}", remedy, Exit.USAGE)
