"""One method's directions, at every layer, for one model."""

import importlib

from _job import job

with job(snakemake) as log:
    from bearings.stages.read import read_all_directions, read_dumps, read_prompts
    from bearings.store.directions import write_directions
    from bearings.store.provenance import describe

    w, p, source = snakemake.wildcards, snakemake.params, snakemake.input
    study = importlib.import_module(f"bearings.studies.{w.study}.fit")
    trained = w.method in study.NEEDS_MODEL
    model = None
    if trained:  # the other methods need no torch, which is slow to import
        from bearings.lm.load import load_model

        model = load_model(source.model, processing=p.processing, threads=p.threads)
    built = {"built": read_all_directions(source.built)} if source.built else {}
    found = study.fit(
        w.method,
        read_prompts(source.prompts),
        read_dumps(source.activations),
        p.settings,
        p.run["seed"],
        model,
        **built,
    )
    inputs = [*source.prompts, *source.activations, *source.built, *([source.model] if trained else [])]
    made = describe(
        snakemake.output[0],
        "directions",
        run=p.run,
        inputs=inputs,
        settings={**p.settings, "threads": p.threads},
        packages=("numpy", "torch", "scikit-learn"),
    )
    write_directions(snakemake.output[0], found, made)
    log.info("%s: %d directions", w.method, len(found))
