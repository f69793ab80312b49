"""Mercure: a DICOM orchestration platform. See ARCHITECTURE.md for how the packages fit together."""

__version__ = "0.1.0"
