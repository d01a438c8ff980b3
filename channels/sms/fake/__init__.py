"""Simulators a user can run without a contract with a carrier."""
