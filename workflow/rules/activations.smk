# The residual stream at named positions, every layer, written in row groups.
rule activations:
    input:
        model=model_directory,
        knows=knows,
        prompts=f"{ROOT}/prompts/{{model}}/{{study}}/{{set}}.parquet",
    output:
        f"{ROOT}/activations/{{model}}/{{study}}/{{set}}.parquet",
    log:
        f"logs/{ROOT}/activations/{{model}}/{{study}}/{{set}}.log",
    benchmark:
        f"benchmarks/{ROOT}/activations/{{model}}/{{study}}/{{set}}.tsv"
    conda:
        "../../envs/bearings.yaml"
    resources:
        mem_mb=1200,
    params:
        source=digest("activations"),
        run=RUN,
        positions=dump_positions,
        layers=dump_layers,
        predict=dump_predicts,
        max_tokens=max_tokens,
        processing=processing,
        threads=PLAN.threads,
    script:
        "../scripts/activations.py"
