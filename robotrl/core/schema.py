"""Typed values from plain ones: a dataclass is filled key by key, so that every error names its key."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import importlib
import importlib.util
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from robotrl.core.errors import RobotrlError, UsageError, nearest
from robotrl.core.paths import ASSETS


def _home(package: str) -> Path | None:
    """Return the folder of a top-level package, or of a plain module's file; None where there is none."""
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # __main__
        return None
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def _package_file(package: str, file: str) -> str:
    # that the package is missing is said where its class is loaded
    return str((_home(package) or Path()) / file)


# let a saved configuration name shipped files and a package's own so that it holds on another machine
OmegaConf.register_new_resolver("assets", lambda file: str(ASSETS / file), replace=True)
OmegaConf.register_new_resolver("package", _package_file, replace=True)


def load_target(target: str, kind: str) -> Any:
    """Import the class that an import path names.

    Raises:
        UsageError: the module or the name in it does not exist.
    """
    module_name, _, name = str(target).rpartition(".")
    try:
        module = importlib.import_module(module_name) if module_name else None
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise UsageError(f"{kind} {target} needs the package {error.name!r}: install it") from error
        raise UsageError(f"{kind} target {target!r}: there is no module {error.name!r}") from error
    if module is None:
        raise UsageError(f"{kind} target {target!r}: expected an import path such as package.module.Class")
    if not hasattr(module, name):
        raise UsageError(f"{kind} target {target!r}: no {name!r} in the module{nearest(name, vars(module))}")
    return getattr(module, name)


def schema_of(target: Any, kind: str) -> type:
    """Return the dataclass that describes the configuration of a class.

    Raises:
        UsageError: the class has none, so it cannot be a task, algorithm or policy.
    """
    schema = target if kind == "task" else getattr(target, "config_class", None)
    if not (isinstance(schema, type) and dataclasses.is_dataclass(schema)):
        wanted = "be a dataclass" if kind == "task" else "have a `config_class` that is a dataclass"
        raise UsageError(f"{kind} target {path_of(target)!r} must {wanted}")
    return schema


