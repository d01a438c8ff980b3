"""Signed webhooks, in both directions: the grid push, and any system of the user's own."""
