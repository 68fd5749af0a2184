"""The world's reviews, in the columns of the treebank's table."""

from _job import job

with job(snakemake) as log:
    from bearings.world.corpus import write_reviews

    sizes = snakemake.params.sizes
    write_reviews(
        snakemake.output[0], sizes["train"], sizes["dev"], sizes["test"], snakemake.params.run["seed"]
    )
    log.info("%s reviews", sizes)
