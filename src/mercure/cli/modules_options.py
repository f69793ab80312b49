"""The options of `mercure modules`, by what they mean."""

from pathlib import Path
from typing import Annotated, Literal

import typer

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the module.")]
Names = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME]...", help="Modules; by default all that are images.")
]

Arguments = Annotated[
    list[str] | None, typer.Argument(metavar="[ARGUMENT]...", help="Arguments of the command, after --.")
]
Image = Annotated[str | None, typer.Option("--docker-tag", metavar="IMAGE", help="Image of the module.")]
Program = Annotated[
    str | None, typer.Option("--command", metavar="PROGRAM", help="Or a program of this machine; no shell reads it.")
]
Settings = Annotated[str | None, typer.Option(metavar="JSON", help="Settings: a JSON object, or @FILE with one.")]
Variables = Annotated[
    list[str] | None, typer.Option("--env", metavar="NAME=VALUE", help="A variable for it; may be given often.")
]
SecretFiles = Annotated[
    list[str] | None,
    typer.Option("--env-file", metavar="NAME=PATH", help="A variable that is read from a file when it runs: a secret."),
]
Timeout = Annotated[float | None, typer.Option(metavar="SECONDS", help="Longest time of one run.")]
Memory = Annotated[str | None, typer.Option(metavar="SIZE", help="Memory of one run, such as 4G.")]
Cores = Annotated[float | None, typer.Option(metavar="CORES", help="CPU cores of one run.")]
Gpus = Annotated[int | None, typer.Option(metavar="N", help="GPUs that one run has for itself.")]
Parallel = Annotated[int | None, typer.Option(metavar="N", help="Jobs of it at the same time.")]
Pull = Annotated[
    Literal["always", "missing", "never"] | None,
    typer.Option(metavar="WHEN", help="When its image is fetched: always, missing or never."),
]
Network = Annotated[bool, typer.Option("--network", help="It may use the network.")]
WritesInput = Annotated[bool, typer.Option("--writes-input", help="It changes its input, and gets a copy.")]
Persistence = Annotated[bool, typer.Option("--persistence", help="It gets a folder that stays.")]
Comment = Annotated[str | None, typer.Option(metavar="TEXT", help="For people.")]
Replace = Annotated[bool, typer.Option("--replace", help="Put it in the place of one of this name.")]

Input = Annotated[
    Path, typer.Option("--input", metavar="DIR", help="Folder with DICOM files, also below it.", exists=True)
]
Output = Annotated[Path | None, typer.Option(metavar="DIR", help="Keep here what it makes; a new or empty folder.")]
SettingsOver = Annotated[
    str | None, typer.Option(metavar="JSON", help="Settings over those of the module: an object, or @FILE.")
]
TrialTimeout = Annotated[
    float | None, typer.Option(min=0.1, metavar="SECONDS", help="Longest time; by default that of the module.")
]
Called = Annotated[str, typer.Option(metavar="AE", help="AE title that the sender called, in task.json.")]
Calling = Annotated[str, typer.Option(metavar="AE", help="AE title of the sender, in task.json.")]
