"""Language models: a Hugging Face directory comes in, residual streams, logits and edited runs go out."""
