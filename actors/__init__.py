"""Virtual actors: pure state machines, their turn, and the thin Ray shells that host them."""
