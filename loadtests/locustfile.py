"""User stories under load: customers, merchants, partners, operators and processors.

Start a sandbox (`make run`), then tell all of them, or some by their names:

    .venv/bin/locust -f loadtests/locustfile.py --headless -u 30 -r 5 -t 60s
    .venv/bin/locust -f loadtests/locustfile.py --headless -u 10 -r 5 -t 60s Merchant Partner

It reads `sandbox.json` of `OQIM_SANDBOX_FILE`, by default `var/sandbox.json`. Whatever a story does
not expect is a failure, and the exit code says so. Its own ceiling is a few thousand requests a
second: peaks are measured by `oqim bench`, latencies by `oqim drill`.
"""

from stories.merchant import Merchant
from stories.mobile import MobileCustomer
from stories.operator import Operator
from stories.partner import Partner
from stories.processor import Processor

__all__ = ["Merchant", "MobileCustomer", "Operator", "Partner", "Processor"]
