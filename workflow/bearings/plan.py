"""From `config.yaml` and a scale to the plan of one run: which models, which studies, which files.

Everything a user can get wrong is found here, before the first job, and named in one line.
"""

from __future__ import annotations

import copy
import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from bearings.lm.hub import ModelDirError, check_model_dir

WORKFLOW = Path(__file__).resolve().parent.parent
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")


class ConfigError(ValueError):
    """One line that names the key and what is allowed."""


@dataclass(frozen=True)
class ModelPlan:
    """One model of the run. `source` is `world` (trained here), `path` (a directory) or `twin` (untrained)."""

    name: str
    source: str
    directory: str
    published: str | None = None
    twin_of: str | None = None
    processing: str = "raw"
    world: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StudyPlan:
    """One study of the run; `manifest` is the head of its `claims.yaml`."""

    name: str
    models: tuple[str, ...]
    data: Mapping[str, str]
    settings: Mapping[str, Any]
    manifest: Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """One run: a scale, a seed, and the folder `root` that holds its files."""

    scale: str
    seed: int
    root: str
    threads: int
    models: Mapping[str, ModelPlan]
    studies: Mapping[str, StudyPlan]

    def with_twins(self, study: str) -> list[str]:
        """Names of the models a study runs on, every untrained twin after its model."""
        chosen = self.studies[study].models
        return [m.name for name in chosen for m in self.models.values() if name in (m.name, m.twin_of)]


@cache
def _yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        line = " ".join(str(error).split())
        raise ConfigError(f"{path.name}: not valid YAML ({line})") from None


def known_scales() -> list[str]:
    """Scales that have a file under `workflow/scales`."""
    return sorted(p.stem for p in (WORKFLOW / "scales").glob("*.yaml"))


def known_studies() -> list[str]:
    """Studies that have a `claims.yaml`."""
    return sorted(p.parent.name for p in (WORKFLOW / "bearings/studies").glob("*/claims.yaml"))


def claims_of(study: str) -> list[dict[str, Any]]:
    """The claims a study registers."""
    return _yaml(WORKFLOW / f"bearings/studies/{study}/claims.yaml")["claims"]


def manifest(study: str) -> dict[str, Any]:
    """Sets, dumps, methods, experiments and figures of a study, as its `claims.yaml` lists them."""
    return _yaml(WORKFLOW / f"bearings/studies/{study}/claims.yaml")["manifest"]


