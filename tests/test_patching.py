"""Monkey-patching at the start of a server calls gevent's plugins, and does not depend on the installed packages."""

from __future__ import annotations

PLUGIN = {
    "plugin.py": "def patched(event):\n    print('patched', event.module_name)\n",
    "plugin-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n",
    "plugin-1.0.dist-info/entry_points.txt": "[gevent.plugins.monkey.did_patch_module]\nplugin = plugin:patched\n",
}
COUNTING = """
import sys
from importlib import metadata

read_text = metadata.PathDistribution.read_text

def counted(distribution, name):
    if name == "entry_points.txt" and distribution.name == "plugin":
        print("read")
    return read_text(distribution, name)

metadata.PathDistribution.read_text = counted
before = metadata.entry_points
from intralb_gevent.__main__ import main
sys.argv[1:] = ["--version"]
try:
    main()
finally:
    assert metadata.entry_points is before
"""


def test_the_metadata_of_installed_packages_is_read_once_and_plugins_of_gevent_are_called(run_python) -> None:
    process = run_python("-c", COUNTING, files=PLUGIN)
    assert process.ended() == 0, process.said
    printed = process.printed.splitlines()
    assert printed.count("read") == 1
    assert {"patched socket", "patched threading", "patched time"} <= {*printed}
