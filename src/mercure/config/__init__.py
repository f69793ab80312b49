"""The configuration: files in the config folder become checked, frozen values, and back.

Only this package knows the keys of a file. Import from its modules; the package itself imports nothing.
"""
