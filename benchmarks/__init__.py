"""Measurements: one command each; results and method in README.md."""
