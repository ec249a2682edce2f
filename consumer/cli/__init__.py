"""The command line, one file a command. A new one: write ``<command>.py`` and add it to ``app.py``."""

from consumer.cli.app import main

__all__ = ["main"]
