"""What a model of the world has learnt, family by family; stops the run if a study could not be done on it."""

from dataclasses import asdict

from _job import job

with job(snakemake) as log:
    import torch

    from bearings.store.documents import write_json
    from bearings.store.provenance import describe
    from bearings.world.knows import measure, require

    p, source = snakemake.params, snakemake.input
    torch.set_num_threads(p.threads)
    table = measure(source.model, p.world["corpus"]["mixture"])
    for name, score in table.items():
        log.info("%-24s %.3f (n = %d)", name, score.accuracy, score.n)
    require(table, p.world["require"])
    settings = {"mixture": p.world["corpus"]["mixture"], "require": p.world["require"]}
    made = describe(snakemake.output[0], "knows", run=p.run, inputs=[source.model], settings=settings)
    write_json(snakemake.output[0], {name: asdict(score) for name, score in table.items()}, made)
