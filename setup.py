"""Packaging of intralb_gevent; tools are configured in pyproject.toml, test environments in tox.ini.

If there is a C compiler, mypyc compiles the modules that every request passes through, from the same Python source.
Without one, or with INTRALB_COMPILE=0, they are installed as plain Python: slower, with the differences that
CONTRIBUTING.md lists. With INTRALB_COMPILE=require, a failed compilation is an error, as for releases. An editable
installation is never compiled, because edits would have no effect.
"""

import os
import pathlib
import re
import sys
from concurrent.futures import ThreadPoolExecutor

from setuptools import find_packages, setup
from setuptools.command.build_ext import build_ext

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "intralb_gevent/__init__.py").read_text(), re.MULTILINE)[1]

# In the order of a request. Compiled functions have no Python frame, and the watchdog needs frames to find out whether
# an abort is safe (aborts/safepoints.py). So aborts/slotgreenlet and pool/session must stay uncompiled, and a compiled
# function that the application calls must not call Python code while its own work is half done.
COMPILED = [
    *("http/connection", "http/context", "http/input", "http/keptrequest", "http/output", "http/outbox"),
    *("http/lifetime", "http/owner", "http/peer"),
    *("http/parser", "http/requesthead", "http/request", "http/body", "http/behindhead"),
    *(
        "pool/intake",
        "pool/mounts",
        "pool/classify",
        "pool/job",
        "pool/context",
        "pool/requestid",
        "pool/runtime",
        "pool/lane",
        "pool/admissioncontrol",
        "pool/queueorder",
        "pool/workerpool",
        "pool/longwaits",
    ),
    *(
        "pool/scaling",
        "pool/worker",
        "pool/abortable",
        "pool/slot",
        "hub/dispatch",
        "hub/deadlinetimer",
        "pool/limitwindow",
    ),
    *("hub/forks", "pool/exchange", "pool/channel", "pool/bridge"),
    *(
        "policy/routetable",
        "policy/routing",
        "policy/admission",
        "policy/throughput",
        "policy/servicetime",
        "policy/usual",
        "policy/fairness",
    ),
    *(
        "policy/lifecycle",
        "policy/connectionstate",
        "policy/priority",
        "policy/cannedresponses",
        "policy/pace",
        "observe/stats",
    ),
    *("http/response", "http/takeover", "http/filewrapper", "http/responsehead", "stdlib"),
]

SKIPPED_PASSES = ("no-tree-dominator-opts", "no-tree-fre", "no-tree-pta", "no-forward-propagate", "no-dse")
"""Switches off optimizations of GCC that take a third of its time and make no request faster."""

COMPILE = os.environ.get("INTRALB_COMPILE")


def go_on_without(error):
    """Report why modules are not compiled, or raise the error if INTRALB_COMPILE requires them."""
    if COMPILE == "require":
        raise RuntimeError(f"INTRALB_COMPILE=require, but the modules cannot be compiled: {error}") from error
    print(f"intralb_gevent is installed without compiled modules, which is slower: {error}", file=sys.stderr)


class BuildIfPossible(build_ext):
    """Compiles all modules or none, because compiled and uncompiled ones do not work together."""

    def run(self):
        """Compile; on failure report why, and install without compiled modules."""
        self.remove_built()
        try:
            super().run()
        except Exception as error:
            self.remove_built()
            go_on_without(error)
            self.extensions = []

    def build_extensions(self):
        """Compile the C files and the extensions on all processors.

        mypyc puts all functions into one library, and makes a small extension for each module, which imports that
        library. Compiling an extension takes much longer than copying it, so the extensions of modules with different
        names are compiled as one extension, which is copied for each of these modules.
        """
        extensions = self.extensions
        (library,) = [each for each in extensions if len(each.sources) > 1]
        library.sources = [joined(f"functions{n}.c", part) for n, part in enumerate(in_parts(library.sources))]
        groups = with_different_names([each for each in extensions if each is not library])
        for number, group in enumerate(groups):
            group[0].sources = [joined(f"modules{number}.c", [source for each in group for source in each.sources])]
        self.compile_in_parallel()
        self.extensions = [library, *(group[0] for group in groups)]
        super().build_extensions()
        self.extensions = extensions
        for first, *others in groups:
            for copy in map(self.get_ext_fullpath, [each.name for each in others]):
                self.mkpath(os.path.dirname(copy))
                self.copy_file(self.get_ext_fullpath(first.name), copy)

    def compile_in_parallel(self):
        """Let the compiler compile several C files, and several extensions, at the same time."""
        compile_in_order = self.compiler.compile

        def compile_all(sources, **options):
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                objects = pool.map(lambda source: compile_in_order([source], **options), sources)
                return [file for files in objects for file in files]

        self.compiler.compile = compile_all
        self.parallel = True

    def remove_built(self):
        """Remove the output of an earlier build, which may be of another version."""
        for module in pathlib.Path(self.build_lib).rglob("*.so"):
            module.unlink()


