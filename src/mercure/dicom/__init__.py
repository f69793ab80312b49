"""The wire: DICOM associations and DIMSE messages (SCP and SCU), header reading, TLS, transcoding."""
