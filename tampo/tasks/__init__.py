"""Problem sets, prompts and rewards."""
