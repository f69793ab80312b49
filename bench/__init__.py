"""What Mercure must reach, measured against its peers in one run on one machine: `python -m bench`."""
