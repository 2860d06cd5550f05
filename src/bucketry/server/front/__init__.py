"""TLS in front of the workers, in processes of its own (docs/rfcs/0007-tls-front.md)."""
