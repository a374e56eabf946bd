"""The command line `intralb-gevent`: `serve`, `demo`, `check`, `migrate`, `top` and `completion`."""
