"""The language models: what one is, the bundled ones, those in Hugging Face's format."""
