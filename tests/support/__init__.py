"""What several test folders share: tools, servers, a proxy, images. Nothing here imports bucketry."""
