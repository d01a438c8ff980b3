"""Push services to try the hub with, one command each."""
