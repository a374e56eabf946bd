"""What can be seen of a balancer: counters, pictures of it, and the pages that show them. Changes nothing."""
