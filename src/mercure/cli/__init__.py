"""The command line `mercure`: one file for each command."""
