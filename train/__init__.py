"""How policies, and the bundled denoiser, learn."""
