"""Images on this machine: OCI layouts, archives, and the Docker Engine."""
