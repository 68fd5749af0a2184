"""What every study does alike: texts to prompts with named positions, prompts to dumps, and reading it all back."""
