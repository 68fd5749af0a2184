"""Sparse autoencoders of one kind for one model: a folder each, and the list of them."""

import importlib
from pathlib import Path

from _job import job

with job(snakemake) as log:
    from bearings.lm.load import load_model
    from bearings.lm.saes import write_ladder
    from bearings.stages.read import read_dumps, read_prompts
    from bearings.store.provenance import describe

    w, p, source = snakemake.wildcards, snakemake.params, snakemake.input
    study = importlib.import_module(f"bearings.studies.{w.study}.saes")
    model = load_model(source.model, processing=p.processing, threads=p.threads)
    folder = Path(snakemake.output[0])
    found = study.train(
        w.kind,
        read_prompts(source.prompts),
        read_dumps(source.activations),
        p.settings,
        p.run["seed"],
        model,
        folder,
    )
    made = describe(
        folder / "ladder.json",
        "ladder",
        run=p.run,
        inputs=[source.model, *source.prompts, *source.activations],
        settings={**p.settings, "threads": p.threads},
        packages=("numpy", "torch", "transformers", "transformer-lens", "sae-lens"),
    )
    write_ladder(folder, found, made)
    log.info("%s: %s", w.kind, ", ".join(e.name for e in found))
