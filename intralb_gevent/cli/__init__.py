"""The command line `intralb-gevent`: `serve`, `demo` and `check`."""
