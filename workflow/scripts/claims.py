"""All verdicts that lie under results/, of every scale and seed, in one table: for programs and for people."""

from datetime import UTC, datetime

from _job import job

with job(snakemake) as log:
    from bearings.evidence.claims import load_claims
    from bearings.evidence.merge import merge
    from bearings.evidence.table import page, summary, table
    from bearings.store.atomic import write_text
    from bearings.store.documents import read_json, render

    studies = [load_claims(path) for path in snakemake.input.claims]
    records = [read_json(path, "verdicts") for path in snakemake.input.records]
    body = merge(records, studies, generated=datetime.now(UTC).isoformat(timespec="seconds"))
    text = table(body)
    write_text(snakemake.output.json, render(body, sort_keys=False))
    write_text(snakemake.output.table, text)
    write_text(snakemake.output.page, page(text))
    log.info("%s", summary(body))
