"""The composition root: commands, processes, HTTP. May import actors and Ray."""
