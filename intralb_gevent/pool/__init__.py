"""The gevent side of the balancer: it owns the greenlets, queues and timers, and alone changes their state."""
