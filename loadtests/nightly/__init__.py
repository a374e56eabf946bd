"""The long tests of the nightly job: `python -m loadtests.storm`, `loadtests.soak` and `loadtests.smuggling`."""
