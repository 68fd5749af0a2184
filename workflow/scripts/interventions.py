"""One experiment of a study on one model: an outcome per prompt and condition."""

import importlib
from pathlib import Path

from _job import job

with job(snakemake) as log:
    from bearings.stages.inputs import Inputs
    from bearings.stages.read import read_all_directions, read_dumps, read_prompts
    from bearings.store.provenance import describe
    from bearings.store.tables import write_table

    w, p, source = snakemake.wildcards, snakemake.params, snakemake.input
    study = importlib.import_module(f"bearings.studies.{w.study}.intervene")
    model = None
    if w.experiment in study.NEEDS_MODEL:  # the others need no torch, which is slow to import
        from bearings.lm.load import load_model

        model = load_model(source.model, processing=p.processing, threads=p.threads)
    inputs = Inputs(
        prompts=read_prompts(source.prompts),
        dumps=read_dumps(source.activations),
        directions=read_all_directions(source.directions),
        settings=p.settings,
        seed=p.run["seed"],
        model=model,
        saes={Path(folder).name: Path(folder) for folder in source.saes},
    )
    table = study.intervene(w.experiment, inputs)
    made = describe(
        snakemake.output[0],
        "outcomes",
        run=p.run,
        inputs=[source.model, *source.prompts, *source.activations, *source.directions, *source.saes],
        settings={**p.settings, "threads": p.threads},
        packages=("numpy", "pyarrow", "torch", "transformers", "transformer-lens"),
    )
    write_table(snakemake.output[0], table, made)
    log.info("%s: %d outcomes", w.experiment, table.num_rows)
