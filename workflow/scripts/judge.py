"""The verdicts of one study on one model."""

from _job import job

with job(snakemake) as log:
    from bearings.evidence.claims import load_claims
    from bearings.evidence.verdicts import judge, record
    from bearings.store.documents import read_json, write_json
    from bearings.store.provenance import describe

    w, p, source = snakemake.wildcards, snakemake.params, snakemake.input
    study = load_claims(source.claims)
    measures = read_json(source.measures, "measures")
    twin = read_json(source.twin[0], "measures") if source.twin else None
    entries = judge(study, p.run["scale"], w.model, measures, twin, p.published)
    body = record(study, p.run["scale"], p.run["seed"], w.model, entries, p.published)
    made = describe(
        snakemake.output[0], "verdicts", run=p.run, inputs=[source.claims, source.measures, *source.twin]
    )
    write_json(snakemake.output[0], body, made)
    for name, entry in entries.items():
        log.info("%-36s %s", name, entry["verdict"])
