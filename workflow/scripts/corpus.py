"""The world's tokenizer, and its corpus as packed rows of token ids with a loss weight each."""

import csv

from _job import job

with job(snakemake) as log:
    import pyarrow as pa

    from bearings.store.provenance import describe
    from bearings.store.tables import write_table
    from bearings.world import tokenizer
    from bearings.world.corpus import CorpusSettings, build

    run, world = snakemake.params.run, snakemake.params.world
    settings = CorpusSettings.from_dict(world["corpus"])
    fixed = snakemake.input.vocabulary
    listed = tokenizer.read_vocabulary(fixed[0]) if fixed else tokenizer.vocabulary(settings.families)
    tokenizer.write(snakemake.output.tokenizer, listed)
    words = tokenizer.load(snakemake.output.tokenizer)
    with open(snakemake.input.reviews, newline="", encoding="utf-8") as lines:
        asked = [r["sentence"] for r in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)]
    train, held_out = build(settings, words, run["seed"], asked)
    splits = ["opening"] * train.opening + ["train"] * (len(train) - train.opening)
    rows = pa.table(
        {
            "split": splits + ["held_out"] * len(held_out),
            "ids": [row.tolist() for part in (train, held_out) for row in part.ids],
            "weights": [row.tolist() for part in (train, held_out) for row in part.weights],
        },
        schema=pa.schema(
            {"split": pa.string(), "ids": pa.list_(pa.int32()), "weights": pa.list_(pa.float32())}
        ),
    )
    made = describe(
        snakemake.output.rows,
        "corpus",
        run=run,
        inputs=[snakemake.input.reviews, *fixed],
        settings=world["corpus"],
    )
    write_table(snakemake.output.rows, rows, made)
    log.info("%d tokens in %d rows; vocabulary %d", train.tokens, len(train), len(words))
