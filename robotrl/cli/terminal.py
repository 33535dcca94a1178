"""What every command of the program uses: its argument parser and the tables it prints."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from robotrl.core.errors import UsageError


class _Parser(argparse.ArgumentParser):
    """An argument parser that reports its errors as every other part of the program does."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see `{self.prog} --help`)")


def command_parser(command: str, summary: str, examples: str) -> argparse.ArgumentParser:
    """Return the parser of `robotrl COMMAND`.

    Args:
        command: its name.
        summary: what it does, above its arguments.
        examples: one a line, without the program's name.
    """
    return _Parser(
        prog=f"robotrl {command}",
        description=summary,
        epilog="examples:\n" + "\n".join(f"  robotrl {line}" for line in examples.splitlines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table with a header to stdout."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for title in header:
        table.add_column(title, overflow="fold")  # a path is worth nothing with its end cut off
    for row in rows:
        table.add_row(*row)
    # a pipe has no width: nothing is folded there
    width = None if sys.stdout.isatty() else 200
    Console(width=width, markup=False, emoji=False, highlight=False).print(table)


def read_key(path: Path | None) -> bytes:
    """Return the secret in a file, b"" for no file.

    Raises:
        UsageError: the file cannot be read, or is too short to be a secret.
    """
    if path is None:
        return b""
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise UsageError(f"--key-file {path}: {error.strerror}") from error
    if len(key) < 16:
        raise UsageError(f"--key-file {path}: {len(key)} bytes are no secret, give it at least 16")
    return key
