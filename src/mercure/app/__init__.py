"""From a configuration to a running platform. Import from its modules; the package itself imports nothing."""
