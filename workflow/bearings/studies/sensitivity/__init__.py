"""Lee & Heimersheim 2024, "Investigating Sensitive Directions in GPT-2" (arXiv 2410.12555)."""
