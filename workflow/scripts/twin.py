"""The untrained twin of a model: its architecture and tokenizer, random weights. The negative control."""

from _job import job

with job(snakemake) as log:
    from bearings.world.train import untrained_twin

    untrained_twin(snakemake.input[0], snakemake.output[0], snakemake.params.run["seed"])
    log.info("twin of %s", snakemake.input[0])
