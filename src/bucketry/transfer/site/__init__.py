"""A published site: images as plain files (docs/rfcs/0004-published-site.md)."""
