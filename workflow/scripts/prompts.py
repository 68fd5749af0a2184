"""One set of a study's prompts, for one model's tokenizer."""

import importlib
from pathlib import Path

from _job import job

with job(snakemake) as log:
    from bearings.stages.prompts import Encoder
    from bearings.store.provenance import describe
    from bearings.store.tables import write_table

    w, p = snakemake.wildcards, snakemake.params
    study = importlib.import_module(f"bearings.studies.{w.study}.prompts")
    data = dict(zip(p.data, map(Path, snakemake.input.data), strict=True))
    table = study.prompts(w.set, data, p.settings, Encoder(snakemake.input.model))
    inputs = [snakemake.input.model, *snakemake.input.data]
    made = describe(snakemake.output[0], "prompts", run=p.run, inputs=inputs, settings=p.settings)
    write_table(snakemake.output[0], table, made)
    usable = sum(table["usable"].to_pylist())
    log.info("%d prompts, %d usable", table.num_rows, usable)
    for why in sorted({x for x in table["why"].to_pylist() if x})[:20]:
        log.info("not usable: %s", why)
