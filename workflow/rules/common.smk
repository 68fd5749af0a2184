# The run's plan, and the few functions that rules share.
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

BASE = Path(workflow.basedir)
sys.path.insert(0, str(BASE / "workflow"))

from bearings.plan import ConfigError, claims_shown, known_studies, make_plan
from bearings.store.provenance import source_digest

try:
    PLAN = make_plan(config)
except ConfigError as error:
    sys.exit(str(error))

ROOT = PLAN.root
RUN = {"scale": PLAN.scale, "seed": PLAN.seed}
WORLDS = [m.name for m in PLAN.models.values() if m.source == "world"]
TWINS = [m.name for m in PLAN.models.values() if m.source == "twin"]
EVERY = {
    key: {i for s in PLAN.studies.values() for i in s.manifest.get(key, ())}
    for key in ("sets", "methods", "saes")
}


def one_of(names):
    """A wildcard constraint that matches exactly these names."""
    return "|".join(sorted(map(str.strip, names))).replace(".", r"\.") or "none"


wildcard_constraints:
    model=one_of(PLAN.models),
    study=one_of(PLAN.studies),
    set=one_of(EVERY["sets"]),
    method=one_of(EVERY["methods"]),
    kind=one_of(EVERY["saes"]),
    experiment=one_of(e for s in PLAN.studies.values() for e in s.manifest["experiments"]),
    figure=one_of(f for s in PLAN.studies.values() for f in s.manifest["figures"]),


def digest(script):
    """Hash over a rule's script and every module of the package that it reaches."""
    return source_digest(BASE / f"workflow/scripts/{script}.py", BASE / "workflow")


def study_digest(stage):
    """The same, with the study's own file of that stage, which the script imports by name."""

    def of(wildcards):
        own = BASE / f"workflow/bearings/studies/{wildcards.study}/{stage}.py"
        return digest(STAGE_SCRIPTS[stage]) + source_digest(own, BASE / "workflow")

    return of


STAGE_SCRIPTS = {
    "prompts": "prompts",
    "fit": "directions",
    "saes": "saes",
    "intervene": "interventions",
    "measure": "measures",
    "draw": "figures",
}


def settings(section):
    """The study's settings that a stage sees: those of every stage and its own section."""

    def of(wildcards):
        # A figure shows all models.
        whole = PLAN.settings(wildcards.study, getattr(wildcards, "model", None))
        mine = whole.get(section, {})
        mine = mine.get(wildcards.experiment, {}) if section == "interventions" else mine
        return {k: v for k, v in whole.items() if not isinstance(v, dict)} | dict(mine)

    return of


def model_directory(wildcards):
    """The model's directory: made by this run, or the user's own."""
    return PLAN.models[wildcards.model].directory


def world_settings(wildcards):
    return dict(PLAN.models[wildcards.model].world)


def vocabulary(wildcards):
    """The file with the words of a model of the world, where it does not take them from its own families."""
    return [path for path in [PLAN.models[wildcards.model].world["corpus"].get("vocabulary")] if path]