def joined(name, sources):
    """Write a C file that includes other C files, and return its path."""
    lines = [f'#pragma GCC optimize("{",".join(SKIPPED_PASSES)}")']
    for number, source in enumerate(sources):
        # Each extension of mypyc defines this function, for another platform's sake.
        lines += ["#undef PyInit___init__", f"#define PyInit___init__ PyInit___init__{number}"]
        lines += [f'#include "{pathlib.Path(source).resolve()}"']
    file = pathlib.Path("build", name)
    file.write_text("\n".join(lines) + "\n")
    return str(file)


def in_parts(sources):
    """Return the C files in groups, because the compiler reads the headers again for each file that it compiles.

    The groups have about the same size, and there are two for each processor, so that all processors are busy.
    """
    parts = [[] for _ in range(min(2 * (os.cpu_count() or 1), len(sources)))]
    sizes = {source: pathlib.Path(source).stat().st_size for source in sources}
    for source in sorted(sources, key=sizes.get, reverse=True):
        min(parts, key=lambda part: sum(map(sizes.get, part))).append(source)
    return parts


def with_different_names(extensions):
    """Return the extensions in groups; within a group, the last parts of the modules' names differ."""
    groups = []
    for extension in extensions:
        name = extension.name.rpartition(".")[2]
        group = next((group for group in groups if name not in group), None)
        if group is None:
            groups.append(group := {})
        group[name] = extension
    return [list(group.values()) for group in groups]


def compiled_modules():
    """Return the extensions to build, or an empty list if none should be compiled."""
    if COMPILE == "0" or not {"bdist_wheel", "build_ext"} & set(sys.argv):
        return []
    # Other installed packages must not affect the result, and their types are not needed.
    flags = ["--config-file=", "--no-site-packages", "--ignore-missing-imports", "--follow-imports=silent"]
    flags.append("--cache-dir=/dev/null")
    files = [f"intralb_gevent/{name}.py" for name in COMPILED]
    try:
        from mypyc.build import mypycify

        # One C file for each module, so that they can be compiled in parts. A level above 1 takes longer and makes no
        # request faster.
        modules = mypycify(
            [*flags, *files], opt_level="1", debug_level="0", multi_file=True, group_name="intralb_gevent"
        )
    except (ImportError, SystemExit) as error:
        # mypyc exits if it cannot compile the source.
        go_on_without(error)
        return []
    for module in modules:
        # Searching for warnings takes time, and another compiler may find others.
        module.extra_compile_args = [*(flag for flag in module.extra_compile_args if flag != "-Werror"), "-w"]
    return modules


def project_urls():
    """Return the addresses of the project, which are known where GitHub builds a release."""
    repository = os.environ.get("GITHUB_REPOSITORY")
    if not repository:
        return {}
    home = f"{os.environ.get('GITHUB_SERVER_URL', 'https://github.com')}/{repository}"
    return {
        "Homepage": home,
        "Documentation": f"{home}/tree/main/docs",
        "Changelog": f"{home}/blob/main/CHANGELOG.md",
        "Issues": f"{home}/issues",
        "Security": f"{home}/blob/main/SECURITY.md",
    }


def description(urls):
    """Return the README. With the project's address, links to its files lead there."""
    text = (HERE / "README.md").read_text()
    if not urls:
        return text
    text = re.sub(r"!\[([^]]*)\]\((?!https?:)([^)]*)\)", rf"![\1]({urls['Homepage']}/raw/main/\2)", text)
    return re.sub(r"(?<!!)\[([^]]*)\]\((?!https?:|#)([^)]*)\)", rf"[\1]({urls['Homepage']}/blob/main/\2)", text)


URLS = project_urls()

setup(
    name="intralb-gevent",
    version=VERSION,
    description="An intra-process load balancer for legacy WSGI applications on gevent",
    long_description=description(URLS),
    long_description_content_type="text/markdown",
    project_urls=URLS,
    license="MIT",
    license_files=["LICENSE"],
    packages=find_packages(include=["intralb_gevent", "intralb_gevent.*"]),
    package_data={"intralb_gevent": ["py.typed", "demo/static/*", "observe/page.html"]},
    ext_modules=compiled_modules(),
    cmdclass={"build_ext": BuildIfPossible},
    python_requires=">=3.11",
    install_requires=[
        "gevent>=24.2.1",
        "greenlet>=3.0",
        # Earlier versions accept what docs/reference/http.md promises to reject: bare LF, chunk data without CRLF,
        # folded headers.
        "httptools>=0.6.3",
    ],
    extras_require={
        "docs": ["sphinx", "furo", "myst-parser", "sphinx-copybutton"],
        "env": ["python-dotenv"],
        "gunicorn": ["gunicorn>=21.2"],
        "loadtests": ["locust", "matplotlib"],
        "otel": ["opentelemetry-exporter-otlp-proto-http"],
        "prometheus": ["prometheus-client"],
        "reload": ["watchfiles"],
    },
    entry_points={
        "console_scripts": ["intralb-gevent = intralb_gevent.__main__:main"],
        "flask.commands": ["intralb = intralb_gevent.flask:command"],
    },
    classifiers=[
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
        "Topic :: Internet :: WWW/HTTP :: WSGI :: Server",
        "Typing :: Typed",
    ],
)
