"""Packaging of intralb_gevent; the tools' own settings are in pyproject.toml, the environments in tox.ini."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "intralb_gevent/__init__.py").read_text(), re.MULTILINE)[1]

setup(
    name="intralb-gevent",
    version=VERSION,
    description="An intra-process load balancer for legacy WSGI applications on gevent",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="MIT",
    packages=find_packages(include=["intralb_gevent", "intralb_gevent.*"]),
    package_data={"intralb_gevent": ["py.typed", "demo/static/*"]},
    python_requires=">=3.10",
    install_requires=[
        "gevent>=24.2.1",
        "greenlet>=3.0",
        "httptools>=0.6.1",
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
