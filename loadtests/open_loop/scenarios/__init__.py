"""The scenarios of the overload benchmark: what happens in time, with goals of their own."""
