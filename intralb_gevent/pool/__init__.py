"""The gevent side of the balancer: its greenlets, queues and timers."""
