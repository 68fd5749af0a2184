# One method, all layers, from the dumped activations (and the model, where the method trains through it).
rule directions:
    input:
        model=model_directory,
        knows=knows,
        prompts=of_study("prompts", "sets", ".parquet"),
        activations=of_study("activations", "dumps", ".parquet"),
        built=built_on,
    output:
        f"{ROOT}/directions/{{model}}/{{study}}/{{method}}.safetensors",
    log:
        f"logs/{ROOT}/directions/{{model}}/{{study}}/{{method}}.log",
    benchmark:
        f"benchmarks/{ROOT}/directions/{{model}}/{{study}}/{{method}}.tsv"
    conda:
        "../../envs/bearings.yaml"
    resources:
        mem_mb=1200,
    params:
        source=study_digest("fit"),
        run=RUN,
        settings=settings("fit"),
        processing=processing,
        threads=PLAN.threads,
    script:
        "../scripts/directions.py"


# Sparse autoencoders of one kind, in sae-lens's format: trained from the dumps, or released ones, pinned and verified.
rule saes:
    input:
        model=model_directory,
        knows=knows,
        prompts=of_study("prompts", "sets", ".parquet"),
        activations=of_study("activations", "dumps", ".parquet"),
    output:
        directory(f"{ROOT}/saes/{{model}}/{{study}}/{{kind}}"),
    log:
        f"logs/{ROOT}/saes/{{model}}/{{study}}/{{kind}}.log",
    benchmark:
        f"benchmarks/{ROOT}/saes/{{model}}/{{study}}/{{kind}}.tsv"
    conda:
        "../../envs/bearings.yaml"
    resources:
        mem_mb=2000,
    params:
        source=study_digest("saes"),
        run=RUN,
        settings=settings("saes"),
        processing=processing,
        threads=PLAN.threads,
    script:
        "../scripts/saes.py"
