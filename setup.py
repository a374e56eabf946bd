"""Packaging of intralb_gevent; the tools' own settings are in pyproject.toml, the environments in tox.ini.

Where a C compiler is at hand, the modules that every request passes through are compiled by mypyc from the same Python
source. Without one, or with INTRALB_COMPILE=0, they are installed as the Python that they are: slower, and alike but
for what CONTRIBUTING.md names. An editable installation is never compiled, as what is edited would not be what runs.
"""

import os
import pathlib
import re
import sys

from setuptools import find_packages, setup
from setuptools.command.build_ext import build_ext

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "intralb_gevent/__init__.py").read_text(), re.MULTILINE)[1]

# The way of a request, in its order. Compiled functions have no frames, by which the watchdog finds out whether an
# abort may land (pool/safepoints.py): so pool/slotgreenlet and pool/session must not be among them, and where one of
# these is called by the application, it must not call Python's own code while something is half done.
COMPILED = [
    *("http/connection", "http/shared", "http/parser", "http/outbox"),
    *("pool/balancer", "pool/mounts", "pool/origin", "pool/job", "pool/lane", "pool/line", "pool/workerpool"),
    *("pool/sizing", "pool/worker", "pool/slot", "pool/hubturns", "pool/deadlines", "pool/window"),
    *("pool/forks", "pool/exchange", "pool/bridge"),
    *(
        "policy/routetable",
        "policy/routing",
        "policy/admission",
        "policy/throughput",
        "policy/servicetime",
        "policy/usual",
        "policy/fairness",
    ),
    *("policy/lifecycle", "policy/priority", "policy/answers", "policy/pace", "observe/stats"),
    *("http/response", "http/filewrapper", "http/framing", "stdlib"),
]

WITHOUT = "intralb_gevent is installed without compiled modules, which is slower: {}"


class BuildIfPossible(build_ext):
    """Compiles all modules or none: half of them would not fit the other half."""

    def run(self):
        """Compile; say why if that fails, and go on without."""
        self.remove_built()
        try:
            super().run()
        except Exception as error:
            print(WITHOUT.format(error), file=sys.stderr)
            self.remove_built()
            self.extensions = []

    def remove_built(self):
        """Remove what an earlier build has left, for it may be of another version."""
        for module in pathlib.Path(self.build_lib).rglob("*.so"):
            module.unlink()


def compiled_modules():
    """Return the extensions to build, none where there should not be any."""
    if os.environ.get("INTRALB_COMPILE") == "0" or not {"bdist_wheel", "build_ext"} & set(sys.argv):
        return []
    # What is installed beside must not change the outcome; the types of other packages are not needed.
    flags = ["--config-file=", "--no-site-packages", "--ignore-missing-imports", "--follow-imports=silent"]
    files = [f"intralb_gevent/{name}.py" for name in COMPILED]
    try:
        from mypyc.build import mypycify

        modules = mypycify([*flags, *files], opt_level="2", group_name="intralb_gevent")
    except (ImportError, SystemExit) as error:
        # It exits where it does not understand the source.
        print(WITHOUT.format(error), file=sys.stderr)
        return []
    for module in modules:
        # Another compiler may warn of something.
        module.extra_compile_args = [flag for flag in module.extra_compile_args if flag != "-Werror"]
    return modules


setup(
    name="intralb-gevent",
    version=VERSION,
    description="An intra-process load balancer for legacy WSGI applications on gevent",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="MIT",
    packages=find_packages(include=["intralb_gevent", "intralb_gevent.*"]),
    package_data={"intralb_gevent": ["py.typed", "demo/static/*"]},
    ext_modules=compiled_modules(),
    cmdclass={"build_ext": BuildIfPossible},
    python_requires=">=3.10",
    install_requires=[
        "gevent>=24.2.1",
        "greenlet>=3.0",
        # Earlier ones take what docs/http.md promises to refuse: bare line feeds, chunk data with another end, folds.
        "httptools>=0.6.3",
        'tomli>=2; python_version < "3.11"',
    ],
    entry_points={"console_scripts": ["intralb-gevent = intralb_gevent.__main__:main"]},
    classifiers=[
        "License :: OSI Approved :: MIT License",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Internet :: WWW/HTTP :: WSGI :: Server",
        "Typing :: Typed",
    ],
)
