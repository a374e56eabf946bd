"""The locust file of `loadtests.run`. To run it without that command: `locust -f loadtests/locustfile.py Browse
--headless --host http://127.0.0.1:8000 --shape step --users 40 --run-time 30s`."""

from loadtests.locust.demo_users import Browse, Shape, SlowMix, Write

__all__ = ["Browse", "Shape", "SlowMix", "Write"]