def validate(document: Any, schema: str, where: str) -> None:
    """Raise `ConfigError` with the first violation of a schema of `workflow/schemas` in one line."""
    validator = jsonschema.Draft202012Validator(_yaml(WORKFLOW / f"schemas/{schema}.schema.yaml"))
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
        return f"{where}: unknown key {extra[0]!r}{at}; allowed: {', '.join(allowed)}{hint}"
    shown = repr(error.instance)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
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
    return f"{where}: key '{key}' is {shown}; {said}"


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid upon `base`, mapping by mapping; lists and numbers are replaced."""
    out = copy.deepcopy(dict(base))
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = merge(out[key], value) if both else copy.deepcopy(value)
    return out


def make_plan(config: Mapping[str, Any], base: Path = Path(".")) -> Plan:
    """Check a run's config and lay out its models, studies and files.

    Args:
        config: the parsed `config.yaml` with command-line overrides.
        base: folder that relative model and data paths start from.

    Raises:
        ConfigError: one line naming the key and what is allowed.
    """
    config = json.loads(json.dumps(config, default=str))
    scale = config.get("scale", "embedded")
    if scale not in known_scales():
        raise ConfigError(f"config: key 'scale' is {scale!r}; allowed: {', '.join(known_scales())}")
    validate(config, "config", "config")
    sheet = copy.deepcopy(_yaml(WORKFLOW / f"scales/{scale}.yaml"))
    validate(sheet, "scale", f"scales/{scale}.yaml")

    wanted = config["studies"] if config["studies"] != ["all"] else sorted(sheet["studies"])
    for study in wanted:
        if study not in known_studies() or study not in sheet["studies"]:
            there = sorted(set(known_studies()) & set(sheet["studies"]))
            raise ConfigError(
                f"config: key 'studies' names {study!r}; allowed at scale {scale}: {', '.join(there)}"
            )

    overrides = config.get("settings", {})
    for study in overrides:
        if study != "world" and study not in sheet["studies"]:
            allowed = ", ".join(["world", *sorted(sheet["studies"])])
            raise ConfigError(f"config: unknown key {study!r} under 'settings'; allowed: {allowed}")

    own = _own_models(config.get("models", []), base)
    label = "custom" if own else scale
    root = f"results/{label}/seed-{config['seed']}"
    models = own or _scale_models(sheet["models"], root, overrides.get("world", {}), base)
    models = _add_twins(models, root, {name: m.get("twin", True) for name, m in sheet["models"].items()})

    studies = {}
    for study in wanted:
        entry = sheet["studies"][study]
        settings = merge(entry["settings"], overrides.get(study, {}))
        _check_settings(study, entry["settings"], settings)
        chosen = tuple(own) if own else tuple(entry["models"])
        for name in chosen:
            if name not in models:
                raise ConfigError(
                    f"scales/{scale}.yaml: study {study} names model {name!r}; allowed: {', '.join(models)}"
                )
            _check_layers(study, settings, name, models[name], base)
        data = {key: path.format(root=root) for key, path in entry["data"].items()}
        _check_data(scale, study, data, root, base)
        studies[study] = StudyPlan(study, chosen, data, settings, manifest(study))
    used = {m for s in studies.values() for m in s.models}
    models = {n: m for n, m in models.items() if n in used or m.twin_of in used}
    return Plan(label, config["seed"], root, config["threads"], models, studies)


def _own_models(given: list[Any], base: Path) -> dict[str, ModelPlan]:
    """Models the user named in config: local Hugging Face directories."""
    models: dict[str, ModelPlan] = {}
    for path in given:
        directory = base / path
        try:
            check_model_dir(directory)
        except ModelDirError as error:
            raise ConfigError(
                f"config: key 'models' names {path!r}: {error}; allowed: local folders with config.json, "
                "*.safetensors and tokenizer.json"
            ) from None
        name = directory.resolve().name
        if not NAME.match(name) or name in models:
            raise ConfigError(
                f"config: key 'models': the folder name {name!r} names the results; allowed: distinct names of "
                "letters, digits, '.', '_' and '-'"
            )
        models[name] = ModelPlan(name, "path", str(path).rstrip("/"))
    return models


def _scale_models(
    sheet: Mapping[str, Any], root: str, world: Mapping[str, Any], base: Path
) -> dict[str, ModelPlan]:
    models = {}
    for name, entry in sheet.items():
        common = {
            "published": entry.get("published"),
            "processing": entry.get("processing", "raw"),
        }
        if "world" in entry:
            settings = merge(entry["world"], world)
            _check_settings("world", entry["world"], settings)
            models[name] = ModelPlan(name, "world", f"{root}/models/{name}", world=settings, **common)
        else:
            directory = entry.get("path")
            if not directory or not (base / directory / "config.json").is_file():
                raise ConfigError(
                    f"config: scale needs key 'models.{name}.path', a local folder with the weights of "
                    f"{entry.get('hub', name)}; it is {directory!r}; name the folder by models=[FOLDER]"
                )
            models[name] = ModelPlan(name, "path", directory, **common)
    return models


def _add_twins(models: dict[str, ModelPlan], root: str, wanted: Mapping[str, bool]) -> dict[str, ModelPlan]:
    """Give every model its untrained twin: same architecture and tokenizer, random weights."""
    out = {}
    for name, model in models.items():
        out[name] = model
        if wanted.get(name, True):
            twin = f"{name}-twin"
            out[twin] = ModelPlan(
                twin, "twin", f"{root}/models/{twin}", twin_of=name, processing=model.processing
            )
    return out


def _check_settings(where: str, known: Mapping[str, Any], given: Mapping[str, Any], path: str = "") -> None:
    """A setting that the scale does not know is a typing error; a value must keep its type."""
    for key, value in given.items():
        at = f"settings.{where}{path}.{key}"
        if key not in known:
            near = difflib.get_close_matches(str(key), map(str, known), n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise ConfigError(f"config: unknown key '{at}'; allowed: {', '.join(map(str, known))}{hint}")
        model = known[key]
        if isinstance(model, Mapping) and isinstance(value, Mapping):
            # Mixtures and requirements are open lists of names; the code that reads them checks the names.
            if model and not {"mixture", "require"} & {key}:
                _check_settings(where, model, value, f"{path}.{key}")
            continue
        number = isinstance(model, int | float) and not isinstance(model, bool)
        same = (
            isinstance(value, int | float) and not isinstance(value, bool)
            if number
            else model is None
            or isinstance(value, type(model))
            or (key == "layers" and isinstance(value, list))
        )
        if number and isinstance(model, int) and isinstance(value, float):
            same = False
        if not same:
            kind = "whole number" if isinstance(model, int) and number else type(model).__name__
            raise ConfigError(f"config: key '{at}' is {value!r}; allowed: a {kind}, for example {model!r}")
        if number and value < 0 <= model:
            raise ConfigError(f"config: key '{at}' is {value!r}; must be at least 0")


def _check_layers(study: str, settings: Mapping[str, Any], name: str, model: ModelPlan, base: Path) -> None:
    layers = settings.get("layers", "all")
    n_layers = count_layers(model, base)
    if layers == "all" or n_layers is None:
        return
    wrong = [x for x in layers if not isinstance(x, int) or isinstance(x, bool) or not 0 <= x <= n_layers]
    if wrong or not layers:
        raise ConfigError(
            f"config: key 'settings.{study}.layers' holds {wrong or layers}; allowed: 'all' or layers 0 to "
            f"{n_layers} of {name}"
        )


def count_layers(model: ModelPlan, base: Path = Path(".")) -> int | None:
    """Number of blocks of a model, from the world's settings or its config.json; None if it says none."""
    if model.source == "world":
        return len(model.world["training"]["attention"])
    directory = base / model.directory
    return check_model_dir(directory).n_layers if model.source == "path" else None


def _check_data(scale: str, study: str, data: Mapping[str, str], root: str, base: Path) -> None:
    """Files a study reads must exist, unless this run writes them."""
    for key, path in data.items():
        if not path.startswith(root + "/") and not (base / path).is_file():
            raise ConfigError(f"scales/{scale}.yaml: key 'studies.{study}.data.{key}': no file {path}")
