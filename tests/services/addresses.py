"""Default addresses of the servers that the tests of this directory need; environment variables can override them."""

import os

DEFAULTS = {
    "INTRALB_TEST_POSTGRESQL": "postgresql://postgres@127.0.0.1:5432/test",
    "INTRALB_TEST_MARIADB": "mysql://root@127.0.0.1:3306/test",
    "INTRALB_TEST_REDIS": "redis://127.0.0.1:6379/0",
}

# Set the addresses in the environment, so that all child processes use the same ones.
for name, default in DEFAULTS.items():
    os.environ.setdefault(name, default)
