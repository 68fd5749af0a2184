"""From `config.yaml` and a scale to the plan of one run: which models, which studies, which files.

Everything a user can get wrong is found here, before the first job, and named in one line.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bearings.config import WORKFLOW, ConfigError, check_settings, merge, plain, read_yaml, shown, validate
from bearings.evidence.each import expand
from bearings.lm.hub import ModelDirError, check_model_dir

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


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
    per_model: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """One run: a scale, a seed, and the folder `root` that holds its files."""

    scale: str
    seed: int
    root: str
    threads: int
    models: Mapping[str, ModelPlan]
    studies: Mapping[str, StudyPlan]
    base: Path = Path(".")

    def settings(self, study: str, model: str | None = None) -> dict[str, Any]:
        """A study's settings for one of its models; a twin has those of its original. No model: what all share."""
        plan = self.studies[study]
        if model is None:
            return dict(plan.settings)
        name = self.models[model].twin_of or model
        own = merge(plan.settings, plan.per_model[name])
        n_layers = count_layers(self.models[name], self.base)
        return own if n_layers is None else at_depth(own, n_layers)

    def with_twins(self, study: str) -> list[str]:
        """Names of the models a study runs on, every untrained twin after its model."""
        chosen = self.studies[study].models
        return [m.name for name in chosen for m in self.models.values() if name in (m.name, m.twin_of)]


def known_scales() -> list[str]:
    """Scales that have a file under `workflow/scales`."""
    return sorted(p.stem for p in (WORKFLOW / "scales").glob("*.yaml"))


def known_studies() -> list[str]:
    """Studies that have a `claims.yaml`."""
    return sorted(p.parent.name for p in (WORKFLOW / "bearings/studies").glob("*/claims.yaml"))


def claims_of(study: str) -> list[dict[str, Any]]:
    """The claims a study registers."""
    return expand(read_yaml(WORKFLOW / f"bearings/studies/{study}/claims.yaml")["claims"])


def claims_shown(study: str, figure: str) -> list[str]:
    """Ids of the claims a figure answers; an entry that stands for many is named once, with their number."""
    entries = read_yaml(WORKFLOW / f"bearings/studies/{study}/claims.yaml")["claims"]
    mine = [(c["id"], len(c.get("each", ()))) for c in entries if c.get("figure") == figure]
    return [f"{name} ({n} of them)" if n else name for name, n in mine]


def manifest(study: str) -> dict[str, Any]:
    """Sets, dumps, methods, experiments and figures of a study, as its `claims.yaml` lists them."""
    return read_yaml(WORKFLOW / f"bearings/studies/{study}/claims.yaml")["manifest"]


def make_plan(config: Mapping[str, Any], base: Path = Path(".")) -> Plan:
    """Check a run's config and lay out its models, studies and files.

    Args:
        config: the parsed `config.yaml` with command-line overrides.
        base: folder that relative model and data paths start from.

    Raises:
        ConfigError: one line naming the key and what is allowed.
    """
    try:
        config = json.loads(json.dumps(config, default=str))
    except (TypeError, ValueError, RecursionError):
        raise ConfigError(
            "config: holds what JSON does not; allowed: mappings, lists, numbers, text"
        ) from None
    scale = config.get("scale", "embedded")
    if scale not in known_scales():
        raise ConfigError(f"config: key 'scale' is {shown(scale)}; allowed: {', '.join(known_scales())}")
    validate(config, "config", "config")
    sheet = copy.deepcopy(read_yaml(WORKFLOW / f"scales/{scale}.yaml"))
    validate(sheet, "scale", f"scales/{scale}.yaml")

    wanted = config["studies"] if config["studies"] != ["all"] else sorted(sheet["studies"])
    for study in wanted:
        if study not in known_studies() or study not in sheet["studies"]:
            there = sorted(set(known_studies()) & set(sheet["studies"]))
            raise ConfigError(
                f"config: key 'studies' names {shown(study)}; allowed at scale {scale}: {', '.join(there)}"
            )

    overrides = plain(config.get("settings", {}))
    for study in overrides:
        if study != "world" and study not in sheet["studies"]:
            allowed = ", ".join(["world", *sorted(sheet["studies"])])
            raise ConfigError(f"config: unknown key {shown(study)} under 'settings'; allowed: {allowed}")

    own = _own_models(config.get("models", []), base)
    label = "custom" if own else scale
    root = f"results/{label}/seed-{config['seed']}"
    used = {m for study in wanted for m in sheet["studies"][study]["models"]}
    asked = {name: entry for name, entry in sheet["models"].items() if name in used}
    models = own or _scale_models(asked, root, overrides.get("world", {}), base)
    models = _add_twins(models, root, {name: m.get("twin", True) for name, m in sheet["models"].items()})

    studies = {}
    for study in wanted:
        entry = sheet["studies"][study]
        settings = merge(entry["settings"], overrides.get(study, {}))
        check_settings(study, entry["settings"], settings)
        chosen = tuple(own) if own else tuple(entry["models"])
        per_model: dict[str, dict[str, Any]] = {}
        for name in chosen:
            if name not in models:
                raise ConfigError(
                    f"scales/{scale}.yaml: study {study} names model {name!r}; allowed: {', '.join(models)}"
                )
            mine = entry.get("per_model", {}).get(name, {})
            check_settings(study, entry["settings"], mine)
            # What the user asks for comes last.
            per_model[name] = merge(mine, overrides.get(study, {}))
            _check_layers(study, merge(settings, per_model[name]), name, models[name], base)
        data = {key: path.format(root=root) for key, path in entry["data"].items()}
        _check_data(scale, study, data, root, base)
        studies[study] = StudyPlan(study, chosen, data, settings, manifest(study), per_model)
    used = {m for s in studies.values() for m in s.models}
    models = {n: m for n, m in models.items() if n in used or m.twin_of in used}
    return Plan(label, config["seed"], root, config["threads"], models, studies, base)


