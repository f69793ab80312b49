"""The append-only record of events: every service writes its own file, readers gather them.

Import from its modules; the package itself imports nothing.
"""
