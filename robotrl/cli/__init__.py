"""The command line, a file per command: `command_line.py` finds the one that is named."""

from robotrl.cli.command_line import main

__all__ = ["main"]