def train_cores(wildcards):
    """The share of `--cores` that training takes: threads that wait for each other must not share a core.

    The machine may have fewer cores than it was told to use, and more than one model may be trained at once.
    """
    cores = workflow.cores or 1
    return min(cores, max(1, -(-cores * world_threads(wildcards) // (os.cpu_count() or 1))))


def world_threads(wildcards):
    """Torch threads in training: a setting of the world, because it changes the weights' last bits."""
    return PLAN.models[wildcards.model].world["threads"]


def twin_of(wildcards):
    return PLAN.models[PLAN.models[wildcards.model].twin_of].directory


def review_sizes():
    """As many reviews of each split as the hungriest study takes."""
    asked = [s.settings["prompts"].get("reviews", {}) for s in PLAN.studies.values()]
    return {split: max(a.get(split, 0) for a in asked) for split in ("train", "dev", "test")}


def text_settings():
    """How much running text the world writes, and of which families: as a study asks for it."""
    asked = [s.settings["prompts"].get("texts") for s in PLAN.studies.values()]
    return next((a for a in asked if a and a["documents"]), {"documents": 0, "mixture": {}})


def knows(wildcards):
    """A model of the world is used only once it has been shown to know what the study needs."""
    made = PLAN.models[wildcards.model].source == "world"
    return f"{ROOT}/knows/{wildcards.model}.json" if made else []


def study_data(wildcards):
    """The files a study's prompts are made from, in the order of their names."""
    return list(PLAN.studies[wildcards.study].data.values())


def data_names(wildcards):
    return list(PLAN.studies[wildcards.study].data)


def processing(wildcards):
    """Weight processing is part of what a model is."""
    return PLAN.models[wildcards.model].processing


def dump_positions(wildcards):
    """Named positions whose residual a study wants dumped."""
    return PLAN.studies[wildcards.study].manifest["dumps"][wildcards.set]


def dump_layers(wildcards):
    """The layers that a study looks at."""
    return PLAN.settings(wildcards.study, wildcards.model)["layers"]


def dump_predicts(wildcards):
    """Whether the dump also holds the tokens that the model puts next."""
    return wildcards.set in PLAN.studies[wildcards.study].manifest.get("predictions", ())


def built_on(wildcards):
    """Directions that a method starts from."""
    others = PLAN.studies[wildcards.study].manifest.get("builds_on", {}).get(wildcards.method, ())
    return [f"{ROOT}/directions/{wildcards.model}/{wildcards.study}/{m}.safetensors" for m in others]


def max_tokens(wildcards):
    """Tokens in one batch of a dump; part of the science, because a batch's shape changes the last bits."""
    return PLAN.settings(wildcards.study, wildcards.model)["max_tokens"]


def of_study(kind, key, suffix=""):
    """Every file of one kind that a study has for one model."""

    def of(wildcards):
        names = PLAN.studies[wildcards.study].manifest.get(key, ())
        return [f"{ROOT}/{kind}/{wildcards.model}/{wildcards.study}/{n}{suffix}" for n in names]

    return of


def of_models(kind, key=None, suffix=""):
    """Files of one kind that a study has, for all of its models, twins included."""

    def of(wildcards):
        study = wildcards.study
        stems = [f"{ROOT}/{kind}/{m}/{study}" for m in PLAN.with_twins(study)]
        names = PLAN.studies[study].manifest[key] if key else None
        return (
            [f"{s}{suffix}" for s in stems]
            if names is None
            else [f"{s}/{n}{suffix}" for s in stems for n in names]
        )

    return of


def models_of_study(wildcards):
    return PLAN.with_twins(wildcards.study)


def figure_question(wildcards):
    return PLAN.studies[wildcards.study].manifest["figures"][wildcards.figure]


def figure_claims(wildcards):
    """Ids of the claims a figure answers."""
    return claims_shown(wildcards.study, wildcards.figure)


def claims_file(wildcards):
    return f"workflow/bearings/studies/{wildcards.study}/claims.yaml"


def twin_measures(wildcards):
    """Measures of the untrained twin, where the model has one: the control of claims of learning."""
    twins = [m.name for m in PLAN.models.values() if m.twin_of == wildcards.model]
    return [f"{ROOT}/measures/{t}/{wildcards.study}.json" for t in twins]


def published_name(wildcards):
    """The model's name in the papers, where it is one of theirs."""
    return PLAN.models[wildcards.model].published or wildcards.model


def claim_records():
    """This run's verdicts, and those that other scales and seeds left beside it."""
    mine = [f"{ROOT}/claims/{m}/{s.name}.json" for s in PLAN.studies.values() for m in s.models]
    others = {str(p.relative_to(BASE)) for p in BASE.glob("results/*/seed-*/claims/*/*.json")}
    return sorted({*mine, *(p for p in others if not p.startswith(f"{ROOT}/claims/"))})


def study_targets(study):
    """What a study is for: its measures, figures and claims."""
    models = PLAN.studies[study].models
    return [
        *expand(f"{ROOT}/measures/{{model}}/{study}.json", model=PLAN.with_twins(study)),
        *expand(f"{ROOT}/figures/{study}/{{figure}}.png", figure=PLAN.studies[study].manifest["figures"]),
        *expand(f"{ROOT}/claims/{{model}}/{study}.json", model=models),
    ]


def hold_folder():
    """Refuse a second run in this folder. The kernel drops the lock with its process, even one killed by -9."""
    global HELD
    HELD = open(".snakemake/running", "a+")
    try:
        fcntl.flock(HELD, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        HELD.seek(0)
        sys.exit(
            f"another run (process {HELD.read().strip()}) is at work in this folder; let it end or stop it"
        )
    HELD.truncate(0)
    HELD.write(str(os.getpid()))
    HELD.flush()


def write_report():
    """Snakemake's own report of this very run, whether its claims held or not; nothing to do if none was reached."""
    if not Path("results/claims.json").is_file() or not Path(f"{ROOT}/figures").is_dir():
        return
    settings = Path(".snakemake/report-config.json")
    settings.write_text(json.dumps(config))
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        workflow.main_snakefile,
        "--nolock",
        "--quiet",
        "all",
    ]
    command += ["--configfile", str(settings), "--report", "results/report.html"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(f"results/report.html was not written: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)


def say_summary():
    """The last thing on the terminal: how many claims hold, and where to read on."""
    verdict = Path(ROOT) / "verdict.txt"
    if verdict.is_file():
        print(
            verdict.read_text(),
            "Read results/claims.md, or open results/report.html.",
            sep="",
            file=sys.stderr,
        )
