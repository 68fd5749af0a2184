"""What a user may write: config files are read and held against schemas and against the scale's own settings.

Whatever is wrong is said in one line that names the key and what is allowed.
"""

from __future__ import annotations

import copy
import difflib
import math
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

WORKFLOW = Path(__file__).resolve().parent.parent
# Open lists of names with a share each: what a user writes takes the place of the whole list.
SHARES = ("mixture", "opening", "require")
NUMBER = re.compile(r"[+-]?(\d{1,15}\.?\d{0,30}|\.\d{1,30})([eE][+-]?\d{1,3})?", re.ASCII)
# Whole numbers that may go down to 0; any other that is positive at the scale must stay so.
MAY_BE_ZERO = {
    "train",
    "dev",
    "test",
    "epochs",
    "warmup_steps",
    "mood_names",
    "review_pairs",
    "max_samples",
    "chunk",
}


class ConfigError(ValueError):
    """One line that names the key and what is allowed."""

    def __init__(self, said: str):
        super().__init__(" ".join(said.split()))


@cache
def read_yaml(path: Path) -> Any:
    """Content of one of the workflow's own YAML files; `ConfigError` if it is none."""
    try:
        return yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"{path.name}: not valid YAML ({error})") from None


# JSON Schema counts 1.0 among the whole numbers; as a seed it would name another folder than 1.
_Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    ),
)


def validate(document: Any, schema: str, where: str) -> None:
    """Raise `ConfigError` with the first violation of a schema of `workflow/schemas` in one line."""
    validator = _Validator(read_yaml(WORKFLOW / f"schemas/{schema}.schema.yaml"))
    errors = sorted(
        validator.iter_errors(document), key=lambda e: (list(map(str, e.absolute_path)), e.message)
    )
    if errors:
        raise ConfigError(_one_line(errors[0], where))


def _one_line(error: jsonschema.ValidationError, where: str) -> str:
    key = ".".join(map(str, error.absolute_path)) or "(top level)"
    if error.validator == "additionalProperties":
        allowed = sorted(error.schema.get("properties", {}))
        extra = sorted(set(map(str, error.instance)) - set(allowed))
        near = difflib.get_close_matches(extra[0], allowed, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        at = f" under '{key}'" if error.absolute_path else ""
        return f"{where}: unknown key {shown(extra[0])}{at}; allowed: {', '.join(allowed)}{hint}"
    value = shown(error.instance)
    rule = {
        "type": lambda v: f"must be of type {v if isinstance(v, str) else ' or '.join(v)}",
        "enum": lambda v: f"allowed: {', '.join(map(str, v))}",
        "minimum": lambda v: f"must be at least {v}",
        "exclusiveMinimum": lambda v: f"must be greater than {v}",
        "maximum": lambda v: f"must be at most {v}",
        "minItems": lambda v: f"needs at least {v} item(s)",
        "pattern": lambda v: f"must match {v}",
    }.get(error.validator)
    said = rule(error.validator_value) if rule else error.message.replace("\n", " ")[:160]
    return f"{where}: key '{key}' is {value}; {said}"


def shown(value: Any) -> str:
    """A value as it stands in a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid upon `base`, mapping by mapping; lists, numbers and lists of shares are replaced."""
    out = copy.deepcopy(dict(base))
    for key, value in over.items():
        both = key not in SHARES and isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = merge(out[key], value) if both else copy.deepcopy(value)
    return out


def plain(value: Any) -> Any:
    """Numbers and booleans for text that reads like one: nested values of `--config` arrive as text."""
    if isinstance(value, Mapping):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, list):
        return [plain(v) for v in value]
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if isinstance(value, str) and NUMBER.fullmatch(value):
        number = float(value)
        return int(value) if value.lstrip("+-").isdigit() else number if math.isfinite(number) else value
    return value


def check_settings(where: str, known: Mapping[str, Any], given: Mapping[str, Any], path: str = "") -> None:
    """A setting that the scale does not know is a typing error; a value must keep its type."""
    for key, value in given.items():
        at = f"settings.{where}{path}.{key}"
        if key not in known:
            near = difflib.get_close_matches(str(key), map(str, known), n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            allowed = ", ".join(map(str, known)) or "none"
            raise ConfigError(f"config: unknown key '{at}'; allowed: {allowed}{hint}")
        model = known[key]
        if isinstance(model, Mapping) and isinstance(value, Mapping):
            if key in SHARES:
                _check_shares(at, key, value)
            else:
                check_settings(where, model, value, f"{path}.{key}")
            continue
        _check_value(at, key, model, value)


def _check_value(at: str, key: str, model: Any, value: Any) -> None:
    """A value must be of the kind that the scale has there; an item of a list, of the kind of its items."""
    if isinstance(model, list) and isinstance(value, list):
        if model and not value:
            raise ConfigError(f"config: key '{at}' is []; needs at least one item, for example {model!r}")
        for item in value if model else ():
            _check_item(at, model, item)
        return
    if key == "layers" and isinstance(value, list):
        return  # held against the models' layers, see _check_layers
    if model is not None and not _same_kind(model, value):
        raise ConfigError(
            f"config: key '{at}' is {shown(value)}; allowed: {_kind(model)}, for example {model!r}"
        )
    if _is_number(model) and value < 0 <= model:
        raise ConfigError(f"config: key '{at}' is {shown(value)}; must be at least 0")
    if isinstance(model, int) and _is_number(model) and value == 0 < model and key not in MAY_BE_ZERO:
        raise ConfigError(f"config: key '{at}' is 0; must be at least 1")


def _check_shares(at: str, key: str, given: Mapping[str, Any]) -> None:
    """Mixtures and requirements are open lists: any family of texts, any row of the "knows" table."""
    from bearings.world.grammar import families

    for name, share in given.items():
        if key != "require" and name not in families():
            raise ConfigError(f"config: unknown key '{at}.{name}'; allowed: {', '.join(families())}")
        if not _same_kind(0.5, share) or not 0 <= share <= (1 if key == "require" else math.inf):
            raise ConfigError(f"config: key '{at}.{name}' is {shown(share)}; allowed: a share from 0 to 1")
    if key == "mixture" and not sum(given.values()) > 0:
        raise ConfigError(f"config: key '{at}' holds no share above 0; allowed: {', '.join(families())}")


def _check_item(at: str, model: list[Any], item: Any) -> None:
    # A list of strengths may hold whole numbers and others at once.
    example = next((x for x in model if isinstance(x, float)), model[0])
    if not _same_kind(example, item) and not any(_same_kind(x, item) for x in model):
        kind = _kind(0.5) if _is_number(example) else _kind(example)
        raise ConfigError(
            f"config: key '{at}' holds {shown(item)}; allowed: items that are {kind}, as in {model!r}"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same_kind(model: Any, value: Any) -> bool:
    if _is_number(model):
        whole = isinstance(model, int)
        return _is_number(value) and math.isfinite(value) and not (whole and isinstance(value, float))
    return isinstance(value, type(model))


def _kind(model: Any) -> str:
    if _is_number(model):
        return "a whole number" if isinstance(model, int) else "a number"
    return {bool: "true or false", str: "text", list: "a list", dict: "a mapping"}[type(model)]
