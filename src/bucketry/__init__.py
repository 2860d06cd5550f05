"""bucketry: an OCI container registry whose only state is an S3 bucket or a local folder."""

__version__ = "0.1.0.dev0"
