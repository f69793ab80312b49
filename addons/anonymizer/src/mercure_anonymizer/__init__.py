"""De-identification of DICOM instances by PS3.15 Annex E, as a module of Mercure."""

__version__ = "0.1.0"
