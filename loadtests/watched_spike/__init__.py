"""An overload as a person would watch it: locust's users in a spike, and what the server says of itself meanwhile."""
