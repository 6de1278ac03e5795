"""Where prompts come from, and when a response to one is right."""
