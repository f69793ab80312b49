"""What `mercure run` says at its start, as a process."""

from pathlib import Path

from tests.peers import wait_until
from tests.unit.cli.site import Site

from mercure.config.folders import STAGES


def first_words(site: Site) -> str:
    """Run a service that needs no port, and return the line of its log that says what it works on."""
    with site.running("router", until=str(site.config_file)) as running:
        wait_until(lambda: running.log.partition(str(site.config_file))[2].count("\n") > 0, "the end of that line")
        return next(line for line in running.log.splitlines() if str(site.config_file) in line)


def test_it_says_which_configuration_and_which_data_folder_it_works_on(site: Site) -> None:
    assert first_words(site).endswith(f"configuration {site.config_file}, data folder {site.data}")


def test_a_flat_file_with_folders_elsewhere_is_not_said_to_work_in_a_data_folder(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.remove_data()
    folders = {name: tmp_path / "elsewhere" / f"{name}-here" for name in STAGES}
    for folder in folders.values():
        folder.mkdir(parents=True)
    site.configuration = {f"{name}_folder": str(folder) for name, folder in folders.items()}
    site.write()
    assert first_words(site).endswith(f"configuration {site.config_file}, incoming folder {folders['incoming']}")


def test_one_folder_elsewhere_is_enough(site: Site) -> None:
    elsewhere = site.folder / "failed"
    elsewhere.mkdir()
    site.configuration["mercure"]["error_folder"] = str(elsewhere)
    site.write()
    assert first_words(site).endswith(f"incoming folder {site.data / 'incoming'}")
