"""The residual stream of one prompt set at named positions, every layer, in streaming row groups."""

from _job import job

with job(snakemake) as log:
    from bearings.lm.load import load_model
    from bearings.stages.dumps import dump, dump_schema
    from bearings.stages.prompts import from_table
    from bearings.store.provenance import describe
    from bearings.store.tables import TableWriter, read_table

    p, source = snakemake.params, snakemake.input
    prompts = [x for x in from_table(read_table(source.prompts, "prompts")) if x.usable]
    layers = None if p.layers == "all" else p.layers
    model = load_model(source.model, processing=p.processing, threads=p.threads)
    made = describe(
        snakemake.output[0],
        "activations",
        run=p.run,
        inputs=[source.model, source.prompts],
        settings={
            "positions": p.positions,
            "predict": p.predict,
            "layers": p.layers,
            "processing": p.processing,
            "threads": p.threads,
        },
        packages=("numpy", "pyarrow", "torch", "transformers", "transformer-lens"),
    )
    schema = dump_schema(model.n_layers, model.info.d_model, p.predict, layers)
    with TableWriter(snakemake.output[0], schema, made) as writer:
        for table in dump(model, prompts, p.positions, p.max_tokens, p.predict, layers):
            writer.write(table)
    log.info("%d prompts, positions %s", len(prompts), ", ".join(p.positions))
