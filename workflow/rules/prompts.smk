# Texts become token ids with named positions, for one model's tokenizer.
rule prompts:
    input:
        model=model_directory,
        data=study_data,
    output:
        f"{ROOT}/prompts/{{model}}/{{study}}/{{set}}.parquet",
    log:
        f"logs/{ROOT}/prompts/{{model}}/{{study}}/{{set}}.log",
    benchmark:
        f"benchmarks/{ROOT}/prompts/{{model}}/{{study}}/{{set}}.tsv"
    conda:
        "../../envs/bearings.yaml"
    params:
        source=study_digest("prompts"),
        run=RUN,
        data=data_names,
        settings=settings("prompts"),
    script:
        "../scripts/prompts.py"
