"""Virtual actors: pure state machines, the turn that commits them, and the thin Ray shells that host them."""
