"""SMS: text made ready for it, and the protocols it leaves by."""
