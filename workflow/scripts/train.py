"""The world's model, trained on its corpus and saved as an ordinary Hugging Face directory."""

from _job import job

with job(snakemake) as log:
    import numpy as np

    from bearings.store.tables import read_table
    from bearings.world.corpus import Rows
    from bearings.world.train import TrainSettings, train

    table = read_table(snakemake.input.rows, "corpus")
    split = np.array(table["split"].to_pylist())
    ids, weights = (np.stack(table[name].to_numpy()) for name in ("ids", "weights"))

    def part(*names):
        chosen = np.isin(split, names)
        return Rows(
            ids[chosen].astype(np.int64),
            weights[chosen].astype(np.float32),
            int((split[chosen] == "opening").sum()),
        )

    train(
        TrainSettings.from_dict(snakemake.params.world["training"]),
        part("opening", "train"),
        part("held_out"),
        snakemake.input.tokenizer,
        snakemake.output.model,
        snakemake.params.run["seed"],
        snakemake.params.threads,
        log,
    )
