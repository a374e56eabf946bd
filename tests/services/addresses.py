"""Where the servers are that the tests of this directory need, if the environment does not say otherwise."""

import os

DEFAULTS = {
    "INTRALB_TEST_POSTGRESQL": "postgresql://postgres@127.0.0.1:5432/test",
    "INTRALB_TEST_MARIADB": "mysql://root@127.0.0.1:3306/test",
    "INTRALB_TEST_REDIS": "redis://127.0.0.1:6379/0",
}

# In the environment, so that every process that is started from here finds them at the same places.
for name, default in DEFAULTS.items():
    os.environ.setdefault(name, default)
