"""An overload to watch: `python -m loadtests.overload_locust` does all of it and writes a report.

It is a locust file too: `locust -f loadtests/overload_locust.py --host http://127.0.0.1:8000`, for locust's own pages.
Decides nothing but how it is found; the rest is in watched_spike/.
"""

import pathlib
import sys

# Started by its path, it would not find the package that it is in.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    # Without locust, which patches the process that imports it.
    from loadtests.watched_spike.run import main

    sys.exit(main())
else:
    from loadtests.watched_spike.locustfile import Critical, Sheddable, Spike, Unmarked

    __all__ = ["Critical", "Sheddable", "Spike", "Unmarked"]
