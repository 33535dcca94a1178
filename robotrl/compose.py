"""From `key=value` words to a `TrainConfig`: Hydra composes the YAML files, `core.config` types them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from robotrl.core import config
from robotrl.core.catalog import GROUPS, LISTED, available
from robotrl.core.errors import UsageError, unknown_name
from robotrl.core.paths import CONFIGS
from robotrl.core.schema import first_line, read_yaml

# what a realism section of the user's is called inside Hydra
_STORED = "file_of_the_user"


def compose(overrides: Sequence[str] = (), values: Mapping[str, Any] | None = None) -> config.TrainConfig:
    """Compose, type and validate a training configuration.

    Args:
        overrides: words such as "recipe=quickstart", "algorithm=ppo", "algorithm.learning_rate=1e-4".
        values: fields of `RunOptions` or whole sections as Python values; they win over `overrides`.

    Raises:
        UsageError: a name, key, type or value is wrong.
    """
    return config.resolve(_compose(overrides, values or {}))


def compose_task(name: str, options: Mapping[str, Any]) -> Any:
    """Return the task instance of configs/task/<name>.yaml with some of its options changed."""
    document = _compose([f"task={name}"], {"task": options} if options else {})
    return config.resolve_task(OmegaConf.to_container(document.task))  # type: ignore[arg-type]


def compose_task_words(words: Sequence[str]) -> tuple[Any, str]:
    """Return the task that words such as "task=walker_walk", "realism=typical" describe, and its name.

    Raises:
        UsageError: a name, key, type or value is wrong.
    """
    document = _compose(words, {})
    section = OmegaConf.to_container(document.task) if document.get("task") else {}
    task = config.resolve_task(section)  # type: ignore[arg-type]
    return task, document.task_name or config.snake_case(type(task).__name__)


def split_sweep(overrides: Sequence[str]) -> list[list[str]]:
    """Expand `key=1,2` words into one list of words per job, the last key varying fastest."""
    with _plain_errors():
        parsed = OverridesParser.create().parse_overrides([_forced(word) for word in overrides])
        (jobs,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    return [[_unforced(word) for word in job] for job in jobs]


def _compose(overrides: Sequence[str], values: Mapping[str, Any]) -> DictConfig:
    words, foreign = _split_foreign(_with_stored_realism(overrides))
    with _plain_errors(), _own_hydra():
        composed = hydra.compose("train", [_forced(word) for word in words], return_hydra_config=True)
        choices = composed.hydra.runtime.choices
        names = {"task_name": choices["task"] or "", "recipe": choices["recipe"]}
        document = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    with open_dict(document):
        given = {word.partition("=")[0] for word in words}
        if "task._target_" in given:  # the name of a class of the user's is its own
            names["task_name"] = ""
        other = given & {"task", "algorithm", "task._target_", "algorithm._target_"}
        if other and "target_return" not in given:
            document.target_return = None  # a recipe's is of its own task and algorithm
        # of numpy's numbers OmegaConf knows nothing
        plain = {key: value.item() if hasattr(value, "item") else value for key, value in values.items()}
        merged = OmegaConf.merge(names, foreign, document, plain)
    assert isinstance(merged, DictConfig)
    return merged


def _with_stored_realism(overrides: Sequence[str]) -> list[str]:
    """Give Hydra a realism section of the user's, `realism=FILE.yaml`, as if it were one of ours.

    Raises:
        UsageError: there is no such file or it is no YAML of keys and values.
    """
    words = list(overrides)
    for i, word in enumerate(words):
        key, _, value = word.partition("=")
        file = Path(value.strip("'\""))
        if key != "realism" or file.suffix not in (".yaml", ".yml"):
            continue
        section = read_yaml(file, "realism section")
        ConfigStore.instance().store(group="realism", name=_STORED, node=section, package="task.realism")
        words[i] = f"realism={_STORED}"
    return words


def _split_foreign(overrides: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Split `task=LIBRARY:ID` into a word that Hydra understands and the values that it stands for."""
    words, foreign = list(overrides), dict[str, Any]()
    libraries = available("task/foreign")
    for i, word in enumerate(words):
        if not word.startswith("task="):
            continue
        with _plain_errors():
            override = OverridesParser.create().parse_override(word)
        if override.is_sweep_override():
            continue
        foreign = {}  # a later choice wins
        name = str(override.value())
        library, colon, identifier = name.partition(":")
        if colon and library not in libraries:
            raise unknown_name("library", library, libraries)
        if library in libraries:
            if not identifier:
                raise UsageError(f"task={library} needs the environment's id: task={library}:ID")
            words[i] = f"task=foreign/{library}"
            # a run's folder is named after its task
            foreign = {"task": {"id": identifier}, "task_name": re.sub(r"[^\w.-]", "_", name)}
    return words, foreign


def _forced(word: str) -> str:
    """Let a value override add a key that no YAML file mentions: the schema decides what exists."""
    key, equals, _ = word.partition("=")
    if not equals and not word.startswith("~"):
        hint = next((f" (did you mean {g}={word}?)" for g in reversed(GROUPS) if word in available(g)), "")
        raise UsageError(f"cannot read {word!r}: expected key=value{hint}")
    plain = not key.startswith(("+", "~", "hydra.", "hydra/")) and not set(key) & set("/@")
    return f"++{word}" if plain and key not in GROUPS else word


@contextmanager
def _own_hydra() -> Iterator[None]:
    """Compose from our folder even inside a program that itself runs under Hydra."""
    state = GlobalHydra.instance()
    outer, state.hydra = state.hydra, None
    try:
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = outer


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Turn Hydra's errors into one line each."""
    try:
        yield
    except MissingConfigException as error:
        group, _, name = (error.missing_cfg_file or "").partition("/")
        unknown = unknown_name(group, name, error.options or available(group))
        more = "" if "(did you mean" in str(unknown) else f"; see `robotrl list {LISTED.get(group, group)}`"
        raise UsageError(f"{unknown}{more}") from error
    except OverrideParseException as error:
        raise UsageError(
            f"cannot read {_unforced(error.override)!r}: expected key=value; quote a value with special "
            "characters twice, as in \"key='a b=c'\""
        ) from error
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        message = first_line(error)
        if message.startswith("Ambiguous value"):
            word = _unforced(message.split("'", 1)[1].rstrip("'"))
            key, _, several = word.partition("=")
            message = f"{word} gives several values: add --multirun to train each, or write {key}=[{several}]"
        if message.startswith("Config group override"):
            message = f"{', '.join(GROUPS)} each take one NAME (`robotrl list tasks` and so on)"
        raise UsageError(message) from error


def _unforced(word: str | None) -> str:
    return (word or "").removeprefix("++")
