import sys

from bucketry.cli import main

sys.exit(main())
