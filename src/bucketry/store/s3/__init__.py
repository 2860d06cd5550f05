"""Objects in a bucket of S3, or of a store that speaks its protocol: a thin client of its own.

- ``config``: what may be set, and the ``s3://`` URLs that set it
- ``endpoint``: which host is asked, for which path, in which region
- ``credentials``: found and refreshed by botocore, off the event loop
- ``signing``: Signature Version 4
- ``transport``: aiohttp: connections, bodies without copies, no hidden retries
- ``errors``: what an answer means, in the contract's errors
- ``client``: one operation: sign, send, judge, report, retry
- ``xml``: the documents of the protocol
- ``bucket``: the requests to objects that a store and a site make alike
- ``store``: the contract of a store
- ``site``: the contract of a site
"""

from bucketry.store.s3.config import S3Settings
from bucketry.store.s3.store import S3Store

__all__ = ["S3Settings", "S3Store"]
