"""A study's named measures on one model: value, interval, n, unit."""

import importlib

from _job import job

with job(snakemake) as log:
    from bearings.stages.inputs import Inputs
    from bearings.stages.read import read_all_directions, read_dumps, read_outcomes, read_prompts
    from bearings.store.documents import write_json
    from bearings.store.provenance import describe

    w, p, source = snakemake.wildcards, snakemake.params, snakemake.input
    study = importlib.import_module(f"bearings.studies.{w.study}.measure")
    inputs = Inputs(
        prompts=read_prompts(source.prompts),
        dumps=read_dumps(source.activations),
        directions=read_all_directions(source.directions),
        settings=p.settings,
        seed=p.run["seed"],
    )
    found = study.measure(inputs, read_outcomes(source.outcomes))
    used = [*source.prompts, *source.activations, *source.directions, *source.outcomes]
    made = describe(
        snakemake.output[0],
        "measures",
        run=p.run,
        inputs=used,
        settings={**p.settings, "model": w.model},
        packages=("numpy", "scipy", "scikit-learn"),
    )
    write_json(snakemake.output[0], {name: e.to_json() for name, e in found.items()}, made)
    log.info("%d measures", len(found))