def _own_models(given: list[Any], base: Path) -> dict[str, ModelPlan]:
    """Models the user named in config: local Hugging Face directories."""
    models: dict[str, ModelPlan] = {}
    for path in given:
        directory = base / path
        try:
            check_model_dir(directory)
        except (ModelDirError, OSError, ValueError) as error:
            raise ConfigError(
                f"config: key 'models' names {shown(path)}: {error}; allowed: local folders with config.json, "
                "*.safetensors and tokenizer.json"
            ) from None
        name = directory.resolve().name
        if not NAME.fullmatch(name) or {name, f"{name}-twin", name.removesuffix("-twin")} & set(models):
            raise ConfigError(
                f"config: key 'models': the folder name {name!r} names the results; allowed: distinct names of "
                "letters, digits, '.', '_' and '-' (the twin of NAME is called NAME-twin)"
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
            check_settings("world", entry["world"], settings)
            _check_shape(settings["training"])
            models[name] = ModelPlan(name, "world", f"{root}/models/{name}", world=settings, **common)
        else:
            directory = entry.get("path")
            try:
                check_model_dir(base / str(directory))
            except ModelDirError as error:
                raise ConfigError(
                    f"config: scale needs key 'models.{name}.path', a local folder with the weights of "
                    f"{entry.get('hub', name)}; it is {directory!r} ({error}); name the folder by models=[FOLDER]"
                ) from None
            models[name] = ModelPlan(name, "path", directory, **common)
    return models


def _check_shape(training: Mapping[str, Any]) -> None:
    wrong = [x for x in training["attention"] if x not in ("local", "global")]
    if wrong:
        raise ConfigError(
            f"config: key 'settings.world.training.attention' holds {shown(wrong[0])}; allowed: local, global"
        )
    if training["width"] % training["heads"]:
        raise ConfigError(
            f"config: key 'settings.world.training.width' is {training['width']}; allowed: multiples of heads, "
            f"which is {training['heads']}"
        )


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


def _check_layers(study: str, settings: Mapping[str, Any], name: str, model: ModelPlan, base: Path) -> None:
    """Whatever a study calls `layers`, `..._layer` or `..._layers` must be layers of its model."""
    n_layers = count_layers(model, base)
    if n_layers is None:
        return
    for key, value in settings.items():
        every = key == "layers" and value == "all"
        if every or not (key == "layers" or key.endswith(("_layer", "_layers"))):
            continue
        layers = value if isinstance(value, list) else [value]
        wrong = [x for x in layers if not (_is_layer(x, n_layers) or _is_share(x))]
        if wrong or not layers:
            allowed = "shares of the depth (0.0 to 1.0) or layers"
            allowed = f"'all', {allowed}" if key == "layers" else allowed
            raise ConfigError(
                f"config: key 'settings.{study}.{key}' holds {shown(wrong or layers)}; allowed: {allowed} 0 to "
                f"{n_layers} of {name}"
            )


def _is_layer(x: Any, n_layers: int) -> bool:
    return isinstance(x, int) and not isinstance(x, bool) and 0 <= x <= n_layers


def _is_share(x: Any) -> bool:
    return isinstance(x, float) and 0 <= x <= 1


def at_depth(settings: Mapping[str, Any], n_layers: int) -> dict[str, Any]:
    """The settings with every layer that is given as a share of the depth turned into a layer of this model.

    So one sheet serves models of any depth: 2 is layer 2, 0.5 the middle, 1.0 what leaves the last block.
    """

    def layer(x: Any) -> Any:
        return round(x * n_layers) if _is_share(x) else x

    out = {}
    for key, value in settings.items():
        if (key == "layers" or key.endswith("_layers")) and isinstance(value, list):
            value = list(dict.fromkeys(map(layer, value)))
        out[key] = layer(value) if key.endswith("_layer") else value
    return out


def count_layers(model: ModelPlan, base: Path = Path(".")) -> int | None:
    """Number of blocks of a model, from the world's settings or its config.json; None if it says none."""
    if model.source == "world":
        return len(model.world["training"]["attention"])
    directory = base / model.directory
    return check_model_dir(directory).n_layers if model.source == "path" else None


def _check_data(scale: str, study: str, data: Mapping[str, str], root: str, base: Path) -> None:
    """Files and folders a study reads must exist, unless this run writes them."""
    for key, path in data.items():
        if not path.startswith(root + "/") and not (base / path).exists():
            raise ConfigError(
                f"scales/{scale}.yaml: key 'studies.{study}.data.{key}': no file or folder {path}"
            )
