"""The long tests that the nightly job runs: `python -m loadtests.storm`, `loadtests.soak` and `loadtests.smuggling`."""
