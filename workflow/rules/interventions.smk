# One experiment on one model: an outcome per prompt and condition.
rule interventions:
    input:
        model=model_directory,
        knows=knows,
        prompts=of_study("prompts", "sets", ".parquet"),
        activations=of_study("activations", "dumps", ".parquet"),
        directions=of_study("directions", "methods", ".safetensors"),
        saes=of_study("saes", "saes"),
    output:
        f"{ROOT}/interventions/{{model}}/{{study}}/{{experiment}}.parquet",
    log:
        f"logs/{ROOT}/interventions/{{model}}/{{study}}/{{experiment}}.log",
    benchmark:
        f"benchmarks/{ROOT}/interventions/{{model}}/{{study}}/{{experiment}}.tsv"
    conda:
        "../../envs/bearings.yaml"
    resources:
        mem_mb=1200,
    params:
        source=study_digest("intervene"),
        run=RUN,
        settings=settings("interventions"),
        processing=processing,
        threads=PLAN.threads,
    script:
        "../scripts/interventions.py"