def read_yaml(path: Path, noun: str, kind: type[RobotrlError] = UsageError) -> DictConfig:
    """Read a YAML file of keys and values.

    Args:
        path: of the file.
        noun: what it should be, for messages.
        kind: error to raise.

    Raises:
        RobotrlError: of that kind: the file is missing or something else.
    """
    try:
        document = OmegaConf.load(path)
    except OSError as error:
        raise kind(f"cannot read the {noun} {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise kind(f"{path} is not a {noun}: {first_line(error)}") from error
    if not isinstance(document, DictConfig):
        raise kind(f"{path} is not a {noun}: expected keys and values")
    return document


def fill(schema: type, given: Mapping[str, Any], section: str) -> Any:
    """Build a dataclass from plain values, checked against its annotations.

    Args:
        schema: the dataclass.
        given: plain values for some of its fields, nested for nested dataclasses.
        section: prefix of the keys in messages, "" for the top level.

    Raises:
        UsageError: unknown key, wrong type, missing or impossible value.
    """
    prefix = f"{section}: " if section else ""
    try:
        node: DictConfig = OmegaConf.structured(schema)
    except OmegaConfBaseException as error:
        raise UsageError(f"{prefix}{schema.__name__} cannot be configured: {first_line(error)}") from error
    _fill(node, schema, given, section)
    try:
        return OmegaConf.to_object(node)
    except MissingMandatoryValue as error:
        raise UsageError(f"{prefix}{error.full_key} must be given") from error
    except ValueError as error:
        raise UsageError(f"{prefix}{error}") from error


def _fill(node: DictConfig, schema: type, given: Mapping[str, Any], path: str) -> None:
    """Set key by key, so that every error names its key."""
    hints = get_type_hints(schema)
    for key, value in given.items():
        name = f"{path}.{key}" if path else str(key)
        if key not in node.keys():  # noqa: SIM118  `in node` is False for a field without default
            raise unknown_key(name, str(key), [str(known) for known in node])
        inner = OmegaConf.get_type(node, key)
        if isinstance(value, Mapping) and inner is not None and dataclasses.is_dataclass(inner):
            _fill(node[key], inner, value, name)
            continue
        hint = hints[key]
        element = _element(hint)
        if element is not None and isinstance(value, Mapping):
            for entry, options in value.items():
                _fill_entry(node[key], str(entry), element, options, f"{name}.{entry}")
            continue
        if int in (hint, *get_args(hint)):
            value = _whole(value)
        if isinstance(value, str | Path) and list[str] in (hint, *get_args(hint)):
            value = [value]  # one word is a list of one
        close = ""
        if isinstance(hint, type) and issubclass(hint, enum.Enum):
            value = next((member for member in hint if _spelled(member) == str(value).lower()), value)
            close = nearest(str(value), map(_spelled, hint))
        try:
            if hint is bool and not isinstance(value, bool | str):
                raise ValueError("a number is not a truth value")
            if isinstance(value, Mapping):
                node.merge_with({key: value})
            else:
                node[key] = value
        except (OmegaConfBaseException, ValueError) as error:
            raise UsageError(f"{name}: expected {_describe(hint)}, got {value!r}{close}") from error


def _whole(value: Any) -> Any:
    """Return the integer that a number such as 1e6 is: to YAML a float, in a word text."""
    number = value
    if isinstance(value, str) and "e" in value:
        with contextlib.suppress(ValueError):
            number = float(value)
    return int(number) if isinstance(number, float) and number.is_integer() else value


def _element(hint: Any) -> type | None:
    """Return the dataclass D of a `dict[str, D]`."""
    inner = get_args(hint)[1] if get_origin(hint) is dict else None
    return inner if isinstance(inner, type) and dataclasses.is_dataclass(inner) else None


def _fill_entry(node: DictConfig, entry: str, element: type, options: Any, name: str) -> None:
    """Add a named entry; null leaves it out, so that one from a YAML file can be removed."""
    if options is None:
        return
    if not isinstance(options, Mapping):
        raise UsageError(f"{name}: expected the keys of {element.__name__}, got {options!r}")
    node[entry] = OmegaConf.structured(element)
    _fill(node[entry], element, options, name)


def unknown_key(full_name: str, key: str, known: list[str]) -> UsageError:
    """Build the error for a key that is not one of `known`, which are written without the section."""
    hint = nearest(key, known) or f"; known: {', '.join(sorted(known))}"
    return UsageError(f"unknown key {full_name!r}{hint}")


def _describe(hint: Any) -> str:
    """Name a type the way a user writes it."""
    if hint is types.NoneType:
        return "null"
    if isinstance(hint, types.UnionType):
        return " or ".join(map(_describe, get_args(hint)))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return f"one of {', '.join(_spelled(member) for member in hint)}"
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)


def _spelled(member: enum.Enum) -> str:
    """How an enumeration member is written in a configuration."""
    return member.name.lower()


def plain(value: Any, package: str = "") -> Any:
    """Turn the fields of a dataclass instance into what YAML holds; the inverse of `fill`.

    Paths of shipped files, and of files in the dataclass's own package, become references that hold on
    any machine where the package is.

    Args:
        value: the instance, or a field's value.
        package: for a field's value, the top-level package of its dataclass.
    """
    if dataclasses.is_dataclass(value):
        package = type(value).__module__.partition(".")[0]
        return {field.name: plain(getattr(value, field.name), package) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item, package) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, package) for item in value]
    if isinstance(value, enum.Enum):
        return _spelled(value)
    return _reference(value, package) if isinstance(value, Path) else value


def _reference(file: Path, package: str) -> str:
    """Name a file by a resolver of this module where one knows it, else by its absolute path."""
    if file.is_relative_to(ASSETS):
        return f"${{assets:{file.relative_to(ASSETS).as_posix()}}}"
    home = _home(package) if package and file.is_absolute() else None
    if home is None or not file.is_relative_to(home):
        return str(file.absolute())
    inside = file.relative_to(home).as_posix().replace("'", "\\'")
    return f"${{package:{package},'{inside}'}}"


def first_line(error: Exception) -> str:
    """Return an error's message without the details that OmegaConf and Hydra append."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def path_of(target: Any) -> str:
    """Return the import path that `load_target` takes."""
    return f"{target.__module__}.{target.__qualname__}" if hasattr(target, "__qualname__") else str(target)
