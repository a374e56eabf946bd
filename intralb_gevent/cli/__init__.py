"""The command line `intralb-gevent`, with the commands `serve`, `demo`, `check`, `migrate`, `top` and `completion`."""
