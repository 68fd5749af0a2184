"""The world's data, in the formats of the papers' own: reviews as the treebank's table, relations as JSON files."""

from _job import job

with job(snakemake) as log:
    from bearings.world.corpus import write_reviews
    from bearings.world.facts import write_relations

    sizes = snakemake.params.sizes
    write_reviews(
        snakemake.output.reviews, sizes["train"], sizes["dev"], sizes["test"], snakemake.params.run["seed"]
    )
    write_relations(snakemake.output.relations)
    log.info("%s reviews", sizes)
