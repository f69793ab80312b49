"""Why a job is refused. Texts name tags, UIDs and settings, never values: they go to the log of the job."""


class AnonymizerError(Exception):
    """The job is refused; nothing is written."""


class SettingsError(AnonymizerError):
    """The settings, or a file that they name, cannot be used."""


class InstanceError(AnonymizerError):
    """An instance cannot be de-identified safely."""
