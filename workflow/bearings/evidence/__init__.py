"""Evidence: outcomes become estimates with intervals, estimates become verdicts and figures."""
