"""Runs an overload with locust users and writes a report: `python -m loadtests.overload_locust`.

This module is also a locust file, for locust's web interface: `locust -f loadtests/overload_locust.py --host
http://127.0.0.1:8000`.
"""

import sys

if __name__ == "__main__":
    # Import no locust here: importing locust would patch this process.
    from loadtests.locust.spike import main

    sys.exit(main())
else:
    from loadtests.locust.spike_users import Critical, Sheddable, Spike, Unmarked

    __all__ = ["Critical", "Sheddable", "Spike", "Unmarked"]
