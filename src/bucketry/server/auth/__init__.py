"""Who sends a request: tokens, passwords, the keys they are checked by, and how fast anybody may try."""
