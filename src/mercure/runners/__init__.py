"""What runs modules: one kind in each file, behind the port of `core/processing.py`."""
