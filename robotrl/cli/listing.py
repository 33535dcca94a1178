"""The command `robotrl list`."""

from __future__ import annotations

import json
from collections.abc import Sequence

from robotrl.cli.terminal import command_parser, print_table
from robotrl.core.catalog import LISTED
from robotrl.core.errors import unknown_name

_KINDS = {listed: group for group, listed in LISTED.items()}

# of the columns of a task's sizes
_UNITS = ("", "", " Hz", " s")


def list_names(words: Sequence[str]) -> None:
    """Print what can be named."""
    parser = command_parser(
        "list", "Print the names that can be given to `robotrl train`.", "list tasks\nlist recipes --json"
    )
    parser.add_argument("kind", metavar="|".join(_KINDS), help="what to list")
    parser.add_argument(
        "--json", action="store_true", help='print [{"name": ..., "description": ...}, ...], tasks with sizes'
    )
    args = parser.parse_args(words)
    if args.kind not in _KINDS:
        raise unknown_name("list", args.kind, _KINDS)
    from robotrl.core.catalog import available, task_sizes

    entries = available(_KINDS[args.kind])
    sizes = task_sizes() if args.kind == "tasks" else {}
    if args.json:
        rows = [{"name": name, "description": text, **sizes.get(name, {})} for name, text in entries.items()]
        print(json.dumps(rows, indent=2))
    elif sizes:
        print_table(
            ["tasks", "observation", "action", "control", "episode", "description"],
            [
                (name, *(f"{value:g}{unit}" for value, unit in zip(size.values(), _UNITS, strict=True)), text)
                for name, text in entries.items()
                for size in [sizes[name]]
            ],
        )
        _list_foreign()
    else:
        print_table([args.kind, "description"], entries.items())


def _list_foreign() -> None:
    """Print how environments of other libraries are named, and EnvPool's catalogue where it is installed."""
    from robotrl.core.catalog import available
    from robotrl.envs.foreign.envpool_catalog import robot_tasks

    libraries = available("task/foreign").items()
    print_table(
        ["task of another library", "description"], [(f"{name}:ID", text) for name, text in libraries]
    )
    families = robot_tasks()
    if families:
        print_table(
            ["envpool:ID", "robots; more is in envpool.list_all_envs()"],
            [(family, " ".join(ids)) for family, ids in families.items()],
        )
