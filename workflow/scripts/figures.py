"""One figure of a study, all of its models side by side."""

import importlib

from _job import job

with job(snakemake) as log:
    from bearings.evidence.figures import save, style
    from bearings.stages.read import read_models

    w, p = snakemake.wildcards, snakemake.params
    study = importlib.import_module(f"bearings.studies.{w.study}.draw")
    runs = read_models(
        p.models, snakemake.input.measures, snakemake.input.outcomes, snakemake.input.directions
    )
    with style():
        save(study.draw(w.figure, runs, p.settings), snakemake.output[0])
    log.info("%s of %s", w.figure, ", ".join(p.models))
