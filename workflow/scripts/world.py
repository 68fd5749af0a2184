"""The world's data in the formats of the papers' own: a table of reviews, relations, questions, running text."""

from pathlib import Path

from _job import job

with job(snakemake) as log:
    from bearings.world.corpus import write_reviews
    from bearings.world.facts import write_relations
    from bearings.world.observables import write_people
    from bearings.world.texts import write_texts

    sizes, texts = snakemake.params.sizes, snakemake.params.texts
    write_reviews(
        snakemake.output.reviews, sizes["train"], sizes["dev"], sizes["test"], snakemake.params.run["seed"]
    )
    write_relations(snakemake.output.relations)
    write_people(Path(snakemake.output.people[0]).parent, snakemake.params.run["seed"])
    write_texts(snakemake.output.texts, texts["mixture"], texts["documents"], snakemake.params.run["seed"])
    log.info("%s reviews, %d documents of running text", sizes, texts["documents"])
