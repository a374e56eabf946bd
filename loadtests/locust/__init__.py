"""Load tests with locust: a test of the sample application, and an overload with a spike of users."""
