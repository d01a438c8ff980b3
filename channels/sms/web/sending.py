"""Where `channels.sending` was; for those who still import it from here."""

from channels.sending import HttpSender, Outcome

__all__ = ["HttpSender", "Outcome"]
